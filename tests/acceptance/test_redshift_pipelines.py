"""Redshift to MySQL, with every word of the document: by the library, and by a job file with the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import retl
from retl.cli import main
from retl.connectors import MySQL, PostgreSQL
from retl.model.actions import Action, PreAction
from retl.model.errors import ConfigError, GuardStopped
from tests.fake_redshift import Bucket, Cluster, FakeRedshift, Refusal
from tests.integration.redshift.scene import Scene
from tests.servers import s3
from tests.servers.database import Server
from tests.servers.postgres import PostgresServer

Row = tuple[Any, ...]
NOON = datetime.fromisoformat("2024-05-01 12:00:00")
BEFORE = [(1, Decimal("1.50"), "a"), (2, Decimal("-2.00"), None)]
AFTER = [(2, Decimal("-2.00"), None), (3, Decimal("3.25"), "c")]
REPLACED = {"emptied": "truncate", "archived": "rename_and_create", "swapped": "swap", "mirrored": "mirror"}


@pytest.fixture
def cluster(redshift_server: Cluster) -> Cluster:
    return redshift_server


@pytest.fixture(scope="module")
def lake() -> Iterator[Bucket]:
    with s3.started() as server:
        bucket = Bucket("lake", server.endpoint, s3.ACCESS_KEY, s3.SECRET_KEY)
        bucket.create()
        yield bucket


def order(number: int, *, seconds: float | None = None, text: str = "") -> Row:
    """A row of ``orders``: what goes in, and what must come out."""
    at = NOON + timedelta(seconds=number if seconds is None else seconds, microseconds=number)
    doc = json.dumps({"n": number, "tags": ["a", None, "\u00e9"]}, ensure_ascii=False, separators=(",", ":"))
    return (
        number,
        Decimal(f"{number}.2500"),
        text or f'it\'s \u2116{number} \\ "\U0001f600"\n',
        number % 2,
        at,
        at,
        doc,
        bytes([number % 256, 0, 255]),
    )


def put(scene: Scene, *rows: Row) -> None:
    for start in range(0, len(rows), 100):
        values = ", ".join(_values(*row) for row in rows[start : start + 100])
        scene.run(f"INSERT INTO {scene.schema}.orders VALUES {values}")


def _values(
    id: int, price: Decimal, text: str, flag: int, at: datetime, instant: datetime, doc: str, raw: bytes
) -> str:
    text = text.replace("\\", "\\\\").replace("'", "''")
    return (
        f"({id}, {price}, '{text}', {bool(flag)}, '{at}', '{instant}+00', JSON_PARSE('{doc}'), FROM_HEX('{raw.hex()}'))"
    )


@pytest.fixture
def scene(cluster: Cluster) -> Iterator[Scene]:
    """A table of orders, and reports that are read whole."""
    with cluster.fresh_schema() as schema:
        scene = Scene(cluster, schema)
        scene.create(
            "orders",
            "id BIGINT PRIMARY KEY, price NUMERIC(18, 4), text VARCHAR(200), flag BOOLEAN, at TIMESTAMP, instant TIMESTAMPTZ, "
            "doc SUPER, raw VARBYTE(10)",
        )
        put(scene, *map(order, range(1, 101)))
        for table in REPLACED:
            scene.create(table, "id INTEGER PRIMARY KEY, total NUMERIC(10, 2), note VARCHAR(20)")
            scene.insert(table, *BEFORE)
        yield scene
    if isinstance(cluster, FakeRedshift):
        cluster.reset()


class App:
    """The target, and looks into it that go around retl."""

    def __init__(self, server: Server, database: str) -> None:
        self.server = server
        self.database = database

    def connector(self) -> MySQL:
        return MySQL(self.server.url(self.database))

    def query(self, sql: str) -> list[Row]:
        return self.server.query(sql, database=self.database)

    def tables(self) -> list[str]:
        return sorted(name for (name,) in self.query("SHOW TABLES") if not name.startswith("retl_"))

    def orders(self, where: str = "1 = 1") -> list[Row]:
        found = self.query(f"SELECT id, price, text, flag, at, instant, doc, raw FROM orders WHERE {where} ORDER BY id")
        return [(*row[:6], json.loads(row[6]), row[7]) for row in found]

    def report(self, table: str) -> list[Row]:
        return self.query(f"SELECT id, total, note FROM {table} ORDER BY id")


@pytest.fixture
def app(mysql_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    monkeypatch.setenv("APP_PASSWORD", mysql_server.password)
    with mysql_server.fresh_database() as database:
        yield App(mysql_server, database)


def expected(*rows: Row) -> list[Row]:
    return sorted(((*row[:6], json.loads(row[6]), row[7]) for row in rows), key=lambda row: int(row[0]))


def pipeline(
    scene: Scene, app: App, *tables: retl.Table, source: dict[str, Any] | None = None, **words: Any
) -> retl.Pipeline:
    return retl.Pipeline(
        "shop", source=scene.connector(**(source or {})), target=app.connector(), tables=list(tables), **words
    )


@pytest.mark.parametrize("cursor", ["at", "instant"])
@pytest.mark.parametrize("way", ["auto", "cursor", "unload"])
async def test_incremental_by_timestamp_misses_no_change(
    scene: Scene, app: App, lake: Bucket, cursor: str, way: str
) -> None:
    options: dict[str, Any] = {"read": way}
    if way == "unload":
        scene.fake.bucket = scene.bucket = lake
        options = scene.unload()
    table = retl.Table("orders", cursor=cursor, lookback=30, slice_rows=40)
    async with pipeline(scene, app, table, source=options) as running:
        await running.run_once()
        assert app.orders() == expected(*map(order, range(1, 101)))
        late, tie, new = order(200, seconds=90), order(201, seconds=100), order(202, seconds=101)
        moved = order(50, seconds=101.5, text="moved")
        scene.run("DELETE FROM {}.orders WHERE id = 50")
        put(scene, late, tie, new, moved)
        await running.run_once()
    kept = [order(number) for number in range(1, 101) if number != 50]
    assert app.orders() == expected(*kept, late, tie, new, moved)
    assert lake.names() == []


@pytest.mark.parametrize(("table", "action"), REPLACED.items())
async def test_a_full_scan_follows_deletes(scene: Scene, app: App, table: str, action: str) -> None:
    words: dict[str, Any] = {"keep_archives": 1} if action == "rename_and_create" else {}
    async with pipeline(scene, app, retl.Table(table, pre_action=PreAction(action), **words)) as running:
        await running.run_once()
        assert app.report(table) == BEFORE
        scene.run(f"DELETE FROM {{}}.{table} WHERE id = 1")
        scene.insert(table, (3, "3.25", "c"))
        await running.run_once()
    assert app.report(table) == AFTER
    if action == "rename_and_create":
        (archive,) = [name for name in app.tables() if name.startswith(f"{table}_arc_")]
        assert app.report(archive) == BEFORE


async def test_a_full_scan_without_a_pre_action_keeps_what_is_gone(scene: Scene, app: App) -> None:
    async with pipeline(scene, app, retl.Table("emptied")) as running:
        await running.run_once()
        scene.run("DELETE FROM {}.emptied WHERE id = 1")
        scene.insert("emptied", (3, "3.25", "c"))
        await running.run_once()
    assert app.report("emptied") == [*BEFORE, AFTER[1]]


@pytest.mark.parametrize(
    ("blacklist", "after"),
    [
        (Action.INSERT, [(1, Decimal("9.00"), "a"), BEFORE[1]]),
        (Action.UPDATE, [*BEFORE, AFTER[1]]),
    ],
)
async def test_a_blacklisted_action_is_never_executed(
    scene: Scene, app: App, blacklist: Action, after: list[Row]
) -> None:
    async with pipeline(scene, app, retl.Table("emptied")) as running:
        await running.run_once()
    scene.run("UPDATE {}.emptied SET total = 9 WHERE id = 1")
    scene.insert("emptied", (3, "3.25", "c"))
    async with pipeline(scene, app, retl.Table("emptied"), blacklist=[blacklist]) as running:
        await running.run_once()
    assert app.report("emptied") == after


async def test_columns_are_chosen_renamed_and_computed(scene: Scene, app: App) -> None:
    table = retl.Table(
        "orders",
        to="prices",
        columns=["id", "price"],
        rename={"price": "cost"},
        expressions={"first_tag": "JSON_SERIALIZE(doc)", "double_price": "CAST(price * 2 AS NUMERIC(20, 4))"},
        where="id <= 2",
    )
    async with pipeline(scene, app, table) as running:
        await running.run_once()
    found = app.query("SELECT id, cost, double_price, first_tag FROM prices ORDER BY id")
    assert [(id, cost, double) for id, cost, double, _ in found] == [
        (1, Decimal("1.2500"), Decimal("2.5000")),
        (2, Decimal("2.2500"), Decimal("4.5000")),
    ]
    assert json.loads(found[0][3])["n"] == 1


def extremes(scene: Scene) -> None:
    scene.create(
        "extremes",
        "id BIGINT PRIMARY KEY, small SMALLINT, exact NUMERIC(38, 10), twice DOUBLE PRECISION, fixed CHAR(5), long VARCHAR(65535), "
        "day DATE, moment TIMESTAMP, instant TIMESTAMPTZ, clock TIME, zoned TIMETZ, raw VARBYTE(100), shape GEOMETRY, "
        "whole INTEGER, single REAL, flag BOOLEAN, doc SUPER, short VARCHAR(20)",
    )
    scene.run(
        "INSERT INTO {}.extremes SELECT -9223372036854775808, -32768, -1234567890123456789012345678.0123456789, 1e308, 'ab', "
        "REPEAT('你', 20000), '1000-01-01', '9999-12-31 23:59:59.999999', '2024-01-01 02:00:00.5+02', '23:59:59.5', "
        "'01:02:03+00', FROM_HEX('00ff'), ST_GeomFromText('POINT(1 2)'), NULL, NULL, NULL, NULL, NULL"
    )


async def test_types_and_their_extremes_arrive(scene: Scene, app: App) -> None:
    extremes(scene)
    async with pipeline(scene, app, retl.Table("extremes")) as running:
        await running.run_once()
    (row,) = app.query("SELECT * FROM extremes")
    assert row == (
        -(2**63), -32768, Decimal("-1234567890123456789012345678.0123456789"), 1e308, "ab", "你" * 20_000,
        date(1000, 1, 1), datetime.fromisoformat("9999-12-31 23:59:59.999999"), datetime.fromisoformat("2024-01-01 00:00:00.5"),
        timedelta(hours=23, minutes=59, seconds=59, milliseconds=500), "01:02:03+00", b"\x00\xff", "POINT(1 2)", *[None] * 5,
    )  # fmt: skip
    types: dict[str, str] = dict(
        app.query(
            "SELECT column_name, column_type FROM information_schema.columns "
            f"WHERE table_schema = '{app.database}' AND table_name = 'extremes'"
        )
    )
    wanted = {
        "exact": "decimal(38,10)",
        "moment": "datetime(6)",
        "clock": "time(6)",
        "long": "longtext",
        "raw": "longblob",
    }
    wanted |= {
        "whole": "int",
        "single": "float",
        "flag": "tinyint(1)",
        "doc": "json",
        "short": "varchar(20)",
        "twice": "double",
    }
    assert {name: types[name] for name in wanted} == wanted


@pytest.mark.parametrize("way", ["whole", "unload"])
async def test_they_arrive_in_postgresql(scene: Scene, postgres_server: PostgresServer, lake: Bucket, way: str) -> None:
    """Moments before Christ too, unless by UNLOAD."""
    extremes(scene)
    early = "9999-12-31 23:59:59.999999" if way == "unload" else "0044-03-15 12:00:00 BC"
    scene.run(f"INSERT INTO {{}}.extremes (id, moment, twice, doc) SELECT 1, '{early}', 'NaN', JSON_PARSE('[1.50]')")
    scene.fake.bucket = scene.bucket = lake
    options = scene.unload() if way == "unload" else {"read": way}
    with postgres_server.fresh_database() as database:
        async with retl.Pipeline(
            "shop",
            source=scene.connector(**options),
            target=PostgreSQL(postgres_server.url(database)),
            tables=[retl.Table("extremes")],
        ) as running:
            await running.run_once()
        low, other = postgres_server.query(
            "SELECT id, small, exact, twice, fixed, long, day, moment::text, instant AT TIME ZONE 'UTC', clock, zoned, "
            "raw, shape, whole, doc::text FROM extremes ORDER BY id",
            database=database,
        )
        types: dict[str, str] = dict(
            postgres_server.query(
                "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute "
                "WHERE attrelid = 'extremes'::regclass AND attnum > 0",
                database=database,
            )
        )
    assert low == (
        -(2**63), -32768, Decimal("-1234567890123456789012345678.0123456789"), 1e308, "ab", "你" * 20_000,
        date(1000, 1, 1), "9999-12-31 23:59:59.999999", datetime.fromisoformat("2024-01-01 00:00:00.5"),
        time(23, 59, 59, 500_000), time(1, 2, 3, tzinfo=UTC), b"\x00\xff", "POINT(1 2)", None, None,
    )  # fmt: skip
    assert (other[0], str(other[3]), other[7], json.loads(other[-1])) == (1, "nan", early, [1.5])
    assert types == {
        "id": "bigint", "small": "smallint", "exact": "numeric(38,10)", "twice": "double precision", "fixed": "text",
        "long": "text", "day": "date", "moment": "timestamp without time zone", "instant": "timestamp with time zone",
        "clock": "time without time zone", "zoned": "time with time zone", "raw": "bytea", "shape": "text", "whole": "integer",
        "single": "real", "flag": "boolean", "doc": "jsonb", "short": "text",
    }  # fmt: skip


async def test_two_rows_of_one_key_are_settled_by_the_latest_cursor(scene: Scene, app: App) -> None:
    """A primary key of Redshift is only information."""
    put(scene, order(1, seconds=500, text="newer"), order(1, seconds=400, text="older"))
    async with pipeline(scene, app, retl.Table("orders", cursor="at")) as running:
        report = await running.run_once()
    ((text,),) = app.query("SELECT text FROM orders WHERE id = 1")
    assert text == "newer"
    assert report.scans[0].older == 2


@pytest.mark.parametrize("action", [PreAction.TRUNCATE, PreAction.SWAP])
async def test_a_source_that_fails_never_empties_the_target(scene: Scene, app: App, action: PreAction) -> None:
    async with pipeline(scene, app, retl.Table("emptied", pre_action=action)) as running:
        await running.run_once()
        scene.inject('SELECT "id"', error=Refusal("permission denied for relation emptied", "42501"))
        with pytest.raises(ConfigError, match="permission denied"):
            await running.run_once()
    assert app.report("emptied") == BEFORE


async def test_an_empty_source_never_empties_the_target(scene: Scene, app: App) -> None:
    async with pipeline(scene, app, retl.Table("emptied", pre_action=PreAction.TRUNCATE)) as running:
        await running.run_once()
        scene.run("DELETE FROM {}.emptied")
        with pytest.raises(GuardStopped):
            await running.run_once()
    assert app.report("emptied") == BEFORE


async def test_postgresql_takes_the_same_rows(scene: Scene, postgres_server: PostgresServer) -> None:
    with postgres_server.fresh_database() as database:
        target = PostgreSQL(postgres_server.url(database))
        table = retl.Table("orders", cursor="at", lookback=30)
        async with retl.Pipeline("shop", source=scene.connector(), target=target, tables=[table]) as running:
            await running.run_once()
            new = order(202, seconds=101)
            put(scene, new)
            await running.run_once()
        found = postgres_server.query(
            "SELECT id, price, text, flag::int, at, instant AT TIME ZONE 'UTC', doc::text, raw FROM orders ORDER BY id",
            database=database,
        )
    rows = [(*row[:6], json.loads(row[6]), bytes(row[7])) for row in found]
    assert rows == expected(*map(order, range(1, 101)), new)


def test_a_cursor_with_truncate_is_refused(scene: Scene, app: App) -> None:
    with pytest.raises(ConfigError, match="cursor"):
        pipeline(scene, app, retl.Table("orders", cursor="at", pre_action=PreAction.TRUNCATE))


@pytest.fixture
def jobs(scene: Scene, app: App, lake: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job file with every mode, in the current folder."""
    scene.fake.bucket = lake
    cluster, server = scene.fake, app.server
    monkeypatch.setenv("RS_PASSWORD", cluster.reader[1])
    monkeypatch.setenv("S3_SECRET", lake.secret_key)
    reports = "".join(
        f'\n[[pipelines.shop.tables]]\nname = "{name}"\npre_action = "{action}"\n' for name, action in REPLACED.items()
    )
    file = tmp_path / "jobs.toml"
    file.write_text(
        "[pipelines.shop]\n"
        f'source = {{ type = "redshift", url = "redshift://{cluster.reader[0]}@localhost:{cluster.port}/{cluster.database}", '
        f'password = "${{RS_PASSWORD}}", schema = "{scene.schema}", tls_ca = "{cluster.authority}", unload = {{ '
        f'url = "s3://lake/jobs", endpoint = "http://{lake.endpoint}", access_key = "{lake.access_key}", secret_key = "${{S3_SECRET}}" }} }}\n'
        f'target = {{ type = "mysql", url = "mysql://{server.user}@{server.host}:{server.port}/{app.database}", password = "${{APP_PASSWORD}}" }}\n'
        'interval = 300\nblacklist = ["ALTER"]\n\n'
        '[[pipelines.shop.tables]]\nname = "orders"\ncursor = "at"\nlookback = "30s"\n' + reports
    )
    monkeypatch.chdir(tmp_path)
    return file


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command, which must succeed; what it printed."""

    def run(*arguments: str) -> str:
        code = main(arguments)
        out, err = capsys.readouterr()
        assert (code, err) == (0, ""), f"{arguments}: {code}\n{out}\n{err}"
        return str(out)

    return run


def test_a_job_file_with_every_mode(scene: Scene, app: App, jobs: Path, command: Callable[..., str]) -> None:
    checked = command("check")
    assert "Redshift" in checked
    assert scene.fake.reader[1] not in checked
    assert "orders" in command("tables")
    planned = command("plan")
    assert "in one answer" in planned
    command("run", "--once")
    assert app.tables() == sorted(["orders", *REPLACED])
    assert app.orders() == expected(*map(order, range(1, 101)))
    new = order(202, seconds=101)
    put(scene, new)
    for table in REPLACED:
        scene.run(f"DELETE FROM {{}}.{table} WHERE id = 1")
        scene.insert(table, (3, "3.25", "c"))
    command("run", "--once")
    assert app.orders() == expected(*map(order, range(1, 101)), new)
    assert {table: app.report(table) for table in REPLACED} == dict.fromkeys(REPLACED, AFTER)
    assert "orders" in command("status")
