"""How a session begins: trust, login, settings, and what the catalog calls things."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pyarrow as pa
import pytest

from retl.connectors import Redshift
from retl.connectors.redshift.connection import RedshiftConnection
from retl.connectors.redshift.options import IAM
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError
from retl.model.table import TableSpec
from tests.fake_redshift import Refusal
from tests.integration.redshift.scene import Scene, ids
from tests.servers.postgres import PostgresServer


async def test_the_certificate_is_verified_unless_told_otherwise(scene: Scene) -> None:
    with pytest.raises(ConfigError, match="certificate"):
        await Redshift(scene.cluster.url()).source().ping()
    trusting: list[dict[str, Any]] = [{"tls": "insecure"}, {"tls_ca": scene.fake.authority}]
    for words in trusting:
        source = Redshift(scene.cluster.url(), **words).source()
        assert (await source.ping()).product == "Redshift"
        await source.aclose()


async def test_the_name_in_the_certificate_is_verified(scene: Scene) -> None:
    url = scene.cluster.url().replace("localhost", "127.1")  # another name of the same address
    with pytest.raises(ConfigError, match="certificate"):
        await Redshift(url, tls_ca=scene.fake.authority).source().ping()


async def test_a_wrong_password_is_the_users_error_and_never_shown(scene: Scene) -> None:
    source = scene.connector(password="not-the-password").source()
    with pytest.raises(ConfigError, match="refused the login") as caught:
        await source.ping()
    assert "not-the-password" not in str(caught.value)


async def test_another_product_is_told(postgres_server: PostgresServer) -> None:
    url = postgres_server.url().replace("postgresql", "redshift", 1)
    with pytest.raises(ConfigError, match="is no Redshift"):
        await Redshift(url, tls="off").source().ping()


@pytest.mark.parametrize("query", ["sslmode=require", "options=-c%20x=1"])
def test_words_for_other_drivers_in_a_url_are_refused(query: str) -> None:
    with pytest.raises(ConfigError, match="not understood"):
        Redshift(f"redshift://etl@cluster:5439/dev?{query}").source()


async def test_a_session_has_settings_that_are_asked_back_and_keepalive(scene: Scene) -> None:
    source = scene.connector(query_group="retl", statement_timeout="1h").source()
    async with source.connect() as reader:
        connection = await reader._connect()
        assert isinstance(connection, RedshiftConnection)
        line = connection._driver._transport.get_extra_info("socket")
        assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    await source.aclose()
    sent = scene.statements()
    assert "SET timezone TO 'UTC'" in sent
    assert "SET statement_timeout TO '3600000'" in sent
    assert "SET query_group TO 'retl'" in sent
    assert {"SHOW timezone", "SHOW datestyle", "SHOW statement_timeout"} <= set(sent)


async def test_the_number_of_nodes_is_asked_and_may_be_hidden(scene: Scene) -> None:
    scene.fake.nodes = 4
    async with scene.source() as source:
        assert (await source.ping()).detail == "4 nodes"
    scene.inject("stv_slices", error=Refusal("permission denied for relation stv_slices", "42501"))
    async with scene.source() as source:
        assert (await source.ping()).detail == "1 node"


async def test_names_are_folded_as_the_cluster_folds_them(scene: Scene) -> None:
    scene.create('"Mixed"', '"Id" INTEGER')
    scene.run('INSERT INTO {}."Mixed" VALUES (1)')
    for name in ("mixed", '"Mixed"', "MIXED"):
        assert ids(await scene.collect(name)) == [1]


async def test_case_sensitive_names_are_kept_where_the_cluster_keeps_them(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.fake_redshift import settings

    monkeypatch.setitem(settings.DEFAULTS, "enable_case_sensitive_identifier", "on")
    scene.create('"Mixed"', '"Id" INTEGER, "id" INTEGER')
    scene.run('INSERT INTO {}."Mixed" VALUES (1, 2)')
    assert (await scene.collect('"Mixed"')).to_pylist() == [{"Id": 1, "id": 2}]
    with pytest.raises(ConfigError, match="did you mean"):
        await scene.collect("mixed")


async def test_late_binding_views_and_tables_with_a_database_are_read(scene: Scene) -> None:
    scene.numbers(20)
    scene.run("CREATE VIEW {}.late AS SELECT id, v FROM {}.numbers WITH NO SCHEMA BINDING")
    assert ids(await scene.collect("late")) == list(range(20))
    assert ids(await scene.collect(f"{scene.cluster.database}.{scene.schema}.numbers")) == list(range(20))


async def test_the_catalog_is_asked_without_parameters_and_arrays(scene: Scene) -> None:
    scene.numbers(1)
    async with scene.source() as source:
        await source.describe("numbers")
        await source.list_tables()
        await source.plan(TableSpec("numbers", "numbers", cursor="ts", key=("id",)), Checkpoint())
    for sql in scene.statements():
        assert "$1" not in sql
        assert "ANY" not in sql.upper()
        assert "array" not in sql.lower()


async def test_a_text_cursor_is_refused(scene: Scene) -> None:
    scene.numbers(1)
    with pytest.raises(ConfigError, match="does not order change"):
        await scene.plan(TableSpec("numbers", "numbers", cursor="v", key=("id",)))


class _Aws(BaseHTTPRequestHandler):
    """Gives the reader's login, as AWS gives one for a short time."""

    login: tuple[str, str]
    asked: list[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.asked.append(body)
        user, password = self.login
        if "workgroupName" in body:
            answer = f'{{"dbUser": "{user}", "dbPassword": "{password}"}}'
        else:
            action = "GetClusterCredentials" + ("WithIAM" if "WithIAM" in body else "")
            answer = (
                f"<{action}Response><{action}Result><DbUser>{user}</DbUser><DbPassword>{password}</DbPassword>"
                f"</{action}Result></{action}Response>"
            )
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def aws(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    _Aws.login, _Aws.asked = scene.cluster.reader, []
    server = HTTPServer(("127.0.0.1", 0), _Aws)
    thread = Thread(target=server.serve_forever)
    thread.start()
    place = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "AWS_ENDPOINT_URL": place, "AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK", "AWS_DEFAULT_REGION": "eu-west-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    yield _Aws.asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("iam", "user", "asked"),
    [
        (IAM(cluster="sales"), "", "Action=GetClusterCredentialsWithIAM"),
        (IAM(cluster="sales"), "etl@", "Action=GetClusterCredentials&"),
        (IAM(workgroup="sales"), "", "workgroupName"),
    ],
)
@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")
async def test_aws_gives_the_login_of_each_connection(
    scene: Scene, aws: list[str], iam: IAM, user: str, asked: str
) -> None:
    url = f"redshift://{user}localhost:{scene.cluster.port}/{scene.cluster.database}"
    source = Redshift(url, iam=iam, tls_ca=scene.fake.authority).source()
    assert (await source.ping()).product == "Redshift"
    await source.aclose()
    assert len(aws) == 1
    assert asked in aws[0]


def test_iam_needs_one_of_both() -> None:
    for words in ({}, {"cluster": "a", "workgroup": "b"}):
        with pytest.raises(ConfigError, match="either cluster or workgroup"):
            IAM(**words)


def test_bytes_of_hexadecimal_digits_are_found_at_any_offset() -> None:
    from retl.connectors.redshift.rows import from_records

    schema = pa.schema([pa.field("raw", pa.binary(), metadata={b"retl.native": b"varbyte"})])
    batch = from_records([("00ff",), (None,), ("",), ("AbCd01",)], schema)
    assert batch.column("raw").to_pylist() == [b"\x00\xff", None, b"", b"\xab\xcd\x01"]
    empty = from_records([], schema)
    assert empty.num_rows == 0
