"""The bulk loop: several requests under way, and each answer judged item by item.

What is sent may be sent again: every item names its ``_id``. So a request whose answer
never came is repeated as it was, and of one that was answered only the items that the
server had no room for. Pressure (429) halves the requests; without it they grow again.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import msgspec
import numpy as np

from retl.connectors.elasticsearch.client import Client
from retl.connectors.elasticsearch.encode import Lines
from retl.connectors.elasticsearch.errors import refusal, server_error, unexpected
from retl.model.errors import ConnectionFailed, RetlError, TargetBusy, TargetError

_MOST, _LEAST = 10 * 1024 * 1024, 16 * 1024
"""Bytes of one request."""
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 10.0
_PATIENCE = 120.0
"""Seconds for which a server may have no room for anything before the scan gives up."""
_TRIES = 4
"""How often a request is sent whose answer never comes."""
_STOP_SECONDS = 2.0
_TOO_FAR = ' (a field of type date takes it: let retl create the index anew with times = "date")'
_OF_FIELD = re.compile(r"(?:failed to parse field|dynamic introduction of|object mapping for) \[([^\]]+)\]")

Rows = np.ndarray[Any, np.dtype[np.int64]]
Refuse = Callable[[Lines, int, str, str], None]
"""Told of an item that will never be taken: lines, its number, reason and field."""
Prove = Callable[[], Awaitable[None]]
"""Asked before each request, also before one that is sent again: raises where nothing may be sent any more."""


class _Item(msgspec.Struct, gc=False):
    status: int
    error: Any = None


class _Answer(msgspec.Struct):
    items: msgspec.Raw
    errors: bool = True


_ITEMS = msgspec.json.Decoder(list[dict[str, _Item]])


class Bulk:
    """Sends lines to one index. An error of one request is raised by the next call that waits.

    ``forgiven`` are statuses of items that need no second attempt and are no failure: 409
    where a document that is newer, or there already, stays as it is.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        params: Mapping[str, Any],
        refuse: Refuse,
        *,
        writers: int,
        forgiven: frozenset[int] = frozenset(),
        patience: float = _PATIENCE,
        prove: Prove | None = None,
    ) -> None:
        self._client = client
        self._path = path
        self._params = {**params, "filter_path": "errors,items.*.status,items.*.error"}
        self._refuse = refuse
        self._prove = prove
        self._writers = writers
        self._forgiven = forgiven
        self._patience = patience
        self._running: set[asyncio.Task[None]] = set()
        self._most = _MOST
        self.size = _MOST
        """How many bytes a request may have now."""
        self.written = 0
        self.unchanged = 0

    async def send(self, lines: Lines) -> None:
        """Take some lines; waits while there are as many requests under way as there may be."""
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
        """Send nothing more. What is under way is waited for shortly, so that it does not arrive after what comes next."""
        running, self._running = self._running, set()
        if not running:
            return
        _, late = await asyncio.wait(running, timeout=_STOP_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def forget(self) -> None:
        """Count from nothing again."""
        self.written = self.unchanged = 0

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
        """As many of the rows as one request may carry, at least one, and the rest."""
        sizes = np.cumsum(lines.sizes()[rows])
        number = max(1, int(np.searchsorted(sizes, self.size, side="right")))
        return rows[:number], rows[number:]

    async def _deliver(self, lines: Lines, rows: Rows) -> None:
        patience = _Patience(self._patience)
        while rows.size:
            part, rest = self._cut(lines, rows)
            again, reason = await self._attempt(lines, part)
            rows = np.concatenate((again, rest))
            if again.size < part.size:
                patience.renew()
            if again.size:
                await patience.wait(reason)

    async def _attempt(self, lines: Lines, rows: Rows) -> tuple[Rows, RetlError | None]:
        """Send some rows; those that are to be sent again, and why."""
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
            return rows, self._busy(answer.status, answer.body)
        return self._judge(lines, rows, answer.body, len(body))

    def _too_large(self, lines: Lines, rows: Rows, size: int) -> tuple[Rows, RetlError | None]:
        if rows.size == 1:
            self._refuse(
                lines, int(rows[0]), "the document is larger than the server takes (http.max_content_length)", ""
            )
            return rows[:0], None
        self._most = self.size = max(_LEAST, size // 2)
        return rows, None

    def _judge(self, lines: Lines, rows: Rows, body: bytes, size: int) -> tuple[Rows, RetlError | None]:
        try:
            answer = msgspec.json.decode(body, type=_Answer)
            if not answer.errors and body.count(b'"status":') == rows.size:
                # As nearly always. No object is made for an item.
                self.written += rows.size
                self._grow(size)
                return rows[:0], None
            items = _ITEMS.decode(answer.items)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise unexpected(body, self._client.place) from None
        if len(items) != rows.size:
            raise TargetError(f"{self._client.place} answered {len(items):,} items of a request of {rows.size:,}.")
        again: list[int] = []
        reason: RetlError | None = None
        for number, answered in zip(rows.tolist(), items, strict=True):
            (item,) = answered.values()
            if item.status < 300:
                self.written += 1
            elif item.status in self._forgiven:
                self.unchanged += 1
            elif item.status == 409:
                raise self._busy(item.status, b"")
            elif item.status == 429 or item.status >= 500:
                again.append(number)
                reason = reason or self._busy(item.status, msgspec.json.encode(item.error))
            else:
                self._refused(lines, number, item)
        if again:
            self._shrink(size)
        else:
            self._grow(size)
        return np.array(again, np.int64), reason

    def _refused(self, lines: Lines, number: int, item: _Item) -> None:
        said = refusal(item.error)
        if item.status in (401, 403, 404):
            # Not of this document alone: a privilege, a block, an index that is gone.
            raise server_error(item.status, msgspec.json.encode(item.error), "target", self._client.place)
        found = _OF_FIELD.search(said.reason)
        kind = f"{said.kinds[0]}: " if said.kinds else ""
        remedy = _TOO_FAR if "nanosecond resolution" in said.reason else ""
        self._refuse(lines, number, f"{kind}{said.reason}{remedy}", found[1] if found else "")

    def _busy(self, status: int, body: bytes) -> RetlError:
        if status == 409:
            return TargetBusy(
                f"somebody else changes the same documents at {self._client.place}.", remedy="the scan is tried again."
            )
        return server_error(status if status in (429, 503) else 503, body, "target", self._client.place)

    def _grow(self, size: int) -> None:
        if 2 * size >= self.size:
            self.size = min(self._most, self.size + self.size // 4)

    def _shrink(self, size: int) -> None:
        self.size = max(_LEAST, min(self.size, size) // 2)


class _Patience:
    """Pauses between attempts, longer and longer, until it is over."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._tries = 0
        self.renew()

    def renew(self) -> None:
        """Something was taken."""
        self._until = time.monotonic() + self._seconds
        self._pause = _FIRST_WAIT
        self._tries = 0

    async def wait(self, reason: RetlError | None) -> None:
        """Pause; raises ``reason`` where that was often or long enough."""
        if reason is None:
            return
        self._tries += 1
        lost = isinstance(reason, ConnectionFailed) and self._tries >= _TRIES
        if lost or time.monotonic() + self._pause > self._until:
            raise reason
        await anyio.sleep(random.uniform(self._pause / 2, self._pause))
        self._pause = min(2 * self._pause, _LONGEST_WAIT)
