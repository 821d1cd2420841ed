"""The bulk loop: several requests under way, and each answer judged item by item.

What is sent may be sent again: every item names its ``_id``. So a request whose answer
never came is repeated as it was, and of one that was answered only the items that the
server had no room for. Pressure (429) halves the requests; without it they grow again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from retl.connectors.elasticsearch.connection import Client
from retl.connectors.elasticsearch.errors import server_error, unexpected
from retl.connectors.elasticsearch.target.encode import Lines
from retl.connectors.elasticsearch.target.items import (
    Item,
    RejectedItem,
    check_some_taken,
    elsewhere,
    judge,
    rejection,
    renamed,
)
from retl.connectors.net.retry import RetryBudget
from retl.model.errors import ConnectionFailed, RetlError, TargetBusy, TargetError

_MOST, _LEAST = 10 * 1024 * 1024, 16 * 1024
"""Bytes of one request."""
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 10.0
_PATIENCE = 120.0
"""Seconds without any progress before the scan gives up."""
_TRIES = 4
"""How often a request without an answer is sent."""
_STOP_SECONDS = 2.0
Rows = np.ndarray[Any, np.dtype[np.int64]]
Reject = Callable[[Lines, int, str, str], None]
"""Called for each rejected item: lines, its number, reason and field."""
Prove = Callable[[], Awaitable[None]]
"""Called before each request, repeated ones too: raises where nothing may be sent any more."""


Conflict = Callable[["Bulk", Lines, Rows], Awaitable[None]]
"""Called for items that conflict with existing documents: settles and counts each."""
Elsewhere = Callable[[str], Awaitable[bool]]
"""Whether the name stands for an index by now."""


class _Answer(msgspec.Struct):
    items: msgspec.Raw
    errors: bool = True


_ITEMS = msgspec.json.Decoder(list[dict[str, Item]])
_FIELDS = ("status", "error", "result", "_index", "failure_store")


@dataclass
class _Judged:
    """A request, item by item."""

    again: list[int] = field(default_factory=list)
    reason: RetlError | None = None
    conflicts: list[int] = field(default_factory=list)
    rejected: list[tuple[int, RejectedItem]] = field(default_factory=list)
    elsewhere: set[str] = field(default_factory=set)


async def keep_existing(bulk: Bulk, lines: Lines, rows: Rows) -> None:
    """What is there stays as it is."""
    bulk.unchanged += rows.size


async def fail_on_conflict(bulk: Bulk, lines: Lines, rows: Rows) -> None:
    """Nobody else may change them."""
    raise TargetBusy(f"somebody else changes the same documents at {bulk.place}.", remedy="the scan is tried again.")


class Bulk:
    """Sends lines to one index. An error of one request is raised by the next call that waits.

    ``indices`` are those that the name stands for: a document that is written to another one is not where it belongs.
    With ``renames`` the target runs an ingest pipeline, which may even change an ``_id``: each is compared.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        params: Mapping[str, Any],
        reject: Reject,
        *,
        writers: int,
        conflict: Conflict = fail_on_conflict,
        indices: Collection[str] = (),
        elsewhere: Elsewhere | None = None,
        renames: bool = False,
        patience: float = _PATIENCE,
        prove: Prove | None = None,
    ) -> None:
        self._client = client
        self._path = path
        wanted = ["errors", *(f"items.*.{name}" for name in (*_FIELDS, *(["_id"] if renames else [])))]
        self._params = {**params, "filter_path": ",".join(wanted)}
        self._reject = reject
        self._prove = prove
        self._writers = writers
        self._conflict = conflict
        self._indices = set(indices)
        self._elsewhere = elsewhere
        self._renames = renames
        self._patience = patience
        self._running: set[asyncio.Task[None]] = set()
        self._most = _MOST
        self.size = _MOST
        """How many bytes a request may have now."""
        self.forget()

    @property
    def place(self) -> str:
        return self._client.place

    async def send(self, lines: Lines) -> None:
        """Send lines; waits while the maximum number of requests is under way."""
        rows = np.arange(len(lines))
        while rows.size:
            await self._room()
            part, rows = self._cut(lines, rows)
            self._running.add(asyncio.create_task(self._deliver(lines, part)))

    async def settle(self) -> None:
        """Wait until everything is acknowledged. After an error nothing is under way any more."""
        while self._running:
            await self._wait(asyncio.ALL_COMPLETED)

    async def stop(self) -> None:
        """Send nothing more. Requests under way get a moment to end, so that they do not arrive after what comes next."""
        running, self._running = self._running, set()
        if not running:
            return
        _, late = await asyncio.wait(running, timeout=_STOP_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def forget(self) -> None:
        """Reset the counts."""
        self.written = 0
        """Documents that were created or changed."""
        self.created = 0
        """Those of them that were not there before."""
        self.unchanged = 0
        """Documents that exist and stay unchanged."""
        self.older = 0
        """Those that stay because they are newer."""
        self.dropped = 0
        """Documents that the target accepted and dropped."""

    async def _room(self) -> None:
        while len(self._running) >= self._writers:
            await self._wait(asyncio.FIRST_COMPLETED)

    async def _wait(self, until: str) -> None:
        done, _ = await asyncio.wait(self._running, return_when=until)
        self._running -= done
        failed = [error for task in done if (error := task.exception()) is not None]
        if failed:
            await self.stop()
            raise failed[0]

    def _cut(self, lines: Lines, rows: Rows) -> tuple[Rows, Rows]:
        """The rows of the next request, at least one, and the rest."""
        sizes = np.cumsum(lines.sizes()[rows])
        number = max(1, int(np.searchsorted(sizes, self.size, side="right")))
        return rows[:number], rows[number:]

    async def resend(self, lines: Lines) -> Rows:
        """Send lines in this task; returns the numbers of those that conflict."""
        clashing: list[Rows] = []

        async def keep(bulk: Bulk, lines: Lines, rows: Rows) -> None:
            clashing.append(rows)

        await self._deliver(lines, np.arange(len(lines)), keep)
        return np.sort(np.concatenate(clashing)) if clashing else np.arange(0)

    async def _deliver(self, lines: Lines, rows: Rows, conflict: Conflict | None = None) -> None:
        budget = RetryBudget(attempts=_TRIES, seconds=self._patience, first=_FIRST_WAIT, longest=_LONGEST_WAIT)
        while rows.size:
            part, rest = self._cut(lines, rows)
            again, reason = await self._attempt(lines, part, conflict or self._conflict)
            rows = np.concatenate((again, rest))
            if again.size < part.size:
                budget.reset()
            if reason is not None:
                await budget.wait(reason, counts=isinstance(reason, ConnectionFailed))

    async def _attempt(self, lines: Lines, rows: Rows, conflict: Conflict) -> tuple[Rows, RetlError | None]:
        """Send some rows; returns those to be sent again, and why."""
        if self._prove is not None:
            await self._prove()
        body = lines.body(rows)
        try:
            answer = await self._client.request(
                "POST", self._path, params=self._params, body=body, ndjson=True, allow=(413, 429, 503)
            )
        except ConnectionFailed as error:
            return rows, error
        if answer.status == 413:
            return self._too_large(lines, rows, len(body))
        if answer.status != 200:
            self._shrink(len(body))
            return rows, self._no_room(answer.status, answer.body)
        judged = self._judge(lines, rows, answer.body, len(body))
        if judged.elsewhere:
            await self._check_where(judged.elsewhere)
        if judged.conflicts:
            await conflict(self, lines, np.array(judged.conflicts, np.int64))
        return np.array(judged.again, np.int64), judged.reason

    async def _check_where(self, found: set[str]) -> None:
        """Only an alias or a data stream may lead to another index by now."""
        for name in found:
            if self._elsewhere is None or not await self._elsewhere(name):
                raise elsewhere(self._path, found, self.place)
            self._indices.add(name)

    def _too_large(self, lines: Lines, rows: Rows, size: int) -> tuple[Rows, RetlError | None]:
        if rows.size == 1:
            self._reject(
                lines, int(rows[0]), "the document is larger than the server takes (http.max_content_length)", ""
            )
            return rows[:0], None
        self._most = self.size = max(_LEAST, size // 2)
        return rows, None

    def _judge(self, lines: Lines, rows: Rows, body: bytes, size: int) -> _Judged:
        judged = _Judged()
        try:
            answer = msgspec.json.decode(body, type=_Answer)
            if answer.errors or not self._all_written(body, rows.size):
                self._judge_items(lines, rows, _ITEMS.decode(answer.items), judged)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise unexpected(body, self.place) from None
        if judged.again:
            self._shrink(size)
        else:
            self._grow(size)
        return judged

    def _all_written(self, body: bytes, number: int) -> bool:
        """The common case, without an object for each item: every item was written where it belongs."""
        created = body.count(b'"result":"created"')
        written = created + body.count(b'"result":"updated"')
        here = sum(body.count(b'"_index":"%b"' % name.encode()) for name in self._indices) if self._indices else number
        if self._renames or b'"failure_store":' in body:
            return False
        if not number == written == here == body.count(b'"status":'):
            return False
        self.written += number
        self.created += created
        return True

    def _judge_items(self, lines: Lines, rows: Rows, items: list[dict[str, Item]], judged: _Judged) -> None:
        if len(items) != rows.size:
            raise TargetError(
                f"{self.place} answered {len(items):,} items of a request of {rows.size:,}.",
                remedy="see what stands between here and the server; nothing that it did not answer counts as written.",
            )
        for number, answered in zip(rows.tolist(), items, strict=True):
            (item,) = answered.values()
            if item.status == 404 and self._is_elsewhere(item):  # and was refused there
                raise elsewhere(self._path, [item.index], self.place)
            verdict = judge(item, self.place)
            if verdict == "rejected":
                judged.rejected.append((number, rejection(item)))
            elif verdict == "conflict":
                judged.conflicts.append(number)
            elif verdict == "again":
                judged.again.append(number)
                judged.reason = judged.reason or self._no_room(item.status, msgspec.json.encode(item.error))
            elif verdict == "dropped":
                self.dropped += 1
            else:
                self._count(lines, number, item, judged)
        check_some_taken([why for _, why in judged.rejected], rows.size, self.place)
        for number, why in judged.rejected:
            self._reject(lines, number, why.text, why.column)

    def _count(self, lines: Lines, number: int, item: Item, judged: _Judged) -> None:
        if self._renames and item.id != (sent := lines.ids[number].as_py()):
            raise renamed(sent, item.id, self.place)
        if self._is_elsewhere(item):
            judged.elsewhere.add(item.index)
        self.written += 1
        self.created += item.result == "created"

    def _is_elsewhere(self, item: Item) -> bool:
        return bool(self._indices and item.index) and item.index not in self._indices

    def _no_room(self, status: int, body: bytes) -> RetlError:
        return server_error(status if status in (429, 503) else 503, body, "target", self.place)

    def _grow(self, size: int) -> None:
        if 2 * size >= self.size:
            self.size = min(self._most, self.size + self.size // 4)

    def _shrink(self, size: int) -> None:
        self.size = max(_LEAST, min(self.size, size) // 2)
