"""StarRocks and Doris to every target: by the library, and by a job file with the command line."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import retl
from retl.cli import main
from retl.connectors import DuckDB, MySQL, SQLite
from retl.model.errors import GuardStopped, UnsupportedError
from tests.integration.olap.scenes import Scene, opened
from tests.integration.olap.test_sources import everything
from tests.servers import olap
from tests.servers.database import Server

Row = tuple[Any, ...]
REPLACED = {"emptied": "truncate", "archived": "rename_and_create", "swapped": "swap"}
NOON = datetime.fromisoformat("2024-05-01 12:00:00")


class Place:
    """A target, and looks into it that go around retl."""

    def __init__(self, kind: str, folder: Path, server: Server | None, database: str) -> None:
        self.kind = kind
        self.path = folder / f"app.{kind}"
        self.server = server
        self.database = database

    def connector(self) -> Any:
        if self.server is not None:
            return MySQL(self.server.url(self.database))
        return (SQLite if self.kind == "sqlite" else DuckDB)(str(self.path))

    def words(self) -> str:
        """The target in a job file; the password comes from the environment."""
        if self.server is None:
            return f'{{ type = "{self.kind}", path = "{self.path}" }}'
        url = f"mysql://{self.server.user}@{self.server.host}:{self.server.port}/{self.database}"
        return f'{{ type = "mysql", url = "{url}", password = "${{APP_PASSWORD}}" }}'

    def query(self, sql: str) -> list[Row]:
        if self.server is not None:
            return self.server.query(sql, database=self.database)
        if not self.path.exists():
            return []
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self.path)) as connection:
                return connection.execute(sql).fetchall()
        with closing(duckdb.connect(str(self.path))) as connection:
            return connection.execute(sql).fetchall()

    def tables(self) -> list[str]:
        """The tables but those of the state store."""
        if self.server is not None:
            found = self.query("SHOW TABLES")
        elif self.kind == "sqlite":
            found = self.query("SELECT name FROM sqlite_master WHERE type = 'table'")
        else:
            found = self.query("SELECT table_name FROM duckdb_tables()")
        return sorted(name for (name,) in found if not name.startswith(("retl_", "sqlite_")))

    def orders(self, table: str = "orders") -> list[Row]:
        """The rows of such a table as the values that they stand for, by their id."""
        quote = "`" if self.server else '"'
        # MySQL shows six digits of a FLOAT.
        columns = ["CAST(single AS DOUBLE)" if name == "single" else f"{quote}{name}{quote}" for name in COLUMNS]
        found = self.query(f"SELECT {', '.join(columns)} FROM {table} ORDER BY id")
        return [
            tuple(None if v is None else read(v) for v, read in zip(row, COLUMNS.values(), strict=True))
            for row in found
        ]

    def reports(self, table: str) -> list[Row]:
        return [
            (id, str(total), note) for id, total, note in self.query(f"SELECT id, total, note FROM {table} ORDER BY id")
        ]


def _json(value: Any) -> Any:
    return json.loads(value)


COLUMNS: dict[str, Callable[[Any], Any]] = {
    "id": int,
    "flag": bool,
    "large": int,
    "money": Decimal,
    "single": np.float32,
    "text": str,
    "day": lambda value: date.fromisoformat(str(value)),
    "at": lambda value: datetime.fromisoformat(str(value)),
    "doc": _json,
    "raw": bytes,
}


def order(number: int, *, at: datetime | None = None, text: str = "") -> Row:
    """A row of ``orders``: what goes in, and what must come out."""
    if number % 10 == 9:
        return (number, *[None] * 6, at or NOON + timedelta(seconds=number), None, None)
    return (
        number,
        number % 2 == 0,
        (-1) ** number * (2**126 + number),
        Decimal(f"{number * 7919}.{number % 10_000:04d}"),
        np.float32(number / 3),
        text or f'it\'s №{number} \\ "😀"\n',
        date(2024, 1, 1) + timedelta(days=number % 300),
        at or NOON + timedelta(seconds=number, microseconds=number),
        {"n": number, "tags": ["a", None, "é"]},
        bytes([number % 256, 0, 255]),
    )


def put(scene: Scene, *rows: Row) -> None:
    given = [
        [json.dumps(v) if isinstance(v, dict) else float(v) if isinstance(v, np.float32) else v for v in row]
        for row in rows
    ]
    scene.insert("orders", *given)


@pytest.fixture(scope="module", params=["starrocks", "doris"])
def system(request: pytest.FixtureRequest) -> Iterator[tuple[str, Server]]:
    with olap.any_server(request.param) as server:
        yield request.param, server


@pytest.fixture
def scene(system: tuple[str, Server]) -> Iterator[Scene]:
    """A table of orders and three reports."""
    with opened(*system) as scene:
        scene.create(
            "orders",
            "id BIGINT NOT NULL, flag BOOLEAN, large LARGEINT, money DECIMAL(18, 4), single FLOAT, text VARCHAR(100), "
            f"day DATE, at {scene.moment}, doc JSON, raw VARBINARY",
        )
        put(scene, *map(order, range(1, 101)))
        for table in REPLACED:
            scene.create(table, "id INT NOT NULL, total DECIMAL(10, 2), note VARCHAR(20)")
            scene.insert(table, [1, Decimal("1.50"), "a"], [2, Decimal("-2.00"), None])
        yield scene


@pytest.fixture(params=["sqlite", "duckdb", "mysql", "mariadb"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if request.param in ("sqlite", "duckdb"):
        yield Place(request.param, tmp_path, None, "")
        return
    server: Server = request.getfixturevalue(f"{request.param}_server")
    monkeypatch.setenv("APP_PASSWORD", server.password)
    with server.fresh_database() as database:
        yield Place(request.param, tmp_path, server, database)


@pytest.fixture
def jobs(scene: Scene, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job file with every mode, in the current folder."""
    server = scene.server
    monkeypatch.setenv("DW_PASSWORD", server.password)
    url = f"{scene.kind}://{server.user}@{server.host}:{server.port}/{scene.database}"
    reports = "".join(
        f'\n[[pipelines.shop.tables]]\nname = "{name}"\npre_action = "{action}"\nkeep_archives = 2\n'
        if action == "rename_and_create"
        else f'\n[[pipelines.shop.tables]]\nname = "{name}"\npre_action = "{action}"\n'
        for name, action in REPLACED.items()
    )
    file = tmp_path / "jobs.toml"
    file.write_text(
        "[pipelines.shop]\n"
        f'source = {{ type = "{scene.kind}", url = "{url}", password = "${{DW_PASSWORD}}" }}\n'
        f"target = {place.words()}\n"
        'interval = "5m"\n\n'
        '[[pipelines.shop.tables]]\nname = "orders"\ncursor = "at"\nlookback = "30s"\nslice_rows = 20\n' + reports
    )
    monkeypatch.chdir(tmp_path)
    return file


Retl = Callable[..., str]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Retl:
    """Runs a command, which must succeed; what it printed."""

    def run(*arguments: str) -> str:
        code = main(arguments)
        out, err = capsys.readouterr()
        assert (code, err) == (0, ""), f"{arguments}: {code}\n{out}\n{err}"
        return str(out)

    return run


def change(scene: Scene) -> list[Row]:
    """What happens to the source between two scans; the orders that a target must have then."""
    late = order(200, at=NOON + timedelta(seconds=90, microseconds=5))  # committed late, with an older cursor
    tie = order(201, at=NOON + timedelta(seconds=100, microseconds=100))  # ties with the watermark
    moved = order(50, at=NOON + timedelta(seconds=101), text="moved")
    new = order(202, at=NOON + timedelta(seconds=101, microseconds=1))
    put(scene, late, tie, moved, new)
    scene.run("DELETE FROM orders WHERE id = 7")  # which no incremental scan can see
    for table in REPLACED:
        scene.run(f"DELETE FROM {table} WHERE id = 1")
        scene.insert(table, [3, Decimal("3.25"), "c"])
    kept = [order(number) for number in range(1, 101) if number != 50]
    return sorted([*kept, moved, late, tie, new], key=lambda row: int(row[0]))


BEFORE = [(1, "1.50", "a"), (2, "-2.00", None)]
AFTER = [(2, "-2.00", None), (3, "3.25", "c")]


# The commands are the same for every pair; the library is tried with each.
COMMANDS = pytest.mark.parametrize(
    ("system", "place"),
    [
        ("starrocks", "mysql"),
        ("starrocks", "mariadb"),
        ("starrocks", "duckdb"),
        ("doris", "mysql"),
        ("doris", "sqlite"),
    ],
    indirect=True,
)


@COMMANDS
def test_a_job_file_with_every_mode(scene: Scene, place: Place, jobs: Path, command: Retl) -> None:
    checked = command("check")
    assert [line.split()[:3] for line in checked.splitlines()[1:] if line.startswith("ok")][:3] == [
        ["ok", "shop", "source"],
        ["ok", "shop", "target"],
        ["ok", "shop", "orders"],
    ]
    assert scene.server.password not in checked

    command("run", "--once")
    assert place.tables() == ["archived", "emptied", "orders", "swapped"]
    assert place.orders() == [order(number) for number in range(1, 101)]
    assert {table: place.reports(table) for table in REPLACED} == dict.fromkeys(REPLACED, BEFORE)

    expected = change(scene)
    ran = command("run", "--once")
    # The thirty rows of the lookback and the tie with its end, and the four that changed.
    assert "shop.orders: 3" in ran and "4 changed" in ran
    assert place.orders() == expected
    assert {table: place.reports(table) for table in REPLACED} == dict.fromkeys(REPLACED, AFTER)
    (archive,) = [name for name in place.tables() if name.startswith("archived_arc_")]
    assert place.reports(archive) == BEFORE

    status = command("status")
    (orders,) = [line for line in status.splitlines() if " orders " in line]
    assert orders.split()[:3] == ["🕒", "orders", "done"] and orders.endswith("2024-05-01 12:01:41.000001")

    # Nothing has changed: what the lookback reads again is as it was.
    assert "shop.orders: 3" in (again := command("run", "--once")) and ", 0 changed" in again
    assert place.orders() == expected


@COMMANDS
def test_plan_shows_window_sql_ddl_and_casts_and_writes_nothing(
    scene: Scene, place: Place, jobs: Path, command: Retl
) -> None:
    shown = command("plan")
    for part in (
        "orders -> orders: incremental by at",
        "reads   100 rows in ",
        "window  at <= 2024-05-01 12:01:40.000100",
        "FROM `orders`",
        "CAST(`single` AS DOUBLE) AS `single`",
        "MAX(`at`)",
        "emptied -> emptied: full scan, pre_action truncate",
        "archived -> archived: full scan, pre_action rename_and_create",
        "swapped -> swapped: full scan, pre_action swap",
        "CREATE TABLE",
        "cast    ",
    ):
        assert part in shown
    assert scene.server.password not in shown
    (orders, *_) = json.loads(command("plan", "--json"))
    assert orders["window"]["upper"] == "2024-05-01 12:01:40.000100"
    # The question for the bounds, and the first slice.
    bounds, rows = orders["source"]
    assert bounds.startswith("SELECT CAST(MIN(`at`) AS VARCHAR), CAST(MAX(`at`) AS VARCHAR), ")
    bound = "CAST('2024-05-01 12:00:19.000000' AS DATETIME(6))" if scene.doris else "'2024-05-01 12:00:19'"
    assert rows.endswith(f" FROM `orders` WHERE `at` <= {bound}")
    assert place.tables() == []
    command("run", "--once")
    after = place.orders()
    again = json.loads(command("plan", "--json"))[0]
    assert (again["window"]["lower"], again["window"]["upper"]) == (
        "2024-05-01 12:01:10.000100",
        "2024-05-01 12:01:40.000100",
    )
    assert place.orders() == after


@pytest.mark.parametrize("words", [{"cursor": "at", "lookback": "30s"}, {"pre_action": "swap"}])
async def test_a_pipeline_of_the_library(scene: Scene, place: Place, words: dict[str, Any]) -> None:
    job = retl.Pipeline(
        "shop",
        source=scene.connector(),
        target=place.connector(),
        tables=[retl.Table("orders", **words)],
        slice_rows=25,
    )
    first = (await job.run_once()).scans[0]
    assert (first.status, first.rows, first.rejects) == ("done", 100, 0)
    assert place.orders() == [order(number) for number in range(1, 101)]
    expected = change(scene)
    if "pre_action" in words:
        expected = [row for row in expected if row[0] != 7]
    second = (await job.run_once()).scans[0]
    await job.aclose()
    assert second.status == "done"
    assert place.orders() == expected


async def test_partitions_that_have_not_changed_are_left_out(scene: Scene, place: Place) -> None:
    job = retl.Pipeline(
        "shop",
        source=scene.connector(skip_unchanged_partitions=True),
        target=place.connector(),
        tables=[retl.Table("orders")],
    )
    assert (await job.run_once()).scans[0].rows == 100
    assert (await job.run_once()).scans[0].rows == 0
    put(scene, order(101))
    assert (await job.run_once()).scans[0].rows == 101
    assert (await job.run_once()).scans[0].rows == 0
    await job.aclose()
    assert place.orders() == [order(number) for number in range(1, 102)]


async def test_partitions_are_not_left_out_of_a_target_that_was_lost(scene: Scene, place: Place) -> None:
    def pipeline(**words: Any) -> retl.Pipeline:
        source = scene.connector(skip_unchanged_partitions=True)
        return retl.Pipeline("shop", source=source, target=place.connector(), tables=[retl.Table("orders")], **words)

    async with pipeline() as job:
        assert (await job.run_once()).scans[0].rows == 100
    place.query("DROP TABLE orders")
    async with pipeline() as job:
        with pytest.raises(GuardStopped, match="'orders' is gone"):
            await job.run_once()
    async with pipeline(lost_target="reload") as job:
        assert (await job.run_once()).scans[0].rows == 100
    assert place.orders() == [order(number) for number in range(1, 101)]


# Types ----------------------------------------------------------------------


def extremes(scene: Scene) -> dict[str, tuple[str, pa.DataType | None, list[tuple[Any, Any]]]]:
    """Of each column its type, what it is in Arrow (``None``: JSON), and per row what goes in and what that means."""
    found: dict[str, tuple[str, pa.DataType | None, list[tuple[Any, Any]]]] = {**everything(scene)}
    for name in ("doc", "free"):
        if name in found:
            found[name] = (found[name][0], None, found[name][2])
    ends = ["0001-01-01 00:00:00.000000", "9999-12-31 23:59:59.999999"]
    found["ends"] = (scene.moment, pa.timestamp("us"), [(end, end) for end in ends])
    if scene.doris:
        found["zoned_ends"] = ("TIMESTAMPTZ", pa.timestamp("us", "UTC"), [(f"{end}+00:00", f"{end}Z") for end in ends])
        highest = "ffff:" * 7 + "ffff"
        found["six_high"] = ("IPV6", pa.string(), [(highest, highest), ("::1", "::1")])
    tags, pairs, inner = ["a", 'b"', None], {"k": 1, "ü": None}, (1, "z")
    found["tags"] = ("ARRAY<STRING>", None, [(tags, json.dumps(tags)), ([], "[]")])
    found["pairs"] = ("MAP<STRING, INT>", None, [(pairs, json.dumps(pairs)), ({}, "{}")])
    bare = '["a", "b"", null]' if scene.doris else '["a","b\\"",null]'
    found["bare_tags"] = ("ARRAY<STRING>", pa.string(), [(tags, bare), ([], "[]")])
    struct = "STRUCT<x: INT, y: STRING>" if scene.doris else "STRUCT<x INT, y STRING>"
    found["inner_"] = (struct, None, [(inner, '{"x": 1, "y": "z"}'), (None, None)])
    return found


def meaning(kind: pa.DataType | None, value: Any) -> Any:
    """What a value of a target stands for, however the target keeps it."""
    if value is None:
        return None
    if kind is None:
        return json.loads(value)
    if pa.types.is_boolean(kind):
        return bool(value)
    if pa.types.is_integer(kind):
        return int(value)
    if pa.types.is_decimal(kind):
        return Decimal(value)
    if pa.types.is_float32(kind):
        return np.float32(value)
    if pa.types.is_floating(kind):
        return float(value)
    if pa.types.is_date(kind):
        return date.fromisoformat(str(value))
    if pa.types.is_timestamp(kind):
        moment = datetime.fromisoformat(str(value))
        return moment if kind.tz is None else moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    return bytes(value) if pa.types.is_binary(kind) else str(value)


def shown(place: Place, name: str, kind: pa.DataType | None) -> str:
    """The expression that shows all of a value."""
    if place.server is not None:
        return f"CAST(`{name}` AS DOUBLE)" if kind == pa.float32() else f"`{name}`"
    # Python knows no time with a zone as DuckDB has it.
    zoned = place.kind == "duckdb" and kind == pa.timestamp("us", "UTC")
    return f"CAST(\"{name}\" AT TIME ZONE 'UTC' AS VARCHAR)" if zoned else f'"{name}"'


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"pre_action": "swap"},
        *({"cursor": name, "null_cursor": "include", "slice_rows": 1} for name in ("ends", "large")),
    ],
    ids=lambda words: words.get("cursor") or words.get("pre_action", "upsert"),
)
async def test_every_type_at_its_extremes_means_the_same_in_every_target(
    scene: Scene, place: Place, words: dict[str, Any]
) -> None:
    columns = extremes(scene)
    declared = ", ".join(f"{name} {kind}" for name, (kind, _, _) in columns.items())
    scene.create("every_type", f"id BIGINT NOT NULL, {declared}")
    rows = [[number, *(pairs[number][0] for _, _, pairs in columns.values())] for number in (0, 1)]
    scene.insert("every_type", *rows, [2, *[None] * len(columns)])
    nested = {name: f"to_json(`{name}`)" for name in ("tags", "pairs", "inner_")}
    if not scene.doris:
        nested["tags"] = "CAST(`tags` AS JSON)"

    table = retl.Table("every_type", expressions=nested, **words)
    async with retl.Pipeline("p", source=scene.connector(), target=place.connector(), tables=[table]) as job:
        (scan,) = (await job.run_once()).scans
    assert (scan.status, scan.rows, scan.rejects) == ("done", 3, 0)

    chosen = ", ".join(shown(place, name, kind) for name, (_, kind, _) in columns.items())
    found = place.query(f"SELECT {chosen} FROM every_type ORDER BY id")
    kinds = [kind for _, kind, _ in columns.values()]
    held = [dict(zip(columns, map(meaning, kinds, row), strict=True)) for row in found]
    assert held[:2] == [
        {name: meaning(kind, pairs[number][1]) for name, (_, kind, pairs) in columns.items()} for number in (0, 1)
    ]
    assert held[2:] == [dict.fromkeys(columns)]


async def test_digits_that_a_target_has_no_place_for_are_refused_before_anything_is_written(
    scene: Scene, place: Place
) -> None:
    values = ["0." + "9" * 38, "-0." + "0" * 37 + "1"]
    scene.create("digits", "id BIGINT NOT NULL, share DECIMAL(38, 38)")
    scene.insert("digits", *[[number, value] for number, value in enumerate(values)])
    table = retl.Table("digits")
    async with retl.Pipeline("p", source=scene.connector(), target=place.connector(), tables=[table]) as job:
        if place.server is not None:  # thirty digits after the point
            with pytest.raises(UnsupportedError, match=r"column 'share' is of type decimal128\(38, 38\)"):
                await job.run_once()
            assert place.tables() == []
            return
        assert (await job.run_once()).ok
    found = place.query("SELECT share FROM digits ORDER BY id")
    assert [Decimal(value) for (value,) in found] == list(map(Decimal, values))


async def test_numbers_that_a_target_does_not_know_are_rejects_with_a_reason(scene: Scene, place: Place) -> None:
    scene.create("odd", "id BIGINT NOT NULL, ratio DOUBLE")
    scene.insert("odd", [1, "nan"], [2, "inf"], [3, "-inf"], [4, "0.5"], [5, "-1.7976931348623157e308"])
    known = {"4": 0.5, "5": -1.7976931348623157e308}
    if place.server is None:
        known |= {"2": float("inf"), "3": float("-inf")}
    if place.kind == "duckdb":
        known |= {"1": float("nan")}
    table = retl.Table("odd", max_rejects=3)
    async with retl.Pipeline("p", source=scene.connector(), target=place.connector(), tables=[table]) as job:
        (scan,) = (await job.run_once()).scans
        rejects = await job.rejects()
    assert (scan.rows, scan.rejects) == (5, 5 - len(known))
    found = place.query("SELECT id, ratio FROM odd ORDER BY id")
    assert repr(found) == repr([(int(number), known[number]) for number in sorted(known)])
    assert {str(json.loads(reject.key)["id"]) for reject in rejects} == {*"12345"} - {*known}
    reason = "SQLite has no NaN" if place.kind == "sqlite" else "(?i)incorrect double value"
    assert all(reject.column == "ratio" and re.match(reason, reject.reason) for reject in rejects), rejects
