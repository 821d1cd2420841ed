"""Load batches into one table through one connection; rows that the server rejects are kept.

``LOAD DATA LOCAL`` turns every error into a warning and stores something else instead. So a
load counts only if there was no warning and every row arrived; otherwise it is undone, and
repeated without the rows that the warnings name, or that are found by trying parts.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Container
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import anyio
import anyio.to_thread
import pyarrow as pa

from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.encode import DIALECT, Encoder
from retl.connectors.mysql.errors import TargetRefused, of_rows, server_error
from retl.connectors.mysql.settings import FENCE_SECONDS, SIGN_OF_LIFE
from retl.connectors.mysql.wire import Done
from retl.connectors.rows.rejects import MOST_SHOWN, RejectCollector, bisect, plain_rows
from retl.model.errors import ConfigError, RetlError, TargetBusy

_AT_ROW = re.compile(r" at row (\d+)$")
_OF_COLUMN = re.compile(r"\b(?:[Cc]olumn|CONSTRAINT) [`']?(?:[^`']*`\.`)*([^`']+)[`']")
_DELETED = re.compile(r"Deleted: (\d+)")
_NO_FILES = frozenset({1148, 3948, 4166})
_NO_SUCH_TABLE = frozenset({1142, 1143, 1146})
"""The server's numbers for a missing table, of which it first checks the user's right to write it."""
_NOT_OF_VALUES = frozenset({1051, 1287, 1592, 1681, 3170, 3719, 3778})
"""Warnings about a statement's syntax or plan, or a table that a trigger would have dropped: no value has changed."""
_TOO_LARGE = "the row is larger than the server's max_allowed_packet"
_INLINE_BYTES = 64 * 1024
"""Below this size, inline encoding beats a thread hop."""
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 1.0
_AHEAD = 2
"""Batches that may wait for the one that is being loaded."""


def server_message(error: RetlError) -> str:
    """The server's own message."""
    cause = error.__cause__
    return str(cause.args[1]) if cause is not None and len(cause.args) > 1 else error.message


def _code(error: RetlError) -> int:
    """The server's error number."""
    cause = error.__cause__
    return cause.args[0] if cause is not None and cause.args and isinstance(cause.args[0], int) else 0


def column_of(reason: str, columns: Container[str]) -> str:
    """The column that the server's message names, if it is one of these."""
    found = _OF_COLUMN.search(reason)
    if found is None:
        return ""
    # For JSON the servers write `table.column`.
    _, _, last = found[1].partition(".")
    return next((name for name in (found[1], last) if name in columns), "")


async def warnings(connection: MySQLConnection, done: Done) -> list[str]:
    """The warnings of the last statement; each means that a value was changed.

    Raises ``TargetRefused`` for a warning that is not known to be about rows.
    """
    if not done.warnings:
        return []
    listed = [(int(code), str(message)) for _, code, message in await connection.query("SHOW WARNINGS")]
    told = [(code, message) for code, message in listed if code not in _NOT_OF_VALUES]
    for code, message in told:
        if not of_rows(code):
            raise server_error(code, f"it warned: {message}", "target", connection.place)
    if not told and len(listed) < done.warnings:  # at most max_error_count are listed
        return [f"{done.warnings} warnings, not all of which the server lists"]
    return [message for _, message in told]


class Infile:
    """Whether rows are sent by LOAD DATA LOCAL. A pooler may refuse it although the server allows it."""

    def __init__(self, wanted: bool | None) -> None:
        self._wanted = wanted
        self._works = False
        self.why_not = ""
        """Why the server or a pooler does not allow it, in its own words."""

    @property
    def unset(self) -> bool:
        """Whether the user has not decided it."""
        return self._wanted is None

    def use(self, *, allowed: bool) -> bool:
        """``allowed`` is the server's setting; the user's option overrides it."""
        return (allowed and not self.why_not) if self._wanted is None else self._wanted

    async def probe(self, connection: MySQLConnection, database: str) -> None:
        """Try the statement on a table that does not exist: any other error means that it is not allowed."""
        if self._works or not self.unset:
            return
        self.why_not = ""
        statement = f"LOAD DATA LOCAL INFILE 'retl' INTO TABLE {DIALECT.identifier(database)}._retl_probe"
        try:
            await connection.load_nothing(statement)
        except (TargetRefused, ConfigError) as error:
            if _code(error) not in _NO_SUCH_TABLE:
                self.why_not = server_message(error)
        self._works = not self.why_not

    def give_up(self, error: TargetRefused | ConfigError) -> bool:
        """Whether rows go by INSERT from now on, since the statement as a whole failed."""
        known = _code(error) in _NO_FILES or not of_rows(_code(error), getattr(error, "state", ""))
        if not self.unset or not known:
            return False
        self.why_not, self._works = server_message(error), False
        return True


@dataclass(frozen=True)
class Trouble:
    """Why a load did not count. ``rows`` caused it, by their place in the batch, if they are known."""

    reason: str
    rows: dict[int, str]


class Loader:
    """Loads batches into one table: a stage, where each statement commits by itself, or in the caller's transaction.

    ``row_number`` is the column that numbers the rows of a stage in their order.
    """

    def __init__(
        self,
        connection: MySQLConnection,
        encoder: Encoder,
        rejects: RejectCollector,
        table: str,
        *,
        most: int,
        local: bool,
        infile: Infile,
        packet: int,
        replace: bool,
        row_number: str | None,
    ) -> None:
        self._connection = connection
        self._encoder = encoder
        self._rejects = rejects
        self._table = table
        self._local = infile.use(allowed=local)
        self._infile = infile
        self._packet = packet
        self._replace = replace
        self._row_number = row_number
        self._most = most + MOST_SHOWN
        self._lists_all = False
        self.rows = 0
        """Rows that were loaded, and not rejected."""

    async def load(self, batch: pa.RecordBatch, data: pa.Buffer | None) -> None:
        """Load a batch without its rejects. ``data`` is the batch as CSV, if it is encoded already."""
        trouble = await self._attempt(batch, data)
        while trouble is not None and trouble.rows and len(self._rejects.rows) <= self._most:
            batch = self._reject(batch, trouble.rows)
            trouble = await self._attempt(batch, None)
        if trouble is not None and len(self._rejects.rows) <= self._most:
            await self._search(batch)

    def _reject(self, batch: pa.RecordBatch, rows: dict[int, str]) -> pa.RecordBatch:
        """The batch without some rows, which become rejects."""
        # The server lists a limited number of warnings, so these may not be the first.
        blamed = sorted(rows)[: self._most + 1 - len(self._rejects.rows)]
        for number, row in zip(blamed, plain_rows(batch.take(pa.array(blamed))), strict=True):
            self._rejects.add(row, rows[number], column_of(rows[number], self._encoder.columns))
        keep = [number not in rows for number in range(batch.num_rows)]
        return batch.filter(pa.array(keep, pa.bool_()))

    async def _search(self, batch: pa.RecordBatch) -> None:
        """Load a batch in parts, down to the single rejected rows."""
        rejected: dict[int, str] = {}
        search = bisect(0, batch.num_rows - 1, self._most - len(self._rejects.rows))
        low, high = next(search, (0, batch.num_rows - 1))
        with suppress(StopIteration):
            while True:
                trouble = await self._attempt(batch.slice(low, high - low + 1), None)
                if trouble is not None and low == high:
                    rejected[low] = trouble.reason
                low, high = search.send(None if trouble is None else trouble.reason)
        if rejected:
            self._reject(batch, rejected)

    async def _attempt(self, batch: pa.RecordBatch, data: pa.Buffer | None) -> Trouble | None:
        """Load some rows as a whole or not at all; returns why not."""
        if not batch.num_rows:
            return None
        if self._row_number is None:
            await self._connection.execute("SAVEPOINT retl_load")
        try:
            trouble = await self._send(batch, data)
        except TargetRefused as error:
            if error.code in _NO_FILES:
                raise _no_files() from error
            if not of_rows(error.code, error.state):
                raise
            trouble = Trouble(server_message(error), {})
        if trouble is None:
            self.rows += batch.num_rows
        else:
            await self._undo()
        return trouble

    async def _undo(self) -> None:
        """Undo the last attempt."""
        if self._row_number is None:
            await self._connection.execute("ROLLBACK TO SAVEPOINT retl_load")
            return
        ((there,),) = await self._connection.query(f"SELECT COUNT(*) FROM {self._table}")
        if left := int(there) - self.rows:
            await self._connection.execute(f"DELETE FROM {self._table} ORDER BY {self._row_number} DESC LIMIT {left}")

    async def _send(self, batch: pa.RecordBatch, data: pa.Buffer | None) -> Trouble | None:
        if self._local:
            try:
                return await self._infile_load(batch, data)
            except (TargetRefused, ConfigError) as error:
                if not self._infile.give_up(error):
                    raise
                self._local = False
        return await self._insert(batch)

    async def _infile_load(self, batch: pa.RecordBatch, data: pa.Buffer | None) -> Trouble | None:
        if data is None:
            data = await in_thread(self._encoder, batch)
        statement = self._encoder.load(self._table, replace=self._replace)
        done = await self._connection.load(statement, [memoryview(data)])
        arrived = done.affected - (_deleted(done.info) if self._replace else 0)
        trouble = await self._trouble(done, 0)
        if trouble is None and arrived != batch.num_rows:
            trouble = Trouble(f"{arrived} of {batch.num_rows} rows arrived", {})
        return trouble

    async def _insert(self, batch: pa.RecordBatch) -> Trouble | None:
        statements = self._encoder.inserts(batch, self._table, self._packet // 4, replace=self._replace)
        for first, rows, statement in statements:
            if len(statement) * 4 > self._packet and len(statement.encode()) >= self._packet:
                return Trouble(_TOO_LARGE, {first: _TOO_LARGE})
            done = await self._connection.execute(statement)
            trouble = await self._trouble(done, first)
            if trouble is None and (done.affected < rows or (done.affected > rows and not self._replace)):
                trouble = Trouble(f"{done.affected} of {rows} rows arrived", {})
            if trouble is not None:
                return trouble
        return None

    async def _trouble(self, done: Done, first: int) -> Trouble | None:
        """The warnings of the last statement, with rows counted from ``first``."""
        told = await warnings(self._connection, done)
        if not told:
            return None
        rows: dict[int, str] = {}
        for text in told:
            found = _AT_ROW.search(text)
            if found is not None and int(found[1]):
                rows.setdefault(first + int(found[1]) - 1, text)
        await self._list_all()
        return Trouble(next(iter(rows.values()), told[0]), rows)

    async def _list_all(self) -> None:
        """After the first failure have every warning listed, not just the first 64 or 1,024, if the user may set that."""
        if not self._lists_all:
            self._lists_all = True
            with suppress(ConfigError):
                await self._connection.execute("SET SESSION max_error_count = 65535")


def _deleted(info: str) -> int:
    """The number of rows that later ones replaced: ``Records: 3  Deleted: 1  Skipped: 0  Warnings: 0``."""
    found = _DELETED.search(info)
    return int(found[1]) if found else 0


def _no_files() -> ConfigError:
    return ConfigError(
        "the server does not allow LOAD DATA LOCAL: local_infile is off there.",
        remedy="SET GLOBAL local_infile = ON at the server, or leave local_infile out of the options: rows are then sent by INSERT.",
    )


async def in_thread(encoder: Encoder, batch: pa.RecordBatch) -> pa.Buffer:
    """A batch as CSV, encoded in a worker thread if it is large."""
    if batch.nbytes <= _INLINE_BYTES:
        return encoder.csv(batch)
    return await anyio.to_thread.run_sync(encoder.csv, batch)


T = TypeVar("T")
Work = Callable[[], Awaitable[object]]


async def until_free(connection: MySQLConnection, seconds: float, work: Callable[[], Awaitable[T]]) -> T:
    """Repeat a transaction that fell to a deadlock, for no longer than a lock may take."""
    deadline = time.monotonic() + seconds
    wait = _FIRST_WAIT
    while True:
        try:
            return await work()
        except TargetBusy:
            if connection.closed or time.monotonic() + wait >= deadline:
                raise
        await anyio.sleep(random.uniform(wait / 2, wait))
        wait = min(2 * wait, _LONGEST_WAIT)


class LoadWorker:
    """A connection, and the loads that run on it one after another while the next batches are encoded.

    While nothing runs, the server gets a sign of life: the source may be slow.
    """

    def __init__(self, connection: MySQLConnection) -> None:
        self.connection = connection
        self._running: deque[asyncio.Task[None]] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    async def start(self, work: Work) -> None:
        """Queue ``work`` when there is room. A later ``start`` or ``settle`` raises its error."""
        previous = self._running[-1] if self._running else None
        self._running.append(asyncio.get_running_loop().create_task(_after(previous, work)))
        while len(self._running) > 1 + _AHEAD:
            await self._first()
        self.rest()

    async def settle(self) -> None:
        """Wait for all queued work. Until ``rest`` or ``start`` the connection is the caller's."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None
        while self._running:
            await self._first()

    async def _first(self) -> None:
        await self._running[0]
        self._running.popleft()

    def rest(self) -> None:
        """Expect nothing for a while."""
        if self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(FENCE_SECONDS / 3, self._live)

    def _live(self) -> None:
        self._alarm = None
        if all(running.done() for running in self._running) and not self.connection.closed:
            previous = self._running[-1] if self._running else None
            work = _after(previous, lambda: self.connection.execute(SIGN_OF_LIFE))
            self._running.append(asyncio.get_running_loop().create_task(work))
        self.rest()

    async def stop(self) -> None:
        """End what runs, and the connection with it: the server then rolls back. Safe at any time."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None
        running, self._running = list(self._running), deque()
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
            for task in running:
                if not task.cancelled():
                    task.exception()  # seen
        self.connection.abort()


async def _after(previous: asyncio.Task[None] | None, work: Work) -> None:
    """Do ``work`` if the work before it has succeeded."""
    if previous is not None:
        await asyncio.wait([previous])
    if previous is None or not (previous.cancelled() or previous.exception()):
        await work()
