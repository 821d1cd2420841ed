"""Small warehouses and looks into targets, for tests that compare contents."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import duckdb

import retl
from retl import events
from retl.connectors import DuckDB, SQLite

Row = tuple[Any, ...]


class Warehouse:
    """A DuckDB file that is open only while a statement runs, as another process would use it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *statements: str) -> list[Row]:
        """Run statements one after another; the rows of the last one."""
        rows: list[Row] = []
        with closing(duckdb.connect(str(self.path))) as connection:
            for statement in statements:
                rows = connection.execute(statement).fetchall()
        return rows

    def source(self) -> DuckDB:
        return DuckDB(str(self.path))


class Database:
    """A SQLite file, looked at through a connection of the test's own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *statements: str, values: Iterable[Any] = ()) -> list[Row]:
        """Run statements in one transaction; the rows of the last one."""
        rows: list[Row] = []
        with closing(sqlite3.connect(self.path, timeout=5)) as connection:
            for statement in statements:
                rows = connection.execute(statement, tuple(values)).fetchall()
            connection.commit()
        return rows

    def rows(self, table: str, columns: str = "*") -> list[Row]:
        """All rows, sorted."""
        return sorted(self.run(f'SELECT {columns} FROM "{table}"'), key=repr)

    def tables(self) -> list[str]:
        """The tables but those of the state store."""
        found = self.run("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        return [name for (name,) in found if not name.startswith(("retl_", "sqlite_"))]

    def exists(self) -> bool:
        return self.path.exists()

    def target(self) -> SQLite:
        return SQLite(str(self.path))

    source = target


Command = Callable[..., str]
"""Runs the command line in the test's own process: ``command("run", "--once", code=1)`` gives what it printed."""


class Recorder:
    """Keeps a pipeline's events, and acts on some of them the moment they happen."""

    def __init__(self, pipeline: retl.Pipeline) -> None:
        self.events: list[events.Event] = []
        self._actions: list[tuple[type[events.Event], Callable[[Any], object]]] = []
        pipeline.subscribe(self._hear)

    def _hear(self, event: events.Event) -> None:
        self.events.append(event)
        for kind, action in self._actions:
            if isinstance(event, kind):
                action(event)

    def when(self, kind: type[events.Event], action: Callable[[Any], object], *, once: bool = True) -> None:
        """Call ``action`` with the next event of a kind, or with every one."""
        entry = (kind, action)
        if once:

            def single(event: Any) -> None:
                self._actions.remove((kind, single))
                action(event)

            entry = (kind, single)
        self._actions.append(entry)

    def of(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@asynccontextmanager
async def running(job: retl.Pipeline, *, patience: float = 20) -> AsyncIterator[Callable[..., Any]]:
    """The pipeline beside the test, with a way to wait for its next event of a kind: for so many seconds each."""
    heard = Recorder(job)

    async def after(kind: type[events.Event], act: Callable[[], object] = lambda: None) -> events.Event:
        arrived = anyio.Event()
        found: list[events.Event] = []

        def note(event: events.Event) -> None:
            found.append(event)
            arrived.set()

        heard.when(kind, note)
        act()
        with anyio.fail_after(patience):
            await arrived.wait()
        return found[0]

    with anyio.fail_after(3 * patience):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(job.run_forever)
            yield after
            job.stop()


async def state_is(job: retl.Pipeline, state: str) -> None:
    """Wait for a state; only ``idle`` and ``paused`` pipelines have let go of the source's file."""
    with anyio.fail_after(20):
        while (await job.status()).state != state:  # noqa: ASYNC110  # a state is not an event
            await anyio.sleep(0.01)
