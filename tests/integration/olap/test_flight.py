"""Reading over Arrow Flight SQL: what comes is what MySQL's protocol brings, and it ends as cleanly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

import retl
from retl.connectors import DuckDB, StarRocks
from retl.model.errors import ConfigError, ConnectionFailed, SourceError
from retl.testing.rows import table_spec
from tests.servers.fake_olap import FakeStarRocks
from tests.servers.fake_olap.flight import FakeFlight

TABLE = """
CREATE TABLE orders (id BIGINT NOT NULL, amount DECIMAL(18, 4), large LARGEINT, flag BOOLEAN, moment DATETIME, doc JSON)
PRIMARY KEY (id) DISTRIBUTED BY HASH(id)
"""
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("amount", pa.decimal128(18, 4)),
        ("large", pa.string()),
        ("flag", pa.bool_()),
        ("moment", pa.timestamp("ms")),
        ("doc", pa.string()),
    ]
)
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
def starrocks() -> Iterator[tuple[FakeStarRocks, FakeFlight, str]]:
    with FakeStarRocks() as server, server.fresh_database() as database:
        server.query(TABLE, database=database)
        server.insert("orders", ROWS, database)

        def answer(sql: str) -> pa.Table:
            if "nothing" in sql:
                raise ValueError("Unknown table 'nothing'")
            rows = [dict(zip(SCHEMA.names, row, strict=True)) for row in ROWS]
            return pa.Table.from_pylist([{**row, "large": str(row["large"])} for row in rows], schema=SCHEMA)

        with FakeFlight(answer, server.user, server.password) as flight:
            yield server, flight, server.url(database)


@pytest.fixture
def served() -> Iterator[tuple[FakeStarRocks, FakeFlight, str]]:
    with starrocks() as found:
        yield found


def connector(flight: FakeFlight, url: str, **words: Any) -> StarRocks:
    return StarRocks(url, protocol="flight", flight_port=flight.port, **words)


async def test_a_pipeline_reads_over_flight(served: tuple[FakeStarRocks, FakeFlight, str], tmp_path: Path) -> None:
    _, flight, url = served
    target = tmp_path / "target.duckdb"
    async with retl.Pipeline(
        "p",
        source=connector(flight, url),
        target=DuckDB(str(target)),
        tables=[retl.Table("orders", pre_action=retl.PreAction.SWAP)],
    ) as pipeline:
        report = await pipeline.run_once()
    assert report.ok, report
    with duckdb.connect(str(target)) as connection:
        found = connection.execute(
            "SELECT id, amount, large::VARCHAR, flag, moment, doc::VARCHAR FROM orders ORDER BY id"
        ).fetchall()
    assert found == [(row[0], row[1], str(row[2]), *row[3:]) for row in ROWS]
    assert any(statement.startswith("SELECT `id`") for statement in flight.statements)
    assert flight.statements[0] == "SET query_timeout = 14400"


async def test_closed_early_it_leaves_nothing_open(served: tuple[FakeStarRocks, FakeFlight, str]) -> None:
    _, flight, url = served
    source = connector(flight, url).source()
    plan = await source.plan(table_spec("orders"), retl.Checkpoint())
    batches = source.read(plan, plan.slices[0])
    first = await anext(batches)
    assert first.column("id").to_pylist() == [row[0] for row in ROWS[:1000]]
    await batches.aclose()  # type: ignore[attr-defined]
    await source.aclose()


async def test_a_stream_that_breaks_is_tried_again(served: tuple[FakeStarRocks, FakeFlight, str]) -> None:
    _, flight, url = served
    flight.fail_after = 2
    source = connector(flight, url).source()
    plan = await source.plan(table_spec("orders"), retl.Checkpoint())
    with pytest.raises(ConnectionFailed, match="a backend was lost"):
        async for _ in source.read(plan, plan.slices[0]):
            pass
    await source.aclose()


async def test_a_wrong_password_and_a_wrong_port_say_so(served: tuple[FakeStarRocks, FakeFlight, str]) -> None:
    server, flight, url = served
    source = connector(flight, url).source()
    plan = await source.plan(table_spec("orders"), retl.Checkpoint())
    await source.aclose()
    with FakeFlight(lambda _: pa.table({}), server.user, "another") as strict:
        refused = connector(strict, url).source()
        with pytest.raises(ConfigError, match="refused the login"):
            async for _ in refused.read(plan, plan.slices[0]):
                pass
    gone = StarRocks(url, protocol="flight", flight_port=1).source()
    with pytest.raises(ConnectionFailed, match="flight_port"):
        async for _ in gone.read(plan, plan.slices[0]):
            pass


def test_flight_needs_its_port() -> None:
    with pytest.raises(ConfigError, match="flight_port"):
        StarRocks("starrocks://reader@localhost/dw", protocol="flight").source()


async def test_a_value_that_does_not_fit_is_an_error(served: tuple[FakeStarRocks, FakeFlight, str]) -> None:
    _, flight, url = served
    source = connector(flight, url).source()
    plan = await source.plan(table_spec("orders"), retl.Checkpoint())
    narrow = pa.schema([column if column.name != "id" else column.with_type(pa.int8()) for column in plan.schema])

    with pytest.raises(SourceError, match="'id' came as int64"):
        async for _ in source.read(replace(plan, schema=narrow), plan.slices[0]):
            pass
    await source.aclose()
