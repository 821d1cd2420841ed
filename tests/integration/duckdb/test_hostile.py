"""A DuckDB file holds code: views, macros and triggers of whoever wrote it. Opening it must not run that against the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

import retl
from retl.connectors import DuckDB, SQLite
from retl.model.actions import Write
from retl.model.errors import ConfigError, RetlError, SourceError
from retl.testing import collect, table_spec
from tests.integration.duckdb.scenes import Scene
from tests.integration.scene import PEOPLE
from tests.support import Database


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    (tmp_path / "secret.csv").write_text("id,word\n1,hunter2\n")
    return Scene(tmp_path / "gift.duckdb")


@pytest.mark.parametrize(
    "reads",
    ["SELECT 1 AS id, content FROM read_text('{}/secret.csv')", "SELECT * FROM '{}/secret.csv'", "SELECT 1 AS id, content FROM read_text('/proc/self/environ')"],
)  # fmt: skip
async def test_a_view_reads_no_file_of_the_host(scene: Scene, tmp_path: Path, reads: str) -> None:
    scene.run("CREATE TABLE a AS SELECT 1 AS id", f"CREATE VIEW v AS {reads.format(tmp_path)}")
    target = Database(tmp_path / "app.db")
    tables = [retl.Table(match="*", key="id")]
    pipeline = retl.Pipeline("gift", source=DuckDB(str(scene.path)), target=target.target(), tables=tables)
    with pytest.raises(ConfigError, match="may not read or write other files"):
        await pipeline.run_once()
    await pipeline.aclose()
    assert target.tables() == ["a"]  # the table beside it arrives


async def test_files_names_what_may_be_read(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "open.csv").write_text("id,word\n1,hello\n")
    (tmp_path / "in" / "link.csv").symlink_to(tmp_path / "secret.csv")
    scene.run(f"CREATE VIEW v AS SELECT * FROM '{tmp_path}/secret.csv'")
    options = DuckDB(str(scene.path), files=str(tmp_path / "in"))
    assert (await collect(options, table_spec("open.csv", key="id"))).to_pylist() == [{"id": 1, "word": "hello"}]
    links = ["link.csv"] if int(duckdb.__version__.split(".")[0]) >= 2 else []  # older ones follow links
    for name in ("v", *links, "../secret.csv", str(tmp_path / "secret.csv")):
        with pytest.raises(ConfigError, match="only files below"):
            await collect(options, table_spec(name, key="id"))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
async def test_a_table_whose_name_is_a_path_is_a_table(scene: Scene, tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "secret"
    scene.run(f'CREATE SCHEMA "{folder}"', f'CREATE TABLE "{folder}".{suffix} AS SELECT 7 AS id')
    scene.run(f'CREATE TABLE "{folder}.{suffix}" AS SELECT 8 AS id')
    source = scene.source().source()
    names = await source.list_tables()
    await source.aclose()
    assert [(await collect(scene.source(), table_spec(name))).to_pylist() for name in names] == [
        [{"id": 7}],
        [{"id": 8}],
    ]
    assert (await collect(scene.source(), table_spec(f"{folder}.{suffix}"))).to_pylist() == [{"id": 8}]


@pytest.mark.parametrize(
    "words",
    [
        {"query": "SELECT 1 AS id) AS q; COPY (SELECT 1) TO '{}/out.csv'; SELECT * FROM (SELECT 1 AS id"},
        {"where": "true); COPY (SELECT 1) TO '{}/out.csv'; SELECT (1 = 1"},
        {"expressions": {"x": "1) AS x FROM a; COPY (SELECT 1) TO '{}/out.csv'; SELECT (1"}},
        {"query": "SELECT 1 AS id; DROP TABLE a"},
        {"query": "DROP TABLE a"},
        {"query": "COPY (SELECT 1 AS id) TO '{}/out.csv'"},
    ],
)
async def test_what_a_job_file_adds_is_part_of_one_select(scene: Scene, tmp_path: Path, words: dict[str, Any]) -> None:
    scene.run("CREATE TABLE a AS SELECT 1 AS id")
    filled = {word: {name: text.format(tmp_path) for name, text in value.items()} if isinstance(value, dict) else value.format(tmp_path) for word, value in words.items()}  # fmt: skip
    with pytest.raises((ConfigError, SourceError)):
        await collect(scene.source(), table_spec("a", key="id", **filled))
    assert not (tmp_path / "out.csv").exists()
    assert scene.run("SELECT * FROM a") == [(1,)]


async def test_macros_that_take_the_place_of_functions_are_refused(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE a AS SELECT 1 AS id, 'x' AS t", "CREATE MACRO encode(x) AS 'nothing'", "CREATE MACRO mine(x) AS x"
    )
    with pytest.raises(ConfigError, match=r"named as functions of DuckDB's that retl calls: encode"):
        await collect(scene.source(), table_spec("a", key="id"))
    target = DuckDB(str(scene.path)).target()
    with pytest.raises(ConfigError, match="encode"):
        await target.ping()
    await target.aclose()
    scene.run("DROP MACRO encode")
    assert (await collect(scene.source(), table_spec("a", key="id"))).num_rows == 1


async def test_a_variable_of_the_hosts_is_no_table(scene: Scene) -> None:
    secret = PEOPLE.empty_table()
    scene.run("CREATE TABLE a AS SELECT 1 AS id")
    with pytest.raises(RetlError):
        await collect(scene.source(), table_spec("q", query="SELECT * FROM secret", key="id"))
    assert secret.num_rows == 0


async def test_a_trigger_of_the_targets_reads_no_file(scene: Scene, tmp_path: Path) -> None:
    if tuple(map(int, duckdb.__version__.split(".")[:2])) < (2, 0):
        pytest.skip("this DuckDB has no triggers")
    scene.run(
        "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR)", "CREATE TABLE loot (t VARCHAR)",
        "CREATE TRIGGER t AFTER INSERT ON people REFERENCING NEW TABLE AS n FOR EACH STATEMENT "
        f"INSERT INTO loot SELECT content FROM n, read_text('{tmp_path}/secret.csv')",
    )  # fmt: skip
    source = Database(tmp_path / "app.db")
    source.run("CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)", "INSERT INTO people VALUES (1, 'a')")
    pipeline = retl.Pipeline(
        "in", source=source.source(), target=DuckDB(str(scene.path)), tables=[retl.Table("people", write=Write.APPEND)]
    )
    with pytest.raises(ConfigError, match="may not read or write other files"):
        await pipeline.run_once()
    await pipeline.aclose()
    assert scene.run("SELECT * FROM loot") == []


async def test_what_retl_makes_is_private(tmp_path: Path) -> None:
    source = Database(tmp_path / "app.db")
    source.run("CREATE TABLE people (id INTEGER PRIMARY KEY)", "INSERT INTO people VALUES (1)")
    path = tmp_path / "made.duckdb"
    pipeline = retl.Pipeline("in", source=SQLite(str(source.path)), target=DuckDB(str(path)), tables=["people"])
    await pipeline.run_once()
    await pipeline.aclose()
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    await pipeline.run_once()
    await pipeline.aclose()
    assert path.stat().st_mode & 0o777 == 0o644  # the user's choice stays
