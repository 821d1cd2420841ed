"""``retl demo``: a warehouse, an application's database, and three scans while rows change underneath."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio

from retl.cli import demo_data as data
from retl.cli.codes import FAILED, OK
from retl.cli.past import show_status
from retl.cli.render import plural
from retl.cli.screen import make_screen
from retl.config import load_jobs
from retl.engine.lease import is_dead
from retl.model.errors import ConfigError, RetlError, TargetBusy
from retl.model.report import RunReport
from retl.model.status import PipelineStatus
from retl.pipeline import Pipeline
from retl.state.sqlite import SqliteStore

JOBS = '''\
# The demo's job file: change it and run it again.
# All words are explained in the reference; `retl init` writes a file for your own data.

[pipelines.flights]
source = { type = "duckdb", path = "warehouse.duckdb" }   # what the analysts have
target = { type = "sqlite", path = "app.db" }             # what the application reads
interval = 5                                              # seconds between two scans

# Incremental: a scan reads only the rows whose updated_at is new.
[[pipelines.flights.tables]]
name = "flights"
cursor = "updated_at"
lookback = "10m"              # rows that were committed late are found for so long

# A report: computed anew by each scan, and switched in as a whole.
[[pipelines.flights.tables]]
name = "daily_report"
key = ["day", "origin"]
pre_action = "swap"
query = """
SELECT time_hour::DATE AS day, origin, count(*) AS flights,
       count(*) FILTER (air_time IS NULL) AS not_flown, round(avg(dep_delay), 1) AS average_delay
FROM flights GROUP BY ALL ORDER BY ALL"""

# A small table: read in full each time, written by its key.
[[pipelines.flights.tables]]
name = "airlines"
'''

# What a user may do meanwhile. DuckDB lets one process write at a time, so it waits for a scan to end.
CHANGE = '''\
"""Changes one flight in the warehouse, as those who fill it would."""

import time

import duckdb

while True:
    try:
        warehouse = duckdb.connect("warehouse.duckdb")
        break
    except duckdb.IOException:  # a scan reads it just now
        time.sleep(0.1)
changed = warehouse.execute(
    """
    UPDATE flights SET dep_delay = coalesce(dep_delay, 0) + 1, updated_at = now() AT TIME ZONE 'UTC'
    WHERE time_hour < TIMESTAMP '2013-01-02' AND carrier = 'UA'
    """
).fetchone()
warehouse.close()
print(f"{changed[0]} flights of January 1 changed in the warehouse.")
'''

_WAREHOUSE, _APP, _JOBS, _CHANGE = "warehouse.duckdb", "app.db", "jobs.toml", "change.py"
_FLIGHTS = """
SELECT carrier, count(*), sum(dep_delay), sum(arr_delay), sum(air_time), sum(distance)
FROM flights GROUP BY carrier ORDER BY carrier"""
_AIRLINES = "SELECT carrier, name FROM airlines ORDER BY carrier"
# What is asked of the warehouse, and of the application's database.
_COMPARED = {
    "flights": (_FLIGHTS, _FLIGHTS),
    "airlines": (_AIRLINES, _AIRLINES),
    "daily_report": (
        "SELECT count(DISTINCT (time_hour::DATE, origin)), count(*), count(*) - count(air_time) FROM flights",
        "SELECT count(*), sum(flights), sum(not_flown) FROM daily_report",
    ),
}


def demo(arguments: argparse.Namespace) -> int:
    """Tell the story; returns the exit code."""
    folder = Path(arguments.dir)
    begun = time.monotonic()
    try:
        _start_over(folder)
    except OSError as error:
        raise ConfigError(
            f"the folder {str(folder)!r} cannot be used: {error.strerror}.", remedy="choose another --dir."
        ) from None
    story = _Story(folder)
    if not story.tell():
        print("\nThe demo ends here, for what is said above should not happen.")
        return FAILED
    print(f"\nThat took {time.monotonic() - begun:.0f} seconds. {_what_next(folder)}")
    return OK


def _start_over(folder: Path) -> None:
    """Make the folder, or empty that of an earlier demo. Never touches a folder of another kind."""
    jobs = folder / _JOBS
    # What a demo that was interrupted leaves behind is its download.
    strange = {item.name for item in folder.iterdir()} - {"data", _WAREHOUSE} if folder.exists() else set()
    if strange and not (jobs.is_file() and (folder / _WAREHOUSE).is_file()):
        raise ConfigError(
            f"the folder {str(folder)!r} holds something else than an earlier demo.", remedy="choose another --dir."
        )
    if jobs.is_file():
        _refuse_while_running(folder / _APP)
        print(f"Starting over in {folder}.")
        if jobs.read_text(encoding="utf-8", errors="replace") != JOBS:
            jobs.replace(folder / "jobs.toml.old")
            print("Your jobs.toml is kept as jobs.toml.old.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (_WAREHOUSE, _APP):
        for old in folder.glob(f"{name}*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()


def _refuse_while_running(app: Path) -> None:
    """Files that another process works on are not pulled away from under it."""
    try:
        owner = anyio.run(_owner, app) if app.is_file() else None
    except RetlError:
        return  # not a database any more, so nobody works on it
    if owner is not None and not is_dead(owner):
        raise TargetBusy(
            "the demo's pipeline is running in another process.", remedy="stop it there, or choose another --dir."
        )


async def _owner(app: Path) -> str | None:
    store = SqliteStore(app)
    try:
        return (await store.read_lease("flights")).owner
    finally:
        await store.aclose()


class _Story:
    """What the demo tells and does, in its order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._warehouse = folder / _WAREHOUSE
        self._app = folder / _APP
        self._jobs = folder / _JOBS

    def tell(self) -> bool:
        """Whether every scan succeeded and every comparison was equal; the first that does not is the last."""
        _title("The flights that left New York in 2013, from a DuckDB warehouse to an application's SQLite")
        self._prepare()
        _title("Scan 1: everything is new")
        if not self._scan():
            return False
        _title("Scan 2: rows change in the warehouse")
        corrected, added = data.correct_and_add(self._warehouse)
        _say(f"{plural(corrected, 'flight')} corrected and {added:,} added in the warehouse")
        if not self._scan():
            return False
        _title("Scan 3: a row comes late")
        stamp = data.commit_late(self._warehouse)
        _say(f"one flight committed late: stamped {stamp}, which is older than what was read last")
        if not self._scan():
            return False
        _say("its time lay within the lookback of 10 minutes, so it was found")
        _title("The status")
        for pipeline in load_jobs(self._jobs):
            print(show_status(anyio.run(_status, pipeline)))
        return True

    def _prepare(self) -> None:
        found = data.find_data(self._folder, _say)
        rows = data.build_warehouse(self._warehouse, found)
        self._jobs.write_text(JOBS, encoding="utf-8")
        (self._folder / _CHANGE).write_text(CHANGE, encoding="utf-8")
        print(f"  {self._warehouse}: " + ", ".join(f"{count:,} {table}" for table, count in rows.items()))
        print(f"  {self._jobs}: the job file, to play with afterwards")

    def _scan(self) -> bool:
        # The job file is read anew each time: what is remembered between two scans lies in the target.
        for pipeline in load_jobs(self._jobs):
            with make_screen("auto") as screen:
                pipeline.subscribe(screen.show)
                report = anyio.run(_once, pipeline)
            if not report.ok:
                return False
        return self._compare()

    def _compare(self) -> bool:
        """Source against target by SQL: sums of every number, for each carrier."""
        good = True
        with data.open_warehouse(self._warehouse) as warehouse, closing(sqlite3.connect(self._app)) as app:
            for table, (asked, counted) in _COMPARED.items():
                equal = _rows(warehouse.execute(asked).fetchall()) == _rows(app.execute(counted))
                good = good and equal
                _say(f"compared by SQL: {table} is {'equal on both sides' if equal else 'DIFFERENT'}")
        return good


async def _once(pipeline: Pipeline) -> RunReport:
    async with pipeline:
        return await pipeline.run_once(check=False)


async def _status(pipeline: Pipeline) -> PipelineStatus:
    async with pipeline:
        return await pipeline.status()


def _rows(found: Iterable[Any]) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in found]


def _title(text: str) -> None:
    print(f"\n{text}", flush=True)


def _say(text: str) -> None:
    print(f"  {text}", flush=True)


def _what_next(folder: Path) -> str:
    command = _command()
    return f"""To go on from here:

  cd {shlex.quote(str(folder))}
  {command} run           on schedule, every 5 seconds, until Ctrl-C
  {command} plan          what the next scan would do
  {command} status        what was done; also: history, rejects
  {command} reset         forget the watermarks: the next scan reads everything

While it runs, change the warehouse (from another terminal) and watch the rows arrive:

  {shlex.quote(sys.executable)} {_CHANGE}

Then look at {_JOBS}: it is all that was needed. `{command} init` writes one for your own data."""


def _command() -> str:
    """How the user has called this program, so that what is printed can be copied."""
    called = Path(sys.argv[0])
    if called.name != "retl":
        return f"{shlex.quote(sys.executable)} -m retl"
    return "retl" if shutil.which("retl") else shlex.quote(str(called.resolve()))
