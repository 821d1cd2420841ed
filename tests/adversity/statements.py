"""Acting right before a statement reaches a MySQL server, or right after it was answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary

import pytest
from pymysql.constants import CR
from pymysql.err import OperationalError

from retl.connectors.mysql.wire import TextWire

When = Literal["before", "after", "unheard"]
"""``unheard``: after it, but whoever sent it never gets the answer."""


class Moment:
    """The ``count``-th statement of one port that begins so, and what is done then. It comes once.

    ``UPDATE > COMMIT`` is a COMMIT that follows an UPDATE in its session.
    """

    def __init__(self, port: int, words: str, when: When, act: Callable[[], Awaitable[object]], count: int = 1) -> None:
        self.came = False
        self.seen: list[str] = []
        """All statements, in order."""
        self._port = port
        self._before, _, self._begins = words.rpartition(" > ")
        self._when = when
        self._act = act
        self._left = count
        self._last: WeakKeyDictionary[Any, str] = WeakKeyDictionary()

    @asynccontextmanager
    async def around(self, wire: Any, sql: str) -> AsyncIterator[None]:
        if not self._is_now(wire, sql):
            yield
            return
        self.came = True
        if self._when == "before":
            await self._act()
        yield
        if self._when != "before":
            await self._act()
        if self._when == "unheard":
            wire.abort()
            raise OperationalError(CR.CR_SERVER_LOST, "the answer is lost")

    def _is_now(self, wire: Any, sql: str) -> bool:
        if wire._port != self._port:
            return False
        self.seen.append(sql)
        before = self._last.get(wire, "")
        self._last[wire] = sql
        if sql.startswith(self._begins) and before.startswith(self._before):
            self._left -= 1
            return self._left == 0
        return False


@contextmanager
def acting(monkeypatch: pytest.MonkeyPatch, moment: Moment) -> Iterator[None]:
    """Within the block, every statement passes by the ``moment``."""

    def watched(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(wire: Any, sql: str, *more: Any) -> Any:
            async with moment.around(wire, sql):
                return await original(wire, sql, *more)

        return call

    with monkeypatch.context() as patch:
        for name in ("run", "load", "begin_result"):
            patch.setattr(TextWire, name, watched(getattr(TextWire, name)))
        yield
