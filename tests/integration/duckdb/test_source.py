"""DuckDB as a source: tables, views, files by path, queries; every type; nothing held, nothing left running."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import aclosing
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import duckdb
import psutil
import pyarrow as pa
import pytest

from retl.connectors import DuckDB
from retl.model.errors import ConfigError, SourceError, TargetBusy
from retl.model.schema import is_json, native_type
from retl.testing import Scans, collect, table_spec
from tests.integration.duckdb.scenes import Scene, another_process


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "source.duckdb")


async def rows(scene: Scene, table: str, **words: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await collect(scene.source(), table_spec(table, **words))).to_pylist()
    return found


# What there is --------------------------------------------------------------


async def test_tables_and_views_are_listed_under_names_that_can_be_read(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE b (id INTEGER)", "CREATE VIEW a AS SELECT 1 AS id", 'CREATE SCHEMA "d w"',
        'CREATE TABLE "d w"."my table" (id INTEGER)', 'CREATE TABLE "do.tted" (id INTEGER)',
        "CREATE TABLE retl_leases (i INTEGER)", "CREATE TABLE _retl_new_b_1 (i INTEGER)",
    )  # fmt: skip
    source = Scans(scene.source().source())
    names = await source.list_tables()
    assert names == ['"do.tted"', "a", "b", "d w.my table"]
    for name in names:
        found = await source.describe(name)
        assert found is not None and found.names == ["id"]
    assert await source.describe("retl") is None
    await source.aclose()


async def test_a_name_is_taken_as_it_is_listed_or_written(scene: Scene) -> None:
    """The exact name comes first; letter case means as little as it does to DuckDB."""
    scene.run(
        'CREATE TABLE "sel ect ""x""" AS SELECT 1 AS id', 'CREATE TABLE "a.b" AS SELECT 2 AS id', "CREATE SCHEMA a",
        "CREATE TABLE a.b AS SELECT 3 AS id", 'CREATE TABLE "Ärger" AS SELECT 4 AS id', 'CREATE TABLE "ärger" AS SELECT 5 AS id',
        "CREATE TABLE Mixed AS SELECT 6 AS id",
    )  # fmt: skip
    wanted = {
        'sel ect "x"': 1, '"sel ect ""x"""': 1, '"a.b"': 2, "a.b": 3, '"a"."b"': 3, "main.mixed": 6, "MIXED": 6,
        "Ärger": 4, "ärger": 5, "ÄRGER": 4,
    }  # fmt: skip
    assert {name: (await rows(scene, name))[0]["id"] for name in wanted} == wanted


async def test_source_and_target_say_the_same_of_one_table(scene: Scene, tmp_path: Path) -> None:
    scene.run("CREATE TABLE People AS SELECT 1 AS id", "CREATE VIEW v AS FROM People")
    (tmp_path / "link.duckdb").symlink_to(scene.path)
    source, target = scene.source().source(), DuckDB(str(tmp_path / "link.duckdb")).target()
    here = await source.location("people")
    assert here == f"duckdb:{scene.path.resolve()}/main/people"
    assert await target.location("main.PEOPLE") == here
    assert [await source.location(name) for name in ("v", "nothing", "people.csv")] == [None, None, None]
    await source.aclose()
    for sql, found in (
        ("", (True, False)),
        ("DELETE FROM People", (True, True)),
        ("DROP VIEW v; DROP TABLE People", (False, True)),
    ):
        await target.aclose()
        if sql:
            scene.run(*sql.split("; "))
        table = await target.inspect("people")
        assert table is not None and (table.exists, table.empty) == found
    await target.aclose()


async def test_a_key_is_one_that_cannot_be_null(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE pk (a INTEGER, b INTEGER, PRIMARY KEY (b, a))",
        "CREATE TABLE uq (a INTEGER UNIQUE, b INTEGER NOT NULL UNIQUE)",
        "CREATE TABLE no (a INTEGER UNIQUE)",
    )
    source = Scans(scene.source().source())
    found = {name: await source.describe(name) for name in ("pk", "uq", "no")}
    assert {name: schema.key for name, schema in found.items() if schema} == {"pk": ("b", "a"), "uq": ("b",), "no": ()}
    assert found["uq"] is not None
    assert [column.nullable for column in found["uq"].columns] == [True, False]
    await source.aclose()


@pytest.mark.parametrize("name", ["data.parquet", "data.csv", "data.json", "data.csv.gz"])
async def test_a_file_is_a_table(tmp_path: Path, name: str) -> None:
    form = {"parquet": "PARQUET", "csv": "CSV", "json": "JSON"}[name.split(".")[1]]
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT i AS id, 'n' || i AS name FROM range(3) t(i)) TO '{tmp_path / name}' (FORMAT {form})"
        )
    found = await collect(DuckDB(files=str(tmp_path)), table_spec(name, key="id"))
    assert found.to_pylist() == [{"id": number, "name": f"n{number}"} for number in range(3)]
    assert found.schema.field("id").type == pa.int64()


async def test_files_by_pattern_and_query(tmp_path: Path) -> None:
    with duckdb.connect() as connection:
        for part in (1, 2):
            connection.execute(f"COPY (SELECT {part} AS part) TO '{tmp_path}/part{part}.parquet'")
    spec = table_spec("all", query="SELECT part FROM 'part*.parquet' ORDER BY part;", key="part")
    assert (await collect(DuckDB(files=str(tmp_path)), spec)).to_pylist() == [{"part": 1}, {"part": 2}]
    assert (await collect(DuckDB(files=str(tmp_path)), "part*.parquet")).num_rows == 2


async def test_what_is_missing_is_named(scene: Scene, tmp_path: Path) -> None:
    missing = DuckDB(str(tmp_path / "nowhere.duckdb"))
    with pytest.raises(ConfigError, match=r"nowhere\.duckdb"):
        await collect(missing, "t")
    assert not (tmp_path / "nowhere.duckdb").exists()
    with pytest.raises(ConfigError, match=r"nothing\.parquet"):
        await collect(DuckDB(files=str(tmp_path)), "nothing.parquet")
    scene.run("CREATE TABLE orders (id INTEGER)")
    with pytest.raises(ConfigError, match="did you mean 'orders'"):
        await collect(scene.source(), "order")
    with pytest.raises(SourceError):
        await collect(scene.source(), table_spec("q", query="SELECT nonsense FROM orders"))


# Types ----------------------------------------------------------------------

TYPES: dict[str, tuple[pa.DataType, list[str], list[Any]]] = {
    "HUGEINT": (pa.decimal256(39, 0), ["-170141183460469231731687303715884105728", "170141183460469231731687303715884105727"], []),
    "UHUGEINT": (pa.decimal256(39, 0), ["0", "340282366920938463463374607431768211455"], []),
    "UBIGINT": (pa.uint64(), ["18446744073709551615"], [2**64 - 1]),
    "DECIMAL(38,10)": (pa.decimal128(38, 10), ["-9999999999999999999999999999.9999999999"], []),
    "DOUBLE": (pa.float64(), ["inf", "5e-324"], [float("inf"), 5e-324]),
    "UUID": (pa.string(), ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"], ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    "BLOB": (pa.binary(), ["\\x00\\xFF"], [b"\x00\xff"]),
    "INTERVAL": (pa.string(), ["1 year 2 days"], ["1 year 2 days"]),
    "BIT": (pa.string(), ["0101"], ["0101"]),
    "TIME_NS": (pa.string(), ["10:00:00.123456789"], ["10:00:00.123456789"]),
    "TIME WITH TIME ZONE": (pa.string(), ["10:00:00+02"], ["10:00:00+02"]),
    "ENUM('a', 'b')": (pa.string(), ["b"], ["b"]),
    "JSON": (pa.string(), ['{"a":  [1]}', "null"], ['{"a":  [1]}', "null"]),
    "INTEGER[]": (pa.string(), ["[1, NULL, 3]"], ["[1,null,3]"]),
    "INTEGER[2]": (pa.string(), ["[1, 2]"], ["[1,2]"]),
    "STRUCT(a INTEGER, b VARCHAR[])": (pa.string(), ["{'a': 1, 'b': [x]}"], ['{"a":1,"b":["x"]}']),
    "MAP(VARCHAR, INTEGER)": (pa.string(), ["{k=1}"], ['{"k":1}']),
}  # fmt: skip


@pytest.mark.parametrize("native", TYPES)
async def test_a_type_arrives_whole(scene: Scene, native: str) -> None:
    kind, texts, expected = TYPES[native]
    values = ", ".join(
        f"({number}, CAST('{text.replace(chr(39), chr(39) * 2)}' AS {native}))" for number, text in enumerate(texts)
    )
    scene.run(f"CREATE TABLE t (id INTEGER, v {native})", f"INSERT INTO t VALUES {values}, (9, NULL)")
    source = Scans(scene.source().source())
    described = await source.describe("t")
    assert described is not None
    column = described.columns.field("v")
    assert column.type == kind
    assert native_type(column) == native
    assert is_json(column) == (native == "JSON" or native.endswith("]") or native.startswith(("STRUCT", "MAP")))
    await source.aclose()
    found = await collect(scene.source(), table_spec("t", key="id"))
    assert found.column("v").to_pylist() == [*(expected or [Decimal(text) for text in texts]), None]


def test_times_are_in_utc_whatever_the_zone_of_the_host(scene: Scene) -> None:
    scene.run("SET TimeZone = 'UTC'", "CREATE TABLE t AS SELECT 1 AS id, TIMESTAMPTZ '2024-01-01 00:00:00+00' AS at")
    code = (
        "import anyio, sys; from retl.connectors import DuckDB; from retl.testing import Scans, collect, table_spec; "
        f"t = anyio.run(collect, DuckDB({str(scene.path)!r}), table_spec('t', key='id', cursor='at')); "
        "print(t.column('at').type, t.column('at').cast('string').to_pylist())"
    )
    zone = {**os.environ, "TZ": "Asia/Tokyo"}
    done = subprocess.run([sys.executable, "-c", code], env=zone, capture_output=True, text=True, check=False)
    assert done.stdout == "timestamp[us, tz=UTC] ['2024-01-01 00:00:00.000000Z']\n", done.stderr


# Reading --------------------------------------------------------------------


async def first_batches(source: Scans, query: str, count: int) -> int:
    """The rows of a query's first batches; the rest is not read."""
    spec = table_spec("q", query=query, key="i")
    plan = await source.plan(spec)
    read = 0
    async with aclosing(source.read(plan, plan.slices[0])) as batches:
        async for batch in batches:
            read += batch.num_rows
            count -= 1
            if not count:
                break
    return read


async def test_a_result_is_streamed_and_not_held(scene: Scene) -> None:
    scene.run("CREATE TABLE big AS SELECT i, repeat(md5(i::VARCHAR), 16) AS text FROM range(1_000_000) t(i)")  # 0.5 GB
    source = Scans(DuckDB(str(scene.path), memory_limit="200MB").source())
    plan = await source.plan(table_spec("big", key="i"))
    before = psutil.Process().memory_info().rss
    highest = count = 0
    async with aclosing(source.read(plan, plan.slices[0])) as batches:
        async for batch in batches:
            count += batch.num_rows
            highest = max(highest, psutil.Process().memory_info().rss)
    await source.aclose()
    assert count == 1_000_000
    assert highest - before < 400 * 1024 * 1024


async def test_an_early_close_stops_the_query_and_frees_the_file(scene: Scene) -> None:
    scene.run("CREATE TABLE t (id INTEGER)")
    source = Scans(scene.source().source())
    plan = await source.plan(table_spec("q", query="SELECT i FROM range(1_000_000_000) t(i)", key="i"))
    async with aclosing(source.read(plan, plan.slices[0])) as batches:
        assert (await anext(batches)).num_rows
        began = time.monotonic()
    await source.leave()
    assert time.monotonic() - began < 5
    scene.run("INSERT INTO t VALUES (1)")  # a writer may have the file again
    await source.aclose()


@pytest.mark.parametrize("what", ["first batch", "plan"])
async def test_a_cancelled_query_ends_at_once(scene: Scene, what: str) -> None:
    scene.run("CREATE TABLE t (id INTEGER)")
    endless = "SELECT max(hash(a.i + b.i)) AS i FROM range(10_000_000) a(i), range(1000) b(i)"
    source = Scans(scene.source().source())
    # A plan counts the rows; that of one group is known without looking at any.
    query = endless if what == "first batch" else f"SELECT i FROM ({endless}) WHERE i > 0"
    began = time.monotonic()
    with anyio.move_on_after(0.5):
        await first_batches(source, query, 1)
    assert time.monotonic() - began < 5
    assert await source.list_tables() == ["t"]
    await source.aclose()


async def test_two_reads_do_not_disturb_each_other(scene: Scene) -> None:
    scene.run("CREATE TABLE t AS SELECT i FROM range(200_000) t(i)")
    source = Scans(scene.source().source())
    first, second = [await source.plan(table_spec("t", key="i")) for _ in range(2)]
    async with (
        aclosing(source.read(first, first.slices[0])) as one,
        aclosing(source.read(second, second.slices[0])) as two,
    ):
        counts = [0, 0]
        ended = False
        while not ended:
            ended = True
            for number, batches in enumerate((one, two)):
                async for batch in batches:
                    counts[number] += batch.num_rows
                    assert await source.describe("t") is not None
                    ended = False
                    break
    assert counts == [200_000, 200_000]
    await source.aclose()


async def test_a_close_in_the_middle_leaves_nothing_open(scene: Scene) -> None:
    scene.run("CREATE TABLE t AS SELECT i FROM range(200_000) t(i)")
    source = Scans(scene.source().source())
    plan = await source.plan(table_spec("t", key="i"))
    batches = source.read(plan, plan.slices[0])
    assert (await anext(batches)).num_rows
    await source.aclose()
    await batches.aclose()
    scene.run("DROP TABLE t")  # a writer may have the file again


async def test_a_file_that_another_process_writes_is_busy(scene: Scene) -> None:
    scene.run("CREATE TABLE t (id INTEGER)")
    with another_process(scene.path), pytest.raises(TargetBusy, match="in use by another process"):
        await rows(scene, "t")
    assert await rows(scene, "t", key="id") == []


async def test_several_processes_may_read(scene: Scene) -> None:
    scene.run("CREATE TABLE t AS SELECT 1 AS id")
    with another_process(scene.path, read_only=True):
        assert await rows(scene, "t", key="id") == [{"id": 1}]
