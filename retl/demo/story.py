"""What the demo tells and does, in its order."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any, Protocol

import anyio

from retl.config import load_jobs
from retl.demo import data
from retl.demo.files import APP_FILE, CHANGE, CHANGE_FILE, JOB_FILE, JOBS, WAREHOUSE_FILE
from retl.model import events
from retl.model.report import RunReport
from retl.model.status import PipelineStatus
from retl.pipeline import Pipeline

_FLIGHTS = """
SELECT carrier, count(*), sum(dep_delay), sum(arr_delay), sum(air_time), sum(distance)
FROM flights GROUP BY carrier ORDER BY carrier"""
_AIRLINES = "SELECT carrier, name FROM airlines ORDER BY carrier"
# For each table, the queries on the warehouse and on the application's database.
_COMPARED = {
    "flights": (_FLIGHTS, _FLIGHTS),
    "airlines": (_AIRLINES, _AIRLINES),
    "daily_report": (
        "SELECT count(DISTINCT (time_hour::DATE, origin)), count(*), count(*) - count(air_time) FROM flights",
        "SELECT count(*), sum(flights), sum(not_flown) FROM daily_report",
    ),
}


class Output(Protocol):
    """Shows the events of a scan."""

    def show(self, event: events.Event) -> None: ...


class Story:
    """Three scans, with changes in the warehouse between them."""

    def __init__(
        self,
        folder: Path,
        make_output: Callable[[], AbstractContextManager[Output]],
        show_status: Callable[[PipelineStatus], str],
    ) -> None:
        self._folder = folder
        self._make_output = make_output
        self._show_status = show_status
        self._warehouse = folder / WAREHOUSE_FILE
        self._app = folder / APP_FILE
        self._jobs = folder / JOB_FILE

    def run(self) -> bool:
        """Whether every scan succeeded and every comparison was equal. The story ends at the first that did not."""
        _title("The flights that left New York in 2013, from a DuckDB warehouse to an application's SQLite")
        self._prepare()
        _title("Scan 1: everything is new")
        if not self._scan():
            return False
        _title("Scan 2: rows change in the warehouse")
        corrected, added = data.correct_and_add(self._warehouse)
        _say(f"{corrected:,} flights corrected and {added:,} added in the warehouse")
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
            print(self._show_status(anyio.run(_status, pipeline)))
        return True

    def _prepare(self) -> None:
        found = data.find_data(self._folder, _say)
        rows = data.build_warehouse(self._warehouse, found)
        self._jobs.write_text(JOBS, encoding="utf-8")
        (self._folder / CHANGE_FILE).write_text(CHANGE, encoding="utf-8")
        print(f"  {self._warehouse}: " + ", ".join(f"{count:,} {table}" for table, count in rows.items()))
        print(f"  {self._jobs}: the job file, to play with afterwards")

    def _scan(self) -> bool:
        # Each scan loads the job file again: all that is remembered between two scans is in the target.
        for pipeline in load_jobs(self._jobs):
            with self._make_output() as output:
                pipeline.subscribe(output.show)
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
