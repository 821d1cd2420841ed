"""A SQLite source: how the file is opened, what is offered, and what values are."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import retl
from retl.connectors import SQLite
from retl.connectors.sqlite import file
from retl.connectors.sqlite.source import SQLiteSource
from retl.model.actions import PreAction
from retl.model.errors import ConfigError, GuardStopped, SourceError
from tests.support import Database, Warehouse


@pytest.fixture
def shop(tmp_path: Path) -> Database:
    return Database(tmp_path / "shop.db")


@pytest.fixture
def app(tmp_path: Path) -> Database:
    return Database(tmp_path / "app.db")


def job(shop: Database, app: Database | Warehouse, *tables: retl.Table, **words: Any) -> retl.Pipeline:
    target = app.target() if isinstance(app, Database) else app.source()
    return retl.Pipeline("shop", source=shop.source(), target=target, tables=tables, **words)


async def listed(shop: Database) -> list[str]:
    source = shop.source().source()
    try:
        return await source.list_tables()
    finally:
        await source.aclose()


async def test_what_is_a_part_of_something_else_is_not_offered(shop: Database) -> None:
    shop.run(
        "CREATE TABLE notes -- virtual? no\n (id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT)",
        "CREATE VIRTUAL TABLE words USING fts5(body, content='notes')",
        "CREATE VIRTUAL TABLE places USING rtree(id, low, high)",
        "CREATE TABLE notes_arc_20240501120000000001 (id)",
        "CREATE TABLE notes_arc_2024 (id)",
        "CREATE TABLE _retl_new_notes_01234567_1 (id)",
        "CREATE TABLE words_of_mine (id)",
        "CREATE VIEW seen AS SELECT * FROM notes",
        "INSERT INTO notes (body) VALUES ('x')",
        "ANALYZE",
    )
    assert await listed(shop) == ["notes", "notes_arc_2024", "seen", "words_of_mine"]


@contextmanager
def one_row_in_wal(path: Path) -> Iterator[sqlite3.Connection]:
    """A file whose only row lies in the log that a running application keeps beside it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as theirs:
        theirs.execute("PRAGMA journal_mode = WAL")
        theirs.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, n TEXT)")
        theirs.execute("INSERT INTO t VALUES (1, 'a')")
        yield theirs


async def test_a_source_is_opened_for_reading_only(shop: Database, app: Database) -> None:
    with one_row_in_wal(shop.path):
        before = shop.path.read_bytes()
        await job(shop, app, retl.Table("t")).run_once()
        assert app.rows("t") == [(1, "a")]
        assert shop.path.read_bytes() == before
    for path in (shop.path, *shop.path.parent.glob("shop.db-*")):
        path.chmod(0o444)
    await job(shop, app, retl.Table("t")).run_once()
    async with SQLiteSource(shop.source()).connect() as reader:
        with pytest.raises(SourceError, match="only read"):
            await reader.query("INSERT INTO t VALUES (2, 'b')")


@pytest.mark.parametrize("where", ["1; DROP TABLE t", "id IN (SELECT 1); DELETE FROM t"])
async def test_a_filter_is_one_statement(shop: Database, app: Database, where: str) -> None:
    shop.run("CREATE TABLE t (id INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    with pytest.raises(retl.RetlError):
        await job(shop, app, retl.Table("t", where=where)).run_once()
    assert shop.rows("t") == [(1,)]


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_a_database_without_a_file_is_refused(path: str) -> None:
    for opened in (SQLite(path).source, SQLite(path).target):
        with pytest.raises(ConfigError, match="a database of one connection alone"):
            opened()


def test_a_path_means_the_file_that_it_meant_when_the_pipeline_was_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Database(tmp_path / "shop.db").run("CREATE TABLE t (id INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    pipeline = retl.Pipeline("p", source=SQLite("shop.db"), target=SQLite("~/app.db"), tables=[retl.Table("t")])
    monkeypatch.chdir("/")
    anyio.run(pipeline.run_once)
    assert Database(tmp_path / "app.db").rows("t") == [(1,)]
    assert oct((tmp_path / "app.db").stat().st_mode)[-3:] == "600"


async def test_a_table_has_one_location_by_whatever_name_its_file_is_opened(shop: Database) -> None:
    shop.run("CREATE TABLE Users (id INTEGER PRIMARY KEY)", "CREATE VIEW seen AS SELECT * FROM users")
    link, hard = shop.path.with_name("link.db"), shop.path.with_name("hard.db")
    link.symlink_to(shop.path)
    os.link(shop.path, hard)
    found = set()
    for path in (shop.path, link, hard):
        source, target = SQLite(str(path)).source(), SQLite(str(path)).target()
        found |= {await source.location("users"), await source.location('"USERS"'), await target.location("uSers")}
        assert await source.location("seen") is None
        await source.aclose()
        await target.aclose()
    assert len(found) == 1
    target = SQLite(str(shop.path.with_name("new.db"))).target()
    assert await target.location("users") not in found
    await target.aclose()


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        ("TEXT", b"abc"),
        ("TEXT", "caf\udce9"),
        ("BLOB", "abc"),
        ("JSON", b"{}"),
        ("BOOLEAN", 2),
        ("INTEGER", 1.5),
        ("INT", "n/a"),
        ("DATETIME", 1714555800),
        ("REAL", "n/a"),
        ("", 7),
    ],
)
async def test_a_value_that_is_not_what_its_column_says_is_that_rows_reject(
    shop: Database, app: Database, declared: str, value: Any
) -> None:
    if declared == "":
        shop.run("CREATE TABLE t (id INTEGER PRIMARY KEY, v)", "INSERT INTO t VALUES (0, 'text'), (3, 'too')")
    else:
        shop.run(f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared}, w REAL)", "INSERT INTO t (id) VALUES (0), (3)")
    odd = value.encode(errors="surrogateescape") if isinstance(value, str) else value
    shop.run(f"INSERT INTO t (id, v) VALUES (1, {'CAST(? AS TEXT)' if isinstance(value, str) else '?'})", values=[odd])
    pipeline = job(shop, app, retl.Table("t", max_rejects=1))
    (scan,) = (await pipeline.run_once()).scans
    (reject,) = await pipeline.rejects()
    await pipeline.aclose()
    assert (scan.rejects, reject.column, str(json.loads(reject.key)["id"])) == (1, "v", "1")
    assert f"the column is declared {declared or 'TEXT'}, but it holds" in reject.reason
    assert "expressions may convert it" in reject.reason
    assert app.rows("t", "id") == [(0,), (3,)]


async def test_a_row_is_one_reject_and_every_such_row_is_one(shop: Database, app: Database) -> None:
    shop.run(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a INT, b INT, c)",
        "INSERT INTO t VALUES (1, 'x', 1, 0.5), (2, 2, 'y', 0.5), (3, 'x', 'y', 0.5), (4, 4, 4, 4), (5, 5, 5, 9007199254740993)",
    )
    pipeline = job(shop, app, retl.Table("t", max_rejects=4))
    (scan,) = (await pipeline.run_once()).scans
    found = {json.loads(reject.content)["id"]: reject.column for reject in await pipeline.rejects()}
    await pipeline.aclose()
    assert (scan.rejects, found) == (4, {1: "a", 2: "b", 3: "a", 5: "c"})
    assert app.rows("t") == [(4, 4, 4, 4.0)]


async def test_epochs_become_times_by_an_expression_of_the_columns_own_name(shop: Database, tmp_path: Path) -> None:
    shop.run(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, seen DATETIME, day DATE)", "INSERT INTO t VALUES (1, 1714555800, 5)"
    )
    words = {"seen": "DATETIME(seen, 'unixepoch')", "day": "CAST(day AS TEXT)"}
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    await job(shop, warehouse, retl.Table("t", expressions=words)).run_once()
    types = warehouse.run("SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 't' ORDER BY 1")
    assert types == [("day", "VARCHAR"), ("id", "BIGINT"), ("seen", "TIMESTAMP")]
    assert warehouse.run("SELECT CAST(seen AS VARCHAR), day FROM t") == [("2024-05-01 09:30:00", "5")]


@pytest.mark.parametrize("name", ["my.table", 'we"ird', "sel ect", "it's", "[x]", "main.x", '"q"'])
async def test_odd_tables_travel_between_two_files(shop: Database, app: Database, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    shop.run(
        f"CREATE TABLE {quoted} (a TEXT, B INT, c AS (a || b), primary key (a, b)) WITHOUT ROWID",
        f"INSERT INTO {quoted} VALUES ('x', 1), ('y', 2)",
    )
    (offered,) = await listed(shop)
    for pre_action, spelled in ((PreAction.NONE, offered), (PreAction.SWAP, quoted)):
        await job(shop, app, retl.Table(spelled, to=quoted, pre_action=pre_action)).run_once()
        assert app.run(f"SELECT * FROM {quoted} ORDER BY 1") == [("x", 1, "x1"), ("y", 2, "y2")]


async def test_two_spellings_of_one_target_are_two_writers(shop: Database, app: Database) -> None:
    shop.run(
        "CREATE TABLE a (id INTEGER PRIMARY KEY)", "CREATE TABLE b (id INTEGER PRIMARY KEY)", "INSERT INTO a VALUES (1)"
    )
    tables = [retl.Table(name, to=to, pre_action=PreAction.SWAP) for name, to in (("a", "Users"), ("b", "users"))]
    pipeline = job(shop, app, *tables)
    assert [found.subject for found in await pipeline.check() if found.level == "error"] == ["b"]
    with pytest.raises(ConfigError, match="'a' and 'b' would both be written to 'Users'; only 'a' is"):
        await pipeline.run_once()
    await pipeline.aclose()
    assert app.rows("users") == [(1,)]


# The order of a cursor ------------------------------------------------------

DAY = "2024-05-01"


@pytest.mark.parametrize("declared", ["DATETIME", "TEXT", "TIMESTAMPTZ"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"{DAY}T09:30:00", f"{DAY} 11:00:00"),
        (f"{DAY} 09:30:00+02:00", f"{DAY} 09:00:00+00:00"),
        (f"{DAY}T09:30:00Z", f"{DAY}T09:30:00.5Z"),
        (f"{DAY}T09:30:00Z", "2024-04-30T23:00:00-12:00"),
        (f"{DAY} 09:30:00", f"{DAY} 09:30"),
        (f"{DAY} 09:30:00", 1714555800),
        (f"{DAY} 09:30:00", ""),
        (f"{DAY} 09:30", DAY),
        (f"{DAY} 09:30:00", f"{DAY} 08:30:00\t"),
    ],
)
async def test_times_in_two_forms_are_refused_before_one_is_missed(
    shop: Database, app: Database, declared: str, old: Any, new: Any
) -> None:
    if declared == "TEXT" and not isinstance(new, str):
        return  # the column makes text of it
    shop.run(f"CREATE TABLE t (id INTEGER PRIMARY KEY, at {declared})", "INSERT INTO t VALUES (0, '2023-01-01')")
    shop.run("INSERT INTO t VALUES (1, ?)", values=[old])
    table = retl.Table("t", cursor="at", lookback="1h" if len(old) > 16 else 0)
    if len(old) > 16 or declared == "TEXT":
        await job(shop, app, table).run_once()
    shop.run("INSERT INTO t VALUES (9, ?)", values=[new])
    with pytest.raises(SourceError, match="holds times in more than one form") as refused:
        await job(shop, app, table).run_once()
    assert repr(new) in str(refused.value)
    if isinstance(new, str) and new not in ("", f"{DAY} 08:30:00\t"):
        await by_the_way_out(shop, str(refused.value))


async def test_times_at_the_lower_end_of_a_window_are_looked_at_too(shop: Database, app: Database) -> None:
    shop.run("CREATE TABLE t (id INTEGER PRIMARY KEY, at DATETIME)", f"INSERT INTO t VALUES (1, '{DAY}T09:30:00')")
    table = retl.Table("t", cursor="at", lookback="10d")
    await job(shop, app, table).run_once()
    shop.run("INSERT INTO t VALUES (2, '2024-04-21 11:00:00')")  # a late one, within the ten days
    with pytest.raises(SourceError, match="in more than one form"):
        await job(shop, app, table).run_once()


async def by_the_way_out(shop: Database, message: str) -> None:
    """What the message says to do brings every row."""
    query = message.split('query = "')[1].split('"')[0]
    copy = Database(shop.path.with_name("copy.db"))
    await job(shop, copy, retl.Table("t", query=query, key="id", cursor="changed")).run_once()
    names = ", ".join(name for (name,) in shop.run("SELECT name FROM pragma_table_info('t')"))
    assert copy.rows("t", names) == shop.rows("t")


@pytest.mark.parametrize("declared", ["DATETIME", "TEXT"])
async def test_fractions_of_any_length_are_in_order(shop: Database, app: Database, declared: str) -> None:
    times = ["09:30:00", "09:30:00.1", "09:30:00.100", "09:30:00.15", "09:30:01.000000", "09:30:01", "09:30:01.0"]
    shop.run(f"CREATE TABLE t (id INTEGER PRIMARY KEY, at {declared})")
    for number, time in enumerate(times):
        shop.run("INSERT INTO t VALUES (?, ?)", values=[number, f"{DAY} {time}"])
        await job(shop, app, retl.Table("t", cursor="at")).run_once()
        assert len(app.rows("t")) == number + 1


@pytest.mark.parametrize(
    ("declared", "old", "new"),
    [("TEXT", "9", "10"), ("DECIMAL TEXT(9,2)", "9.50", "10.50"), ("VARCHAR(9)", "20240501", "2024050112")],
)
async def test_numbers_that_are_text_are_refused_before_one_is_missed(
    shop: Database, app: Database, declared: str, old: str, new: str
) -> None:
    shop.run(f"CREATE TABLE t (id INTEGER PRIMARY KEY, n {declared})", f"INSERT INTO t VALUES (1, '{old}')")
    await job(shop, app, retl.Table("t", cursor="n")).run_once()
    shop.run(f"INSERT INTO t VALUES (2, '{new}')")
    with pytest.raises(SourceError, match="holds numbers in more than one form") as refused:
        await job(shop, app, retl.Table("t", cursor="n")).run_once()
    await by_the_way_out(shop, str(refused.value))


@pytest.mark.parametrize("number", [12345678901234567890, 0.1 + 0.2, 12.34, 2**53 + 1, 1e300])
async def test_the_highest_number_is_read_to_its_last_digit(shop: Database, app: Database, number: float) -> None:
    shop.run("CREATE TABLE t (id INTEGER PRIMARY KEY, n DECIMAL(30, 20))", "INSERT INTO t VALUES (1, 0)")
    shop.run(f"INSERT INTO t VALUES (2, {number!r})")
    await job(shop, app, retl.Table("t", cursor="n")).run_once()
    assert app.rows("t", "id") == [(1,), (2,)]


async def test_a_target_that_was_emptied_is_not_passed_over(shop: Database, app: Database) -> None:
    shop.run("CREATE TABLE t (id INTEGER PRIMARY KEY, at DATETIME)", f"INSERT INTO t VALUES (1, '{DAY} 09:30:00')")
    table = retl.Table("t", to="T", cursor="at")
    await job(shop, app, table).run_once()
    for lost in ("DELETE FROM t", "DROP TABLE t"):
        app.run(lost)
        with pytest.raises(GuardStopped, match=r"the target table 'T' is (empty|gone)"):
            await job(shop, app, table).run_once()
        await job(shop, app, table, lost_target="reload").run_once()
        assert app.rows("t") == [(1, f"{DAY} 09:30:00")]


async def test_text_that_means_nothing_is_ordered_as_text(shop: Database, app: Database) -> None:
    shop.run("CREATE TABLE t (id INTEGER PRIMARY KEY, n TEXT)", "INSERT INTO t VALUES (1, 'a9'), (2, 'b'), (3, '1')")
    await job(shop, app, retl.Table("t", cursor="n")).run_once()
    assert app.rows("t") == [(1, "a9"), (2, "b"), (3, "1")]


async def test_rows_without_a_key_are_cut_by_a_hash_of_everything_they_have(shop: Database, app: Database) -> None:
    columns = ", ".join(f"v{number} TEXT" for number in range(250))
    shop.run(f"CREATE TABLE t (at DATETIME, {columns})")
    shop.run(
        "INSERT INTO t (at, v0, v249) SELECT '2024-05-01 00:00:00', CAST(x'ff' AS TEXT), value FROM json_each('[1, 2, 3, 4, 5, 6, 7, 8, 9]')"
    )
    table = retl.Table("t", cursor="at", columns=["at", "v249"], write="append", settle="1s", slice_rows=2)
    (scan,) = (await job(shop, app, table).run_once()).scans
    assert scan.slices > 1
    assert app.rows("t", "v249") == [(str(number),) for number in range(1, 10)]


async def test_the_session_has_every_setting_that_a_guarantee_rests_on(shop: Database) -> None:
    shop.run("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    for read_only, settings in ((True, file._SOURCE_SETTINGS), (False, file._TARGET_SETTINGS)):
        opened = file.SQLiteFile(shop.source(), read_only=read_only)
        for name, value in settings.items():
            if name not in file._UNREADABLE:
                asked = await opened.run(lambda connection, name=name: connection.execute(f"PRAGMA {name}").fetchone())
                assert (name, *asked) == (name, value)
        assert await opened.run(lambda connection: connection.execute("SELECT 'a' LIKE 'A'").fetchone()) == (1,)
        await opened.close()


@pytest.mark.parametrize("value", ["1714555800", "2460432.25", "'soon'"])
async def test_a_cursor_that_is_declared_as_a_time_and_holds_none_is_named(
    shop: Database, app: Database, value: str
) -> None:
    shop.run("CREATE TABLE t (id INTEGER PRIMARY KEY, at DATETIME)", f"INSERT INTO t VALUES (1, {value}), (2, NULL)")
    with pytest.raises(SourceError, match="declared as a time, but it holds") as refused:
        await job(shop, app, retl.Table("t", cursor="at")).run_once()
    if value == "1714555800":
        query = str(refused.value).split('query = "')[1].split('"')[0].replace("*", "id")
        await job(shop, app, retl.Table("t2", query=query, key="id", cursor="changed")).run_once()
        assert app.rows("t2") == [(1, 1714555800)]
