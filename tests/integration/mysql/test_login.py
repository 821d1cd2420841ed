"""Logging in to real servers: every usual way, and the words that people see when it fails."""

from __future__ import annotations

import asyncio
import gc
import secrets
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from retl.connectors import MySQL
from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.wire import TextWire
from retl.model.errors import ConfigError, ConnectionFailed, RetlError
from retl.testing import collect, table_spec
from tests.servers import mariadb, mysql
from tests.servers.database import Server

PASSWORDS = ["plain", "pässwörd-漢字-🗼", "quo'te\"back\\slash %40@:/"]


@contextmanager
def user(server: Server, password: str, *, host: str = "%", how: str = "IDENTIFIED BY '{}'") -> Iterator[str]:
    """A user of the test's own."""
    name = f"u_{secrets.token_hex(4)}"
    escaped = password.replace("\\", "\\\\").replace("'", "''")
    server.query(f"CREATE USER {name}@'{host}' {how.format(escaped)}")
    try:
        yield name
    finally:
        server.query(f"DROP USER {name}@'{host}'")


def options(server: Server, name: str, password: str, **words: Any) -> MySQL:
    return MySQL(host=server.host, port=server.port, user=name, password=password, **words)


async def who(options: MySQL) -> tuple[str, bool]:
    """Who the server takes us for, and whether the line is encrypted by its own account."""
    connection = await MySQLConnection.open(options.login("source", ()))
    try:
        ((found,),) = await connection.query("SELECT CURRENT_USER()")
        ((_, cipher),) = await connection.query("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        return str(found).split("@")[0], bool(cipher)
    finally:
        await connection.close()


async def refused(options: MySQL, password: str) -> RetlError:
    with pytest.raises(RetlError) as failed:
        await options.source().ping()
    assert password not in str(failed.value) and password not in repr(failed.value)
    assert failed.value.remedy
    return failed.value


@pytest.mark.parametrize("password", PASSWORDS)
async def test_without_tls_at_first_and_again(server: Server, password: str) -> None:
    """On MySQL the first login sends the password under the server's RSA key, the next ones take the fast path."""
    with user(server, password) as name:
        for _ in range(3):
            assert await who(options(server, name, password, tls="off")) == (name, False)
    with user(server, "") as name:
        assert await who(options(server, name, "", tls="off")) == (name, False)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if servers were on other machines."""
    monkeypatch.setattr(TextWire, "local", False)


@pytest.mark.usefixtures("away")
async def test_the_line_is_encrypted_where_the_server_offers_it(server: Server) -> None:
    """And ``check`` says what that is worth."""
    with user(server, "secret-word") as name:
        offers = server.product != "MariaDB"
        assert await who(options(server, name, "secret-word")) == (name, offers)
        for opened in (
            options(server, name, "secret-word").source(),
            options(server, name, "secret-word").target(),
        ):
            (warning,) = (await opened.ping()).warnings
            assert ("is encrypted, but" if offers else "not encrypted") in warning and "verify" in warning
            await opened.aclose()


@pytest.mark.usefixtures("away")
@pytest.mark.parametrize("plugin", ["caching_sha2_password", "sha256_password"])
async def test_no_password_under_a_key_that_whoever_answers_has_named(
    mysql_server: Server, plugin: str, tmp_path: Path
) -> None:
    ((_, key),) = mysql_server.query("SHOW STATUS LIKE 'Caching_sha2_password_rsa_public_key'")
    (tmp_path / "known.pem").write_text(key)
    other = rsa.generate_private_key(65537, 2048).public_key()
    pem = other.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "other.pem").write_bytes(pem)
    with user(mysql_server, "secret-word", how=f"IDENTIFIED WITH {plugin} BY '{{}}'") as name:

        def plain(**words: Any) -> MySQL:
            return options(mysql_server, name, "secret-word", tls="off", **words)

        asked = await refused(plain(), "secret-word")
        assert isinstance(asked, ConfigError) and "server_public_key" in str(asked)
        wrong = await refused(plain(server_public_key=str(tmp_path / "other.pem")), "secret-word")
        assert isinstance(wrong, ConfigError)
        assert await who(plain(server_public_key=str(tmp_path / "known.pem"))) == (name, False)
        none = await refused(plain(server_public_key=str(tmp_path / "none.pem")), "secret-word")
        assert isinstance(none, ConfigError) and "cannot be read" in str(none)


def test_tls_that_is_off_is_not_verified_either() -> None:
    with pytest.raises(ConfigError, match="contradict"):
        MySQL("mysql://me@db/shop", tls="off", tls_ca="ca.pem").source()


@pytest.mark.parametrize("words", ["charset=utf8mb4", "charset=UTF8&autocommit=true", ""])
def test_words_of_other_libraries_that_change_nothing_are_taken(words: str) -> None:
    assert MySQL(f"mysql://me@db:3306/shop?{words}").login("source", ()).database == "shop"


@pytest.mark.parametrize("words", ["charset=latin1", "ssl=true", "x"])
def test_words_that_are_not_understood_are_named(words: str) -> None:
    with pytest.raises(ConfigError, match=f"asks for '{words.split('=')[0]}'"):
        MySQL(f"mysql://me:s3cret@db:3306/shop?{words}").source()


@pytest.mark.parametrize("password", PASSWORDS)
async def test_over_tls_at_first_and_again(mysql_server: Server, password: str) -> None:
    with user(mysql_server, password) as name:
        for _ in range(2):
            assert await who(options(mysql_server, name, password, tls="insecure")) == (name, True)


async def test_a_password_by_sha256_and_by_native(mysql_server: Server, mariadb_server: Server) -> None:
    with user(mariadb_server, PASSWORDS[1], how="IDENTIFIED VIA mysql_native_password USING PASSWORD('{}')") as name:
        assert await who(options(mariadb_server, name, PASSWORDS[1])) == (name, False)
    with user(mysql_server, PASSWORDS[1], how="IDENTIFIED WITH sha256_password BY '{}'") as name:
        assert await who(options(mysql_server, name, PASSWORDS[1], tls="off")) == (name, False)
        assert await who(options(mysql_server, name, PASSWORDS[1], tls="insecure")) == (name, True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and a certificate that it gave to ``db.test``."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    name = ["-subj", "/CN=Test authority"]
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem", *name)
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "db.key", "-out", "db.csr", "-subj", "/CN=db.test")
    (folder / "names").write_text("subjectAltName = DNS:localhost")
    openssl(
        "x509", "-req", "-in", "db.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
        "-extfile", "names", "-out", "db.pem",
    )  # fmt: skip
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    for parent in folder.parents:
        if parent == Path("/tmp"):  # the server runs as nobody
            break
        parent.chmod(parent.stat().st_mode | 0o055)
    return folder


@pytest.fixture(scope="module", params=[mysql, mariadb], ids=["mysql", "mariadb"])
def encrypted(request: pytest.FixtureRequest, authority: Path) -> Iterator[Server]:
    """A server with a certificate for ``localhost``."""
    flags = [
        f"--ssl-{word}={authority}/{file}" for word, file in (("ca", "ca.pem"), ("cert", "db.pem"), ("key", "db.key"))
    ]
    with request.param.started(*flags) as server:
        yield server


async def test_the_servers_certificate_is_checked(encrypted: Server, authority: Path) -> None:
    known = {"tls_ca": str(authority / "ca.pem")}
    with user(encrypted, PASSWORDS[1]) as name:

        def at(host: str, **words: Any) -> MySQL:
            return options(encrypted.at(host, encrypted.port), name, PASSWORDS[1], **words)

        assert await who(at("localhost", **known)) == (name, True)
        assert await who(at("localhost", tls="verify", **known)) == (name, True)
        assert await who(at("127.0.0.1", tls_check_hostname=False, **known)) == (name, True)
        assert await who(at("127.0.0.1", tls="insecure")) == (name, True)

        mismatch = await refused(at("127.0.0.1", **known), PASSWORDS[1])
        assert isinstance(mismatch, ConfigError)
        assert f"127.0.0.1:{encrypted.port}" in str(mismatch) and "not valid for '127.0.0.1'" in str(mismatch)
        unknown = await refused(at("localhost", tls="verify"), PASSWORDS[1])
        assert isinstance(unknown, ConfigError) and "cannot be verified" in str(unknown) and "tls_ca" in str(unknown)


async def test_a_server_without_tls_gets_no_password(mariadb_server: Server) -> None:
    with user(mariadb_server, "secret-word") as name:
        error = await refused(options(mariadb_server, name, "secret-word", tls="insecure"), "secret-word")
    assert isinstance(error, ConfigError) and "does not offer TLS" in str(error)


async def test_what_people_see_when_a_login_fails(server: Server) -> None:
    place = f"{server.host}:{server.port}"
    with user(server, "right-word") as name:
        wrong = await refused(options(server, name, "wrong-word"), "wrong-word")
        assert isinstance(wrong, ConfigError)
        assert place in str(wrong) and name in str(wrong) and "check user, password" in str(wrong)

        nobody = await refused(options(server, "nobody_at_all", "wrong-word"), "wrong-word")
        assert isinstance(nobody, ConfigError) and "nobody_at_all" in str(nobody)

        server.query(f"GRANT SELECT ON *.* TO {name}@'%'")
        nowhere = await refused(options(server, name, "right-word", database="no_such_database"), "right-word")
        assert isinstance(nowhere, ConfigError)
        assert place in str(nowhere) and "no_such_database" in str(nowhere) and "create the database" in str(nowhere)

        server.query(f"ALTER USER {name}@'%' ACCOUNT LOCK")
        locked = await refused(options(server, name, "right-word"), "right-word")
        assert isinstance(locked, ConfigError) and "locked" in str(locked)

    away = await refused(MySQL(host="no-such-host.invalid", user="me", password="right-word"), "right-word")
    assert isinstance(away, ConnectionFailed) and "no-such-host.invalid:3306" in str(away)
    shut = await refused(MySQL(host="127.0.0.1", port=1, user="me", password="right-word"), "right-word")
    assert isinstance(shut, ConnectionFailed) and "127.0.0.1:1" in str(shut) and "refused" in str(shut)


async def test_a_limit_of_connections_names_what_to_raise(server: Server) -> None:
    with user(server, "pw") as name:
        server.query(f"ALTER USER '{name}'@'%' WITH MAX_USER_CONNECTIONS 1")
        one = await MySQLConnection.open(options(server, name, "pw").login("source", ()))
        try:
            with pytest.raises(ConnectionFailed, match=r"allows no more connections.*max_user_connections") as failed:
                await options(server, name, "pw").source().ping()
        finally:
            await one.close()
    assert "The option max_connections" in failed.value.remedy


async def test_a_server_that_lets_nobody_in_without_tls_names_the_option(mysql_server: Server) -> None:
    with user(mysql_server, "pw") as name:
        mysql_server.query("SET GLOBAL require_secure_transport = ON")
        try:
            with pytest.raises(ConfigError, match="lets nobody in without TLS") as failed:
                await options(mysql_server, name, "pw", tls="off").source().ping()
        finally:
            mysql_server.query("SET GLOBAL require_secure_transport = OFF")
    assert 'tls = "verify"' in failed.value.remedy


def test_a_login_that_fails_leaves_no_line_open(mysql_server: Server) -> None:
    """Although the loop ends at once: over TLS a polite end takes turns of it."""
    with user(mysql_server, "right") as name, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(5):
            with pytest.raises(ConfigError, match="Access denied"):
                asyncio.run(who(options(mysql_server, name, "wrong")))
            gc.collect()
    assert [str(warning.message) for warning in found if warning.category is ResourceWarning] == []


async def test_what_a_server_makes_of_new_sessions_does_not_matter(server: Server, database: str) -> None:
    """``init_connect`` may set anything; text still comes as it was written."""
    server.query("CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR(20))", database=database)
    server.query("INSERT INTO t VALUES (1, '漢字🗼')", database=database)
    ((before,),) = server.query("SELECT @@GLOBAL.init_connect")
    with user(server, "word") as name:
        server.query(f"GRANT SELECT ON {database}.* TO {name}@'%'")
        hostile = "SET NAMES latin1, sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES', time_zone = '+05:00'"
        server.query("SET GLOBAL init_connect = %s", hostile)
        try:
            table = table_spec("t", expressions={"z": "@@time_zone"}, key="id")
            rows = (await collect(options(server, name, "word", database=database), table)).to_pylist()
            assert rows == [{"id": 1, "name": "漢字🗼", "z": "+00:00"}]
        finally:
            server.query("SET GLOBAL init_connect = %s", before)
