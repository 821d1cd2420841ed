"""Every mode and option by a job file and the command line, and pipelines inside a host, against a real MySQL and a real MariaDB."""

from __future__ import annotations

import datetime as dt
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import retl
from retl import events
from retl.cli import main
from retl.connectors.mysql.reader import WireReader
from tests.acceptance.test_cli import Outcome, process, wait_for
from tests.integration.mysql.targets import Scene
from tests.servers.database import Server
from tests.servers.process import free_port
from tests.servers.statements import counted, globally
from tests.support import Recorder, running

SECRET = "RETL_TEST_SECRET"
REFRESHES = ["truncate", "rename_and_create", "swap"]
OLD = [(1, "a", dt.datetime(2024, 1, 1)), (2, "b", dt.datetime(2024, 1, 2)), (3, "c", dt.datetime(2024, 1, 3))]  # noqa: DTZ001
NEW = [(1, "a", dt.datetime(2024, 1, 1)), (3, "C", dt.datetime(2024, 2, 1)), (4, "d", dt.datetime(2024, 2, 2))]  # noqa: DTZ001
BOTH = sorted([*NEW, OLD[1]])
"""What an upsert leaves: the row that is gone from the source stays."""


@pytest.fixture
def shop(server: Server) -> Iterator[Scene]:
    """The source."""
    with server.fresh_database() as name:
        yield Scene(server, name)


@pytest.fixture
def app(server: Server, database: str) -> Scene:
    """The target, on the same server."""
    return Scene(server, database)


def fill(shop: Scene, table: str = "orders") -> None:
    shop.run(
        f"CREATE TABLE {table} (id INT PRIMARY KEY, city VARCHAR(20), updated_at DATETIME(6))",
        f"INSERT INTO {table} VALUES (1, 'a', '2024-01-01'), (2, 'b', '2024-01-02'), (3, 'c', '2024-01-03')",
    )


def change(shop: Scene, table: str = "orders") -> None:
    """One row is new, one is changed, one is gone."""
    shop.run(
        f"DELETE FROM {table} WHERE id = 2",
        f"UPDATE {table} SET city = 'C', updated_at = '2024-02-01' WHERE id = 3",
        f"INSERT INTO {table} (id, city, updated_at) VALUES (4, 'd', '2024-02-02')",
    )


class Desk:
    """A folder with a job file, and somebody who types commands there."""

    def __init__(self, shop: Scene, app: Scene, capsys: pytest.CaptureFixture[str]) -> None:
        self.shop, self.app = shop, app
        self._capsys = capsys

    def write(self, *lines: str, source: str = "", target: str = "") -> None:
        """The job file: one pipeline, whose further lines are given. ``source`` and ``target`` replace the servers."""
        head = f"[pipelines.shop]\nsource = {source or words(self.shop)}\ntarget = {target or words(self.app)}\n"
        Path("jobs.toml").write_text(head + "\n".join(lines) + "\n")

    def type(self, *arguments: str, code: int = 0) -> Outcome:
        done = Outcome(main(arguments), *self._capsys.readouterr())
        assert done.code == code, done
        assert "Traceback" not in done.out + done.err
        assert self.app.server.password not in done.out + done.err
        return done

    def run(self, *, code: int = 0) -> Outcome:
        return self.type("run", "--once", code=code)


def words(scene: Scene, *, user: str = "", port: int = 0, database: str = "") -> str:
    """A server in a job file; the password comes from the environment."""
    at = f"{user or scene.server.user}@{scene.server.host}:{port or scene.server.port}"
    return f'{{ type = "mysql", url = "mysql://{at}/{database or scene.database}", password = "${{{SECRET}}}" }}'


@pytest.fixture
def desk(
    shop: Scene, app: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Desk:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(SECRET, app.server.password)
    fill(shop)
    return Desk(shop, app, capsys)


# Modes ----------------------------------------------------------------------------


def test_every_mode_in_one_file(desk: Desk) -> None:
    names = ["upserted", "emptied", "archived", "swapped"]
    for name in names:
        fill(desk.shop, name)
    desk.write(
        'interval = "5m"\nlookback = "1h"\nslice_rows = 2',
        "tables = [",
        '  { name = "orders", cursor = "updated_at" },',
        '  { name = "upserted" },',
        '  { name = "emptied", pre_action = "truncate" },',
        '  { name = "archived", pre_action = "rename_and_create", keep_archives = 2 },',
        '  { name = "swapped", pre_action = "swap", max_shrink = "50%" },',
        "]",
    )
    desk.run()
    for name in ("orders", *names):
        assert desk.app.rows(name) == OLD
        change(desk.shop, name)
    desk.run()
    assert desk.app.rows("orders") == desk.app.rows("upserted") == BOTH
    assert desk.app.rows("emptied") == desk.app.rows("archived") == desk.app.rows("swapped") == NEW


def test_the_incremental_field_of_one_table(desk: Desk) -> None:
    desk.write('tables = [{ name = "orders", cursor = "updated_at" }]')
    desk.run()
    change(desk.shop)
    done = desk.run()
    assert "3 rows" not in done.out and "(incremental), up to 2024-02-02 00:00:00.000000" in done.out
    assert desk.app.rows("orders") == BOTH


def test_the_incremental_field_of_many_tables(desk: Desk) -> None:
    for name in ("ods_a", "ods_b"):
        fill(desk.shop, name)
    desk.shop.run("CREATE TABLE ods_c (id INT PRIMARY KEY)", "INSERT INTO ods_c VALUES (7)")
    desk.write('cursor = "updated_at"', '[[pipelines.shop.tables]]\nmatch = "ods_*"\nto = "copy_{name}"')
    desk.run()
    for name in ("ods_a", "ods_b"):
        change(desk.shop, name)
    done = desk.run()
    assert done.out.count("(incremental)") == 2 and "shop.ods_c: 1 row" in done.out
    assert desk.app.tables() == ["copy_ods_a", "copy_ods_b", "copy_ods_c"]
    assert desk.app.rows("copy_ods_a") == desk.app.rows("copy_ods_b") == BOTH
    assert desk.app.rows("copy_ods_c") == [(7,)]


def test_columns_names_conditions_and_expressions(desk: Desk) -> None:
    desk.write(
        "[[pipelines.shop.tables]]",
        'name = "orders"\nto = "towns"\ncolumns = ["id", "city"]\nrename = { city = "town" }\nwhere = "id <> 2"',
        """expressions = { city = "CONCAT(city, '🙂')" }""",
        "[[pipelines.shop.tables]]",
        'name = "totals"\nquery = "SELECT COUNT(*) AS n, 1 AS id FROM orders"\nkey = "id"\npre_action = "swap"',
    )
    desk.run()
    assert desk.app.rows("towns") == [(1, "a🙂"), (3, "c🙂")]
    assert list(desk.app.types("towns")) == ["id", "town"]
    assert desk.app.rows("totals", "id, n") == [(1, 3)]


def test_the_interval(desk: Desk) -> None:
    desk.write('interval = "1s"', 'tables = [{ name = "orders", cursor = "updated_at" }]')

    def rows() -> list[Any]:
        return desk.app.rows("orders") if "orders" in desk.app.tables() else []

    with process("run") as running:
        wait_for(lambda: rows() == OLD)
        change(desk.shop)
        wait_for(lambda: rows() == BOTH)
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=20)
    assert (running.returncode, err) == (0, "")
    assert "shop: every 1s" in out and desk.app.server.password not in out


# Actions that are forbidden -------------------------------------------------------


@pytest.mark.parametrize("blacklist", ["DELETE TRUNCATE DROP ALTER", "DELETE ALTER"])
def test_a_refresh_that_is_carried_on_does_nothing_that_is_forbidden(desk: Desk, blacklist: str) -> None:
    broken = 'where = "CASE WHEN id = 3 THEN (SELECT 1 UNION SELECT 2) ELSE 1 END = 1"'
    table = f'blacklist = {json.dumps(blacklist.split())}\n[[pipelines.shop.tables]]\nname = "orders"\nslice_rows = 1\npre_action = "rename_and_create"\n'
    desk.write(table)
    desk.run()
    change(desk.shop)
    desk.write(table + broken)
    with counted(desk.app.server) as sent:
        desk.run(code=1)
        desk.write(table)
        desk.run()
    assert desk.app.rows("orders") == NEW
    archives = [name for name in desk.app.tables() if "_arc_" in name]
    assert [desk.app.rows(name) for name in archives] == [OLD]
    others = [
        text
        for text in sent.statements
        if desk.app.database in text and "retl_stage" not in text and "retl_kept" not in text
    ]
    assert not [text for text in others if text.upper().startswith(tuple(blacklist.split()))]


# Commands -------------------------------------------------------------------------


def test_check_and_plan_write_nothing(desk: Desk) -> None:
    desk.write('[[pipelines.shop.tables]]\nname = "orders"\ncursor = "updated_at"')
    checked = desk.type("check")
    assert [line.split()[:3] for line in checked.out.splitlines()[1:]] == [
        ["ok", "shop", "source"],
        ["ok", "shop", "target"],
        ["ok", "shop", "orders"],
    ]
    assert ("MariaDB" if desk.app.mariadb else "MySQL") in checked.out
    planned = desk.type("plan")
    for part in (
        "orders -> orders: incremental by updated_at",
        "reads   3 rows in 1 slice",
        "window  updated_at <= 2024-01-03 00:00:00.000000",
        "CREATE TABLE",
        "`orders` (`id` int",
        "REPLACE INTO TABLE",
    ):
        assert part in planned.out, planned
    assert desk.type("tables").out == "shop: 1 table in the source\n  orders\n"
    assert desk.app.run("SHOW TABLES") == []
    for command in ("status", "rejects"):
        desk.type(command)
    assert "has never heard of this pipeline" in desk.type("history", code=1).err
    assert desk.app.run("SHOW TABLES") == []


@pytest.mark.parametrize("pre_action", REFRESHES)
def test_a_plan_shows_the_statements_of_a_refresh(desk: Desk, pre_action: str) -> None:
    desk.write(f'tables = [{{ name = "orders", pre_action = "{pre_action}" }}]')
    desk.run()
    wanted = {"truncate": "TRUNCATE TABLE", "rename_and_create": "_arc_", "swap": "RENAME TABLE"}[pre_action]
    before = desk.app.rows("orders"), desk.app.run("SHOW TABLES")
    assert wanted in desk.type("plan").out
    assert (desk.app.rows("orders"), desk.app.run("SHOW TABLES")) == before


def test_status_history_rejects_and_reset(desk: Desk) -> None:
    desk.app.run(
        "CREATE TABLE orders (id INT PRIMARY KEY, city VARCHAR(20), updated_at DATETIME(6), "
        "CONSTRAINT small CHECK (city <> 'c'))"
    )
    desk.write('interval = "5m"', 'tables = [{ name = "orders", cursor = "updated_at" }]')
    assert "last run never" in desk.type("status").out
    assert "rejected 1 row" in desk.run(code=1).out
    assert desk.app.rows("orders") == []
    desk.write('interval = "5m"', 'tables = [{ name = "orders", cursor = "updated_at", max_rejects = 1 }]')
    assert "1 row rejected" in desk.run().out
    assert desk.app.rows("orders") == OLD[:2]
    status = desk.type("status").out
    assert "🕒" in status and "2024-01-03 00:00:00.000000" in status
    (reject,) = desk.type("rejects", "--json").json()
    assert json.loads(reject["reject"]["content"])["city"] == "c" and "small" in reject["reject"]["reason"]
    history = desk.type("history", "--json").json()
    assert [(report["status"], report["rows"], report["rejects"]) for report in history] == [
        ("done", 3, 1),
        ("failed", 3, 1),
    ]
    desk.app.run("ALTER TABLE orders DROP CONSTRAINT small")
    assert desk.type("reset", "--yes").out == "shop: 1 checkpoint forgotten\n"
    desk.run()
    assert desk.app.rows("orders") == OLD
    assert desk.type("rejects", "--clear").out == "shop: 1 reject forgotten\n"


# Notes beforehand -----------------------------------------------------------------


def test_a_server_that_takes_no_files_is_noted_and_written_all_the_same(desk: Desk) -> None:
    desk.write('tables = ["orders"]')
    with globally(desk.app.server, "local_infile", 0):
        assert "local_infile" in desk.type("check").out
        desk.run()
    assert desk.app.rows("orders") == OLD


def test_a_row_that_clashes_in_another_unique_key_never_takes_the_place_of_a_stranger(desk: Desk) -> None:
    desk.app.run(
        "CREATE TABLE orders (id INT PRIMARY KEY, city VARCHAR(20) UNIQUE, updated_at DATETIME(6))",
        "INSERT INTO orders VALUES (77, 'b', '2020-01-01')",
    )
    desk.write('tables = [{ name = "orders", max_rejects = 1 }]')
    assert "1 row rejected" in desk.run().out
    assert desk.app.rows("orders") == [OLD[0], OLD[2], (77, "b", dt.datetime(2020, 1, 1))]  # noqa: DTZ001
    (reject,) = desk.type("rejects", "--json").json()
    assert "Duplicate entry 'b'" in reject["reject"]["reason"]


@pytest.mark.parametrize("pre_action", ["none", *REFRESHES])
def test_triggers_and_foreign_keys_are_noted_or_refused(desk: Desk, pre_action: str) -> None:
    desk.app.run(
        "CREATE TABLE orders (id INT PRIMARY KEY, city VARCHAR(20), updated_at DATETIME(6))",
        "INSERT INTO orders VALUES (1, 'mine', NULL)",
        "CREATE TRIGGER shout BEFORE INSERT ON orders FOR EACH ROW SET NEW.city = UPPER(NEW.city)",
    )
    desk.write(f'tables = [{{ name = "orders", pre_action = "{pre_action}" }}]')
    exchanged = pre_action in ("rename_and_create", "swap")
    done = desk.type("check", code=1 if exchanged else 0)
    assert "shout" in done.out
    desk.app.run(
        "DROP TRIGGER shout", "CREATE TABLE child (id INT, parent INT, FOREIGN KEY (parent) REFERENCES orders (id))"
    )
    done = desk.type("check", code=0 if pre_action == "none" else 1)
    assert ("foreign key" in done.out) == (pre_action != "none")
    if pre_action != "none":
        desk.run(code=1)
        assert desk.app.rows("orders", "id, city") == [(1, "mine")]
    else:
        desk.run()
        assert desk.app.rows("orders") == OLD


# Mistakes -------------------------------------------------------------------------


def test_a_wrong_password(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET, "hunter22")
    desk.write('tables = ["orders"]')
    for command in ("check", "plan", "run --once", "tables", "status", "history --json", "rejects", "reset --yes"):
        done = Outcome(main(command.split()), *desk._capsys.readouterr())
        assert done.code in (1, 2), (command, done)
        text = done.out + done.err
        assert "Traceback" not in text and "hunter22" not in text
        assert "Access denied" in text and "check user, password" in text, (command, done)
        assert text.count("What to do") <= 2


def test_an_unknown_database(desk: Desk) -> None:
    desk.write('tables = ["orders"]', target=words(desk.app, database="nowhere"))
    for command in ("check", "plan", "run --once"):
        done = Outcome(main(command.split()), *desk._capsys.readouterr())
        assert done.code in (1, 2)
        assert "Unknown database 'nowhere'" in done.out + done.err and "create the database" in done.out + done.err
        assert "Traceback" not in done.out + done.err


def test_a_server_that_is_not_there(desk: Desk) -> None:
    desk.write('tables = ["orders"]', source=words(desk.shop, port=free_port()))
    done = desk.type("check", code=1)
    assert "shop" in done.out and "Connection refused" in done.out and "check address" in done.out
    assert desk.app.run("SHOW TABLES") == []


def test_a_table_that_is_missing(desk: Desk) -> None:
    desk.write('tables = ["ordes"]')
    assert "the source has no table 'ordes'. What to do: did you mean 'orders'?" in desk.run(code=1).out
    assert desk.app.tables() == []


@pytest.mark.parametrize("role", ["source", "target"])
def test_rights_that_are_missing(desk: Desk, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    user = f"poor_{desk.app.database[-8:]}"
    desk.app.run(f"CREATE USER {user}@'%' IDENTIFIED BY '{desk.app.server.password}'")
    try:
        if role == "source":
            desk.app.run(f"GRANT CREATE ON `{desk.shop.database}`.* TO {user}@'%'")
            desk.write('tables = ["orders"]', source=words(desk.shop, user=user))
            message = "does not show the columns of 'orders'. What to do: give the user the right to SELECT"
        else:
            desk.app.run(f"GRANT SELECT ON `{desk.app.database}`.* TO {user}@'%'")
            desk.write('tables = ["orders"]', target=words(desk.app, user=user))
            message = "refused a right.*command denied"
        done = desk.run(code=1 if role == "source" else 2)
        assert re.search(message, done.out + done.err), done
        assert desk.app.tables() == []
    finally:
        desk.app.run(f"DROP USER {user}@'%'")


# Inside a host --------------------------------------------------------------------


def pipeline(name: str, shop: Scene, app: Scene, *tables: retl.Table, **words: Any) -> retl.Pipeline:
    words = {"interval": "manual", **words}
    return retl.Pipeline(name, source=shop.options(), target=app.options(), tables=list(tables), **words)


async def test_a_source_that_lies_about_a_type_runs_nothing_in_the_target(
    shop: Scene, app: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may say what it likes of its columns: here it ends the definition and copies what it cannot read."""
    fill(shop)
    app.run(
        "CREATE TABLE salaries (id INT PRIMARY KEY, who VARCHAR(20))", "INSERT INTO salaries VALUES (9, 'all of them')"
    )
    real = WireReader.query
    lies = [
        f"enum('a'), PRIMARY KEY (id)) SELECT id, who AS city, NOW() AS updated_at FROM `{app.database}`.salaries -- ')",
        f"set('a') NULL, DROP COLUMN id, RENAME TO `{app.database}`.elsewhere -- ')",
        "enum('\\\\') , x INT) -- ')",
    ]

    async def query(self: WireReader, sql: str) -> list[tuple[Any, ...]]:
        rows = await real(self, sql)
        return [(*row[:2], lie, *row[3:]) if "column_type" in sql and row[1] == "city" else row for row in rows]

    monkeypatch.setattr(WireReader, "query", query)
    for number in range(len(lies)):
        lie = lies[number]
        for new in (True, False):
            table = retl.Table("orders", to=f"copy_{number}_{new}")
            if not new:
                app.run(f"CREATE TABLE copy_{number}_{new} (id INT PRIMARY KEY, updated_at DATETIME(6))")
            job = pipeline("lies", shop, app, table)
            await job.run_once()
            await job.aclose()
            assert app.rows(f"copy_{number}_{new}", "id, city, updated_at") == OLD
    assert app.tables() == sorted([*(f"copy_{n}_{new}" for n in range(3) for new in (True, False)), "salaries"])


async def test_a_pipeline_outlives_a_restart_of_the_server(shop: Scene, app: Scene) -> None:
    fill(shop)
    job = pipeline("host", shop, app, retl.Table("orders", cursor="updated_at"), interval="100ms")
    heard = Recorder(job)
    async with running(job) as after:
        await after(events.ScanFinished)
        assert app.rows("orders") == OLD
        failed = anyio.Event()
        heard.when(events.RetryScheduled, lambda _: failed.set())
        heard.when(events.ScanFailed, lambda _: failed.set())
        heard.when(events.RunFailed, lambda _: failed.set())
        await anyio.to_thread.run_sync(app.server.kill)
        await failed.wait()
        await anyio.to_thread.run_sync(app.server.start)
        await anyio.to_thread.run_sync(change, shop)
        with anyio.fail_after(60):
            while await anyio.to_thread.run_sync(app.rows, "orders") != BOTH:  # noqa: ASYNC110  # a row is not an event
                await anyio.sleep(0.05)
    assert heard.of(events.ScanFinished)
    assert app.tables() == ["orders"]
