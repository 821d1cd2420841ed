"""Reading over Arrow Flight SQL: what comes is what MySQL's protocol brings, and it ends as cleanly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import trustme

import retl
from retl.connectors import Doris, DuckDB, StarRocks
from retl.connectors.olap.flight import cast_to_plan
from retl.connectors.olap.session import settings
from retl.model.errors import ConfigError, ConnectionFailed, SourceError
from retl.testing import Scans, collect, table_spec
from tests.fake_olap import FakeDoris, FakeStarRocks
from tests.fake_olap.flavour import STARROCKS
from tests.fake_olap.flight import FakeFlight

TABLE = """
CREATE TABLE orders (id BIGINT NOT NULL, amount DECIMAL(18, 4), large LARGEINT, flag BOOLEAN, moment DATETIME, doc JSON)
PRIMARY KEY (id) DISTRIBUTED BY HASH(id)
"""
BEGINNING = datetime(2024, 1, 1)  # noqa: DTZ001  # as the column has none
ROWS: list[list[Any]] = [
    [
        number,
        Decimal(number) / 8,
        2**126 + number,
        number % 2 == 0,
        BEGINNING + timedelta(milliseconds=number),
        '{"n": 1}',
    ]
    for number in range(3500)
]


@contextmanager
def starrocks(**words: Any) -> Iterator[tuple[FakeStarRocks, FakeFlight, str]]:
    with FakeStarRocks() as server, server.fresh_database() as database:
        server.query(TABLE, database=database)
        server.insert("orders", ROWS, database)
        with FakeFlight(server, **words) as flight:
            yield server, flight, server.url(database)


@pytest.fixture
def served() -> Iterator[tuple[FakeStarRocks, FakeFlight, str]]:
    with starrocks() as found:
        yield found


def connector(flight: FakeFlight, url: str, **words: Any) -> StarRocks:
    return StarRocks(url, protocol="flight", flight_port=flight.port, **words)


async def stored(source: Any, target: Path, *tables: retl.Table) -> None:
    """Run a pipeline once."""
    job = retl.Pipeline("p", source=source, target=DuckDB(str(target)), tables=list(tables))
    async with job as pipeline:
        report = await pipeline.run_once()
    assert report.ok, report


def orders(target: Path) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(target)) as connection:
        return connection.execute(
            "SELECT id, amount, large::VARCHAR, flag, moment, doc::VARCHAR FROM orders ORDER BY id"
        ).fetchall()


def expected(rows: list[list[Any]]) -> list[tuple[Any, ...]]:
    return [(row[0], row[1], str(row[2]), *row[3:]) for row in rows]


async def test_a_pipeline_reads_over_flight(served: tuple[FakeStarRocks, FakeFlight, str], tmp_path: Path) -> None:
    _, flight, url = served
    target = tmp_path / "target.duckdb"
    await stored(connector(flight, url), target, retl.Table("orders", pre_action=retl.PreAction.SWAP))
    assert orders(target) == expected(ROWS)
    assert any(statement.startswith("SELECT `id`") for statement in flight.statements)


async def test_the_session_is_that_of_the_mysql_protocol(served: tuple[FakeStarRocks, FakeFlight, str]) -> None:
    _, flight, url = served
    await collect(connector(flight, url, query_timeout=77), "orders")
    told = settings("starrocks", 77, STARROCKS.variables)
    assert flight.statements[:-1] == [f"USE `{url.rpartition('/')[2]}`", told]
    assert set(told.split()) >= {"query_timeout", "time_zone", "sql_select_limit", "sql_mode"}


async def test_what_is_set_for_the_user_cuts_and_shifts_nothing(tmp_path: Path) -> None:
    target = tmp_path / "target.duckdb"
    with starrocks(settings={"time_zone": "+08:00", "sql_select_limit": "10"}) as (_, flight, url):
        await stored(connector(flight, url), target, retl.Table("orders"))
    assert orders(target) == expected(ROWS)


async def test_without_a_database_in_the_url_tables_carry_theirs(
    served: tuple[FakeStarRocks, FakeFlight, str],
) -> None:
    _, flight, url = served
    address, _, database = url.rpartition("/")
    found = await collect(connector(flight, address), f"{database}.orders")
    assert found.num_rows == len(ROWS)
    assert not any(statement.startswith("USE") for statement in flight.statements)


async def test_a_cursor_reads_its_window_over_flight(
    served: tuple[FakeStarRocks, FakeFlight, str], tmp_path: Path
) -> None:
    server, flight, url = served
    target = tmp_path / "target.duckdb"
    table = retl.Table("orders", cursor="moment", slice_rows=1000)
    await stored(connector(flight, url), target, table)
    assert orders(target) == expected(ROWS)

    new = [[3500, Decimal(1), 1, True, BEGINNING + timedelta(seconds=3.5, microseconds=1), "{}"]]
    server.insert("orders", new, url.rpartition("/")[2])
    flight.statements.clear()
    await stored(connector(flight, url), target, table)
    assert orders(target) == expected([*ROWS, *new])
    (read,) = [statement for statement in flight.statements if statement.startswith("SELECT")]
    assert read.endswith("WHERE `moment` >= '2024-01-01 00:00:03.499000' AND `moment` <= '2024-01-01 00:00:03.500001'")


@pytest.mark.parametrize("zoned", [False, True], ids=["times as they are", "times with the session's zone"])
async def test_doris_times_over_flight_are_what_they_are_over_mysql(zoned: bool) -> None:
    with FakeDoris() as server, server.fresh_database() as database:
        server.query(
            "CREATE TABLE times (id INT NOT NULL, at DATETIME(6), instant TIMESTAMPTZ) UNIQUE KEY (id) DISTRIBUTED BY HASH(id)",
            database=database,
        )
        rows: list[list[Any]] = [
            [1, "2024-01-01 00:00:00.000001", "2024-01-01 02:00:00.000001+03:00"],
            [2, "9999-12-31 23:59:59.999999", "1969-12-31 23:59:59.999999+00:00"],
            [3, None, None],
        ]
        server.insert("times", rows, database)
        url = server.url(database)
        with FakeFlight(server, settings={"time_zone": "+08:00"}, zoned=zoned) as flight:
            over_flight = await collect(Doris(url, protocol="flight", flight_port=flight.port), "times")
        over_mysql = await collect(Doris(url), "times")
    assert over_flight.sort_by("id").to_pylist() == [
        {
            "id": 1,
            "at": datetime.fromisoformat("2024-01-01 00:00:00.000001"),
            "instant": datetime(2023, 12, 31, 23, 0, 0, 1, tzinfo=UTC),
        },
        {
            "id": 2,
            "at": datetime.fromisoformat("9999-12-31 23:59:59.999999"),
            "instant": datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        },
        {"id": 3, "at": None, "instant": None},
    ]
    assert over_flight.sort_by("id") == over_mysql.sort_by("id")


@pytest.mark.parametrize("setting", ["query_timeout", "time_zone", "sql_select_limit"])
async def test_a_session_that_cannot_be_made_ready_reads_nothing(
    served: tuple[FakeStarRocks, FakeFlight, str], setting: str
) -> None:
    _, flight, url = served
    flight.refused = setting
    with pytest.raises(ConnectionFailed, match=f"Unknown system variable '{setting}'"):
        await collect(connector(flight, url), "orders")
    assert not any(statement.startswith("SELECT") for statement in flight.statements)


async def test_closed_early_it_leaves_nothing_open(served: tuple[FakeStarRocks, FakeFlight, str]) -> None:
    _, flight, url = served
    async with Scans(connector(flight, url).source()) as source:
        plan = await source.plan(table_spec("orders"))
        batches = source.read(plan, plan.slices[0])
        first = await anext(batches)
        assert first.column("id").to_pylist() == [row[0] for row in ROWS[:1000]]
        await batches.aclose()


async def test_a_stream_that_breaks_is_tried_again(served: tuple[FakeStarRocks, FakeFlight, str]) -> None:
    _, flight, url = served
    flight.fail_after = 2
    with pytest.raises(ConnectionFailed, match="a backend was lost"):
        await collect(connector(flight, url), "orders")


async def test_a_wrong_password_and_a_wrong_port_say_so(served: tuple[FakeStarRocks, FakeFlight, str]) -> None:
    server, _, url = served
    with FakeFlight(server, password="another") as strict, pytest.raises(ConfigError, match="refused the login"):
        await collect(connector(strict, url), "orders")
    with pytest.raises(ConnectionFailed, match="flight_port"):
        await collect(StarRocks(url, protocol="flight", flight_port=1), "orders")


def test_flight_needs_its_port() -> None:
    with pytest.raises(ConfigError, match="flight_port"):
        StarRocks("starrocks://reader@localhost/dw", protocol="flight").source()


def test_a_value_that_does_not_fit_is_an_error() -> None:
    sent = pa.record_batch({"id": pa.array([1, 300], pa.int64())})
    with pytest.raises(SourceError, match="'id' came as int64"):
        cast_to_plan(sent, pa.schema([("id", pa.int8())]))


# TLS --------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> tuple[trustme.CA, str]:
    """One who signs, and the file that others name in ``tls_ca``."""
    found = trustme.CA()
    found.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return found, str(tmp_path / "ca.pem")


async def rows_over_tls(signed_by: trustme.CA, name: str, **words: Any) -> int:
    """How many rows come from a port of Flight SQL that shows a certificate for ``name``."""
    certificate = signed_by.issue_cert(name)
    shown = (certificate.cert_chain_pems[0].bytes(), certificate.private_key_pem.bytes())
    with starrocks(tls=shown) as (_, flight, url):
        # The stand-in speaks MySQL's protocol without TLS, so the plan is made without.
        async with Scans(StarRocks(url).source()) as plain:
            plan = await plain.plan(table_spec("orders"))
        flights: Any = connector(flight, url, **words).source().reading.flight
        return sum([batch.num_rows async for batch in flights().batches(plan.statements[0], plan.schema)])


async def test_the_certificate_is_checked_against_tls_ca(authority: tuple[trustme.CA, str]) -> None:
    signer, file = authority
    assert await rows_over_tls(signer, "127.0.0.1", tls_ca=file) == len(ROWS)
    with pytest.raises(ConfigError, match="cannot be verified"):
        await rows_over_tls(trustme.CA(), "127.0.0.1", tls_ca=file)
    with pytest.raises(ConfigError, match="cannot be verified"):
        await rows_over_tls(signer, "elsewhere.example", tls_ca=file)
    with pytest.raises(ConfigError, match="cannot be verified"):
        await rows_over_tls(signer, "127.0.0.1", tls="verify")


async def test_insecure_takes_any_certificate() -> None:
    assert await rows_over_tls(trustme.CA(), "elsewhere.example", tls="insecure") == len(ROWS)


def test_a_certificate_without_its_name_is_nothing_that_flight_can_check() -> None:
    with pytest.raises(ConfigError, match="tls_check_hostname"):
        StarRocks(
            "starrocks://reader@localhost/dw",
            protocol="flight",
            flight_port=1,
            tls="verify",
            tls_check_hostname=False,
        ).source()
