"""Logging in to real servers: every usual way, and the words that people see when it fails."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import retl
from retl.connectors import PostgreSQL
from retl.connectors.postgres.connection import PostgresConnection
from retl.connectors.postgres.options import search_path
from retl.connectors.postgres.settings import reading
from retl.model.errors import ConfigError, ConnectionFailed, RetlError
from tests.servers.postgres import PostgresServer
from tests.servers.process import free_port

PASSWORDS = ["plain", "pässwörd-漢字-🗼", "quo'te\"back\\slash %40@:/"]


@contextmanager
def user(server: PostgresServer, password: str) -> Iterator[str]:
    """A user of the test's own."""
    name = f"u_{secrets.token_hex(4)}"
    server.query(f"CREATE ROLE {name} LOGIN PASSWORD '{password.replace(chr(39), chr(39) * 2)}'")
    try:
        yield name
    finally:
        server.query(f"DROP ROLE {name}")


def options(server: PostgresServer, **words: Any) -> PostgreSQL:
    where = {"host": server.host, "port": server.port, "user": server.user, "password": server.password}
    return PostgreSQL(**{**where, "database": "postgres", **words})


async def opened(options: PostgreSQL) -> PostgresConnection:
    return await PostgresConnection.open(options.login("source", reading(search_path("public"), 30, 60)))


async def who(options: PostgreSQL) -> tuple[str, bool]:
    """Who the server takes us for, and whether the line is encrypted by its own account."""
    connection = await opened(options)
    try:
        ((found, encrypted),) = await connection.query(
            "SELECT current_user::text, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        )
        return str(found), bool(encrypted)
    finally:
        await connection.close()


async def refused(options: PostgreSQL, kind: type[RetlError], match: str) -> None:
    with pytest.raises(kind, match=match) as failed:
        await options.source().ping()
    assert "hunter2" not in str(failed.value) and "hunter2" not in repr(failed.value)


@pytest.mark.parametrize("password", PASSWORDS)
async def test_passwords_by_scram(pg: PostgresServer, password: str) -> None:
    with user(pg, password) as name:
        assert (await who(options(pg, user=name, password=password)))[0] == name
        url = pg.as_user(name, password).url()
        assert (await who(PostgreSQL(url)))[0] == name


async def test_a_wrong_password_is_the_users_error_and_not_shown(pg: PostgresServer) -> None:
    await refused(options(pg, password="hunter2"), ConfigError, "refused the login: password authentication failed")
    await refused(options(pg, database="nowhere"), ConfigError, 'database "nowhere" does not exist')


async def test_a_token_is_fetched_anew_for_each_connection(pg: PostgresServer) -> None:
    given: list[str] = []

    def blocking() -> str:
        given.append("blocking")
        return pg.password

    async def soon() -> str:
        await asyncio.sleep(0)
        given.append("async")
        return pg.password

    for call in (blocking, soon):
        door = options(pg, password=call)
        for _ in range(2):
            await who(door)
    assert given == ["blocking"] * 2 + ["async"] * 2


async def test_a_secret_is_read_when_it_is_needed(pg: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    door = options(pg, password=retl.env("PG_TEST_PASSWORD"))
    monkeypatch.setenv("PG_TEST_PASSWORD", pg.password)
    assert (await who(door))[0] == pg.user


async def test_pgpass_service_files_and_sockets(
    pg: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, services = tmp_path / "pgpass", tmp_path / "services"
    passes.write_text(f"*:{pg.port}:postgres:{pg.user}:{pg.password}\n")
    passes.chmod(0o600)
    services.write_text(f"[shop]\nhost={pg.host}\nport={pg.port}\nuser={pg.user}\ndbname=postgres\n")
    monkeypatch.setenv("PGPASSFILE", str(passes))
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    assert (await who(PostgreSQL("postgresql://?service=shop")))[0] == pg.user
    assert (await who(PostgreSQL(f"postgresql://{pg.user}@{pg.host}:{pg.port}/postgres")))[0] == pg.user
    by_socket: dict[str, Any] = {"host": str(pg.folder), "port": pg.port, "user": pg.user, "password": pg.password}
    assert (await who(PostgreSQL(database="postgres", **by_socket))) == (pg.user, False)
    by_url = f"postgresql:///postgres?host={pg.folder}&port={pg.port}&user={pg.user}"
    assert (await who(PostgreSQL(by_url, password=pg.password)))[0] == pg.user


async def test_of_several_hosts_the_one_that_is_wanted_is_taken(pg: PostgresServer) -> None:
    dead = f"127.0.0.1:{free_port()}"
    hosts = f"postgresql://{pg.user}@{dead},{pg.host}:{pg.port}/postgres"
    assert (await who(PostgreSQL(hosts, password=pg.password)))[0] == pg.user
    wanted = PostgreSQL(hosts, password=pg.password, target_session_attrs="read-write")
    assert (await who(wanted))[0] == pg.user
    standby = PostgreSQL(hosts, password=pg.password, target_session_attrs="standby")
    await refused(standby, ConnectionFailed, "the connection to")


async def test_nobody_there_is_transient(pg: PostgresServer) -> None:
    await refused(
        PostgreSQL(f"postgresql://a:hunter2@127.0.0.1:{free_port()}/b"), ConnectionFailed, "the connection to"
    )


# TLS ------------------------------------------------------------------------------


async def test_tls_is_used_where_it_is_offered(postgres15_server: PostgresServer) -> None:
    assert (await who(options(postgres15_server)))[1]
    assert not (await who(options(postgres15_server, tls="off")))[1]
    assert (await who(options(postgres15_server, tls="insecure")))[1]


async def test_a_server_is_verified_with_its_name(postgres15_server: PostgresServer) -> None:
    authority = f"{postgres15_server.folder}/ca.pem"
    assert (await who(options(postgres15_server, tls_ca=authority)))[1]
    by_url = f"{postgres15_server.url()}?sslmode=verify-full&sslrootcert={authority}"
    assert (await who(PostgreSQL(by_url)))[1]
    await refused(options(postgres15_server, tls="verify"), ConfigError, "the certificate of .* cannot be verified")
    other = options(postgres15_server, tls_ca=authority, host="127.1")  # the same address under another name
    await refused(other, ConfigError, "the certificate of .* cannot be verified")
    assert (await who(options(postgres15_server, tls_ca=authority, host="127.0.0.1", tls_check_hostname=False)))[1]


async def test_a_server_without_tls_is_refused_where_it_is_demanded(postgres_server: PostgresServer) -> None:
    await refused(options(postgres_server, tls="insecure"), ConfigError, "does not offer TLS")


# What is refused beforehand -----------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({}, "needs an address"),
        ({"url": "mysql://a@b/c"}, "not one of postgres"),
        ({"url": "postgresql://a:p@ss@b/c"}, "not one of postgres"),
        ({"url": "postgresql://a@b:port/c"}, "not one of postgres"),
        # Some versions of Python 3.11 see it sooner.
        ({"url": "postgresql://a@b:1,[::1]:2,c:x/d"}, "not one of postgres|is not an address"),
        ({"url": "postgresql://a@b/c?options=-csearch_path%3Dx"}, "asks for 'options'"),
        ({"url": "postgresql://a@b/c", "tls": "off", "tls_ca": "x"}, "contradict"),
        ({"url": "postgresql://a@b/c", "schema": " "}, "schema is empty"),
    ],
)
def test_options_that_make_no_sense_are_refused(words: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        PostgreSQL(**words).source()


def test_what_clouds_add_to_a_url_is_understood() -> None:
    url = "postgresql://a:b@db.example/c?sslmode=require&channel_binding=require&application_name=x&connect_timeout=5"
    login = PostgreSQL(url).login("source", reading("public", 30, 60))
    assert login.parameters["dsn"] == "postgresql://a:b@db.example/c?sslmode=require"
    assert "not verified" in login.warnings[0]
    assert PostgreSQL("postgresql://a:b@127.0.0.1/c").login("source", reading("public", 30, 60)).warnings == ()


# Sessions -----------------------------------------------------------------------------


async def test_a_server_that_is_gone_is_noticed_by_the_system(pg: PostgresServer) -> None:
    connection = await opened(options(pg))
    channel = connection._driver._transport.get_extra_info("socket")
    assert channel.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert channel.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
    await connection.close()


async def test_a_session_that_keeps_another_setting_is_refused(
    pg: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What stands between has ignored the SET LOCAL.
    monkeypatch.setattr("retl.connectors.postgres.connection._value", lambda name, value: "DEFAULT")
    with pytest.raises(ConfigError, match="keeps DateStyle at 'ISO, MDY'"):
        await opened(options(pg))


async def test_a_cancelled_question_ends_at_the_server(pg: PostgresServer) -> None:
    connection = await opened(options(pg))
    task = asyncio.create_task(connection.query("SELECT 'mine', pg_sleep(60)"))
    sleeping = (
        "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%''mine''%' AND state = 'active' AND pid <> pg_backend_pid()"
    )
    deadline = time.monotonic() + 15
    while not await pg.run(sleeping):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert connection.closed
    assert not await pg.run(sleeping)


async def test_a_statement_that_takes_too_long_is_ended_by_the_server(pg: PostgresServer) -> None:
    login = options(pg).login("source", reading(search_path("public"), 30, 0.2))
    connection = await PostgresConnection.open(login)
    with pytest.raises(ConnectionFailed, match="ended a statement") as failed:
        await connection.query("SELECT pg_sleep(60)")
    assert "statement_timeout" in failed.value.remedy
    await connection.close()
