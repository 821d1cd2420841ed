"""What a guarantee rests on is set by retl in its own sessions; what is the host's stays the host's."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

import retl
from retl.connectors import DuckDB, SQLite
from retl.connectors.duckdb import settings
from retl.testing import collect, table_spec
from tests.integration.duckdb.scenes import Scene
from tests.support import Database

ODD = {
    "TimeZone": "'Asia/Tokyo'", "default_null_order": "'nulls_first'", "default_order": "'desc'", "default_collation": "'nocase'",
    "integer_division": "true", "ieee_floating_point_ops": "false", "old_implicit_casting": "true",
    "preserve_insertion_order": "false", "preserve_identifier_case": "false", "binary_as_string": "true",
    "scalar_subquery_error_on_multiple_rows": "false", "errors_as_json": "true", "max_execution_time": "20",
    "arrow_large_buffer_size": "true", "produce_arrow_string_view": "true", "arrow_output_list_view": "true",
    "arrow_lossless_conversion": "true", "disable_timestamptz_casts": "true", "memory_limit": "'800MB'", "threads": "3",
}  # fmt: skip


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    scene = Scene(tmp_path / "shared.duckdb")
    scene.run(
        "CREATE TABLE raw AS SELECT i AS id, CASE i % 2 WHEN 0 THEN 'Ann' ELSE 'ann' END AS \"Name\", 'b'::BLOB AS b, i / 2 AS half, "
        "TIMESTAMPTZ '2024-05-01 00:00:00+00' + i * INTERVAL 1 HOUR AS at, [i] AS list FROM range(200) t(i)"
    )
    return scene


def _values(connection: duckdb.DuckDBPyConnection) -> dict[str, object]:
    return dict(connection.execute("SELECT name, value FROM duckdb_settings()").fetchall())


async def test_odd_settings_of_the_host_change_nothing_and_stay(scene: Scene, tmp_path: Path) -> None:
    expected = (await collect(scene.source(), table_spec("raw", key="id"))).sort_by("id")
    with duckdb.connect(str(scene.path)) as host:
        for name, value in ODD.items():
            try:
                host.execute(f"SET GLOBAL {name} = {value}")
            except duckdb.Error:
                continue  # not in this version
        host.execute("SET SESSION max_execution_time = 0") if "max_execution_time" in _values(host) else None
        before = _values(host)
        options = DuckDB(str(scene.path), memory_limit="300MB", threads=1)
        found = (await collect(options, table_spec("raw", key="id", cursor="at", slice_rows=50))).sort_by("id")
        assert found.equals(expected)
        tables = [retl.Table("raw", key="id", cursor="at", to="copy", slice_rows=50)]
        pipeline = retl.Pipeline("p", source=options, target=DuckDB(str(scene.path), threads=2), tables=tables)
        report = await pipeline.run_once()
        await pipeline.aclose()
        assert report.rows == 200
        assert _values(host) == before
        host.execute("SET GLOBAL max_execution_time = 0") if "max_execution_time" in before else None
        assert host.execute("FROM copy EXCEPT FROM raw").fetchall() == []
        assert host.execute("SELECT COUNT(*) FROM copy").fetchall() == [(200,)]
        host.execute(f"COPY raw TO '{tmp_path}/out.csv'")  # its own files are open to it as before


async def test_a_host_that_joins_during_a_run_gets_its_memory_back(scene: Scene) -> None:
    target = DuckDB(str(scene.path), memory_limit="300MB", threads=1).target()
    await target.ping()
    with duckdb.connect(str(scene.path)) as host:
        assert host.execute("SELECT COUNT(*) FROM raw").fetchall() == [(200,)]
        assert host.execute("SELECT current_setting('threads')").fetchall() == [(1,)]
        await target.aclose()
        with duckdb.connect() as fresh:
            for name in ("threads", "memory_limit"):
                values = [
                    connection.execute(f"SELECT current_setting('{name}')").fetchall() for connection in (host, fresh)
                ]
                assert values[0] == values[1]


def test_each_setting_has_its_reason() -> None:
    for name, value, reason in settings._SESSION:
        assert name and value and reason


async def test_a_change_of_letter_case_alone_arrives(scene: Scene, tmp_path: Path) -> None:
    """A default collation of the host's is no rule for ours."""
    source = Database(tmp_path / "app.db")
    source.run("CREATE TABLE people (id INTEGER PRIMARY KEY, email TEXT)", "INSERT INTO people VALUES (1, 'ann@x')")
    with duckdb.connect(str(scene.path)) as host:
        host.execute("SET GLOBAL default_collation = 'nocase'")
        pipeline = retl.Pipeline(
            "p", source=SQLite(str(source.path)), target=DuckDB(str(scene.path)), tables=["people"]
        )
        await pipeline.run_once()
        source.run("UPDATE people SET email = 'Ann@x'")
        report = await pipeline.run_once()
        await pipeline.aclose()
        assert report.scans[0].changed == 1
        assert host.execute("SELECT email FROM people").fetchall() == [("Ann@x",)]


async def test_an_error_in_mid_stream_is_ours_and_short(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE late AS SELECT i AS id, CASE i WHEN 90000 THEN 'x' ELSE '1' END AS n FROM range(100000) t(i)"
    )
    spec = table_spec("late", key="id", expressions={"n": "CAST(n AS INTEGER)"})
    with pytest.raises(retl.SourceError, match="Could not convert string 'x' to INT32") as caught:
        await collect(scene.source(), spec)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
