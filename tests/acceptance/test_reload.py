"""A service takes up another job file: what changed in it starts anew, and nothing else is touched."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from retl.config import load_jobs
from tests.acceptance.test_cli import wait_for
from tests.support import Database, Warehouse

GRACE = "--grace=5s"


class Service:
    """``retl run`` in a process of its own, and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process, self._output = process, output

    @property
    def text(self) -> str:
        return self._output.read_text()

    def wait_for(self, text: str, times: int = 1) -> None:
        with suppress(AssertionError):
            wait_for(lambda: self.process.poll() is not None or self.text.count(text) >= times)
        assert self.text.count(text) == times, self.text

    def reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def get(self, path: str) -> str:
        (url,) = re.findall(r"listening on (\S+)", self.text)
        with urlopen(url + path, timeout=10) as answer:
            return str(answer.read().decode())

    def metric(self, name: str) -> dict[str, float]:
        """The numbers of each pipeline."""
        found = re.findall(name + r'\{pipeline="(\w+)".*\} (\S+)', self.get("/metrics"))
        return {pipeline: float(number) for pipeline, number in found}

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0, self.text


@contextmanager
def service(*arguments: str, **options: Any) -> Iterator[Service]:
    command = [sys.executable, "-m", "retl", "run", GRACE, *arguments]
    with (
        Path("out.txt").open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, **{"stdin": subprocess.DEVNULL, **options}) as process,
    ):
        try:
            yield Service(process, Path("out.txt"))
        finally:
            process.kill()


def pipeline(name: str, *more: str, table: str = "orders") -> str:
    return "\n".join(
        [
            f"[pipelines.{name}]",
            'source = { type = "sqlite", path = "shop.db" }',
            'target = { type = "sqlite", path = "app.db" }',
            'interval = "1h"',
            f'tables = [{{ name = "{table}", to = "{name}" {"".join(f", {word}" for word in more)} }}]\n',
        ]
    )


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """The target. Beside it lies a source with three orders."""
    monkeypatch.chdir(tmp_path)
    Database(Path("shop.db")).run(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, city TEXT)",
        "INSERT INTO orders VALUES (1, 'Bern'), (2, 'Rom'), (3, 'Wien')",
    )
    return Database(Path("app.db"))


def ids(app: Database, table: str) -> list[Any]:
    return [row[0] for row in app.rows(table, "id")] if app.exists() and table in app.tables() else []


def scans(app: Database) -> dict[str, int]:
    return dict(app.run("SELECT pipeline, COUNT(*) FROM retl_scans GROUP BY pipeline ORDER BY pipeline"))


# Which pipelines are the same ones ----------------------------------------------


def test_a_pipeline_that_is_declared_as_before_is_the_same_object(
    app: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CITY", "Bern")
    file, secret, query = Path("jobs.toml"), Path("secret"), Path("q.sql")
    secret.write_text("one")
    query.write_text("SELECT * FROM orders WHERE city = :city")
    by_query = pipeline("query").replace("orders", 'q", query_file = "q.sql", params = { city = "x" }, key = "id')
    secretive = pipeline("secretive").replace("shop.db", "${file:secret}.db")
    texts = [pipeline("plain"), pipeline("bern", "where = \"city = '${CITY}'\""), secretive, by_query]
    file.write_text('[state]\nstore = "memory"\n' + "".join(texts))
    jobs = load_jobs(file)

    def changed() -> list[str]:
        nonlocal jobs
        before, jobs = jobs, jobs.reload()
        return [name for name, one in jobs.pipelines.items() if before.pipelines.get(name) is not one]

    assert changed() == []
    monkeypatch.setenv("CITY", "Rom")
    assert changed() == ["bern"]
    secret.write_text("two")
    assert changed() == ["secretive"]
    query.write_text("SELECT id FROM orders WHERE city = :city")
    assert changed() == ["query"]
    file.write_text("# moved\n[defaults]\nslice_rows = 3\n" + file.read_text())
    assert changed() == ["plain", "bern", "secretive", "query"]
    stores = {one._store for one in jobs}
    file.write_text(file.read_text().replace('to = "plain"', 'to = "other"'))
    assert changed() == ["plain"]
    assert {one._store for one in jobs} == stores  # in memory they would forget their watermarks


# A running service --------------------------------------------------------------


def test_sighup_takes_up_what_changed_and_leaves_the_others_alone(app: Database) -> None:
    jobs = Path("jobs.toml")
    same, old, gone = pipeline("same"), pipeline("changed"), pipeline("gone")
    jobs.write_text(same + old + gone)
    with service("--listen", "0") as running:
        wait_for(lambda: [ids(app, name) for name in ("same", "changed", "gone")] == [[1, 2, 3]] * 3)
        lease = app.run("SELECT owner, epoch FROM retl_leases WHERE pipeline = 'same'")

        jobs.write_text(same + pipeline("changed", 'where = "id > 1"', 'pre_action = "swap"') + "interval = 3\n")
        running.reload()
        running.wait_for("warning: jobs.toml is not taken up, and everything runs on as before:\njobs.toml:11: column")

        jobs.write_text(same + pipeline("changed", 'where = "id > 1"', 'pre_action = "swap"') + pipeline("new"))
        running.reload()
        running.wait_for("jobs.toml was read again; changed: changed; new: new; gone: gone")
        wait_for(lambda: (ids(app, "changed"), ids(app, "new")) == ([2, 3], [1, 2, 3]))
        wait_for(lambda: scans(app) == {"changed": 2, "gone": 1, "new": 1, "same": 1})
        counted = dict.fromkeys(["same", "gone", "new"], 1.0) | {"changed": 2.0}
        wait_for(lambda: running.metric("retl_scans_total") == counted)
        wait_for(lambda: running.metric("retl_healthy") == {"same": 1.0, "changed": 1.0, "new": 1.0})
        assert running.get("/ready") == '{"ok": true, "reasons": {}}'
        assert app.run("SELECT owner, epoch FROM retl_leases WHERE pipeline = 'same'") == lease

        running.reload()
        running.wait_for("jobs.toml was read again; nothing has changed")
        running.stop()
        assert (running.text.count("same: every 1h"), running.text.count("gone: every 1h")) == (1, 1)
        assert running.text.count("not taken up") == 1


@pytest.mark.large
def test_a_pipeline_that_could_not_work_is_tried_again(app: Database) -> None:
    jobs = Path("jobs.toml")
    jobs.write_text(
        pipeline("good") + pipeline("bad").replace('sqlite", path = "app.db', 'duckdb", path = "later/app.duckdb')
    )
    with service() as running:
        running.wait_for("bad: FAILED")
        wait_for(lambda: ids(app, "good") == [1, 2, 3])
        Path("later").mkdir()
        running.reload()
        running.wait_for("jobs.toml was read again; tried again: bad")
        running.wait_for("bad.orders: 3 rows")
        running.stop()
    assert Warehouse(Path("later", "app.duckdb")).run("SELECT id FROM bad ORDER BY id") == [(1,), (2,), (3,)]
    assert scans(app)["good"] == 1


def test_watch_takes_up_every_file_as_it_is_saved(app: Database) -> None:
    jobs, teams, query = Path("jobs.toml"), Path("teams"), Path("q.sql")
    teams.mkdir()
    query.write_text("SELECT id FROM orders WHERE id > 1")
    jobs.write_text('include = "teams/"\n' + pipeline("main"))
    by_query = pipeline("query").replace("orders", 'q", query_file = "../q.sql", pre_action = "swap", key = "id')
    (teams / "a.toml").write_text(by_query.replace('"shop.db"', '"../shop.db"').replace('"app.db"', '"../app.db"'))
    with service("--watch") as running:
        wait_for(lambda: (ids(app, "main"), ids(app, "query")) == ([1, 2, 3], [2, 3]))
        query.write_text("SELECT id FROM orders WHERE id > 2")
        running.wait_for("jobs.toml was read again; changed: query")
        wait_for(lambda: ids(app, "query") == [3])
        (teams / "b.toml").write_text("[pipelines\n")
        running.wait_for("\nteams/b.toml:1: column 11: this is not TOML")
        (teams / "b.toml").write_text(pipeline("b").replace('path = "', 'path = "../'))
        running.wait_for("jobs.toml was read again; new: b")
        wait_for(lambda: ids(app, "b") == [1, 2, 3])
        (teams / "a.toml").unlink()
        running.wait_for("jobs.toml was read again; gone: query")
        running.stop()
    assert running.text.count("not taken up") == 1
    assert scans(app) == {"b": 1, "main": 1, "query": 2}


def test_a_changed_pipeline_ends_its_slice_and_goes_on_where_it_was(app: Database) -> None:
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400000) SELECT i, 'x' || i FROM n"
    Database(Path("shop.db")).run("CREATE TABLE many (id INTEGER PRIMARY KEY, text TEXT)", f"INSERT INTO many {many}")
    first = pipeline("many", 'cursor = "id"', "slice_rows = 2000", table="many")
    Path("jobs.toml").write_text(first)
    with service() as running:
        wait_for(lambda: ids(app, "many"))
        Path("jobs.toml").write_text(first.replace('to = "many"', 'to = "many", rename = { text = "text" }'))
        running.reload()
        running.wait_for("changed: many")
        wait_for(lambda: app.run("SELECT COUNT(*) FROM many") == [(400_000,)], 60)
        running.wait_for(" rows in ")
        running.stop()
    assert running.text.count("many.many: stopped after") == 1
    assert app.run("SELECT COUNT(*), COUNT(DISTINCT text), SUM(id) FROM many") == [(400_000, 400_000, 80_000_200_000)]
    (total,) = app.run("SELECT SUM(json_extract(body, '$.rows')) FROM retl_scans")
    assert total[0] in (400_000, 400_001)  # the row at the watermark is read again


@pytest.mark.large
def test_a_terminal_that_is_closed_stops_it(app: Database) -> None:
    Path("jobs.toml").write_text(pipeline("one"))
    theirs, ours = pty.openpty()
    with service(stdin=ours, start_new_session=True) as running:
        os.close(ours)
        wait_for(lambda: ids(app, "one") == [1, 2, 3])
        os.close(theirs)
        running.reload()
        assert running.process.wait(20) == 0
        assert "stopping after the slice under way" in running.text


def test_watch_is_for_pipelines_that_go_on(app: Database, capsys: pytest.CaptureFixture[str]) -> None:
    from retl.cli import main

    Path("jobs.toml").write_text(pipeline("one"))
    assert main(["run", "--once", "--watch"]) == 2
    assert "--watch is for pipelines that go on" in capsys.readouterr().err
