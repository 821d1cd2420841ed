"""Who may have the next connection to a server: first come, first served.

A scan holds a connection of its source while it waits for one of its target, and asks questions while it holds both.
So that nobody waits for somebody who waits for the same:

- one connection is left for questions, which wait for nothing while they have it;
- where a server is a source and a target, scans that read have half of the rest at most: those that write wait for
  nothing but questions, and end;
- where it holds leases, one more is left for heartbeats, which must not wait for a question.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from enum import Enum


class Use(Enum):
    """What a connection is wanted for."""

    QUESTION = "a moment"
    SOURCE = "a scan that reads"
    TARGET = "a scan that writes"
    URGENT = "a heartbeat"


class ConnectionLimit:
    """Limits how many connections are in use at once, and which use may have the next one."""

    def __init__(self) -> None:
        self.most = 0
        """How many connections there may be, in use and idle."""
        self._urgent = 0
        self._both = False
        self._in_use: Counter[Use] = Counter()
        self._waiting: list[tuple[Sequence[Use], asyncio.Future[Use]]] = []
        """In the order in which they came."""

    def resize(self, most: int, *, urgent: int, both: bool) -> None:
        """``urgent``: how many are left for heartbeats. ``both``: scans read from the server, and write to it.

        A limit that would let nobody read and write is raised to the least that does: two connections, and one each
        for heartbeats and for ``both``.
        """
        self.most, self._urgent, self._both = max(most, 2 + urgent + both), urgent, both
        self._admit()

    async def acquire(self, *uses: Use) -> Use:
        """Wait until there is room for one of these uses; the first one that has some is returned, to be released."""
        if (found := self.acquire_now(*uses)) is not None:
            return found
        waiting: asyncio.Future[Use] = asyncio.get_running_loop().create_future()
        self._waiting.append((uses, waiting))
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.cancelled():
                self._waiting = [other for other in self._waiting if other[1] is not waiting]
            else:  # it was admitted in the same moment
                self.release(waiting.result())
            raise

    def acquire_now(self, *uses: Use) -> Use | None:
        """The same without waiting; ``None`` where there is no room.

        Nobody is overtaken: those who wait are let in as soon as there is room for what they want.
        """
        found = self._first_with_room(uses)
        if found is not None:
            self._in_use[found] += 1
        return found

    def release(self, use: Use) -> None:
        """A connection is in use no longer."""
        self._in_use[use] -= 1
        self._admit()

    def _admit(self) -> None:
        left: list[tuple[Sequence[Use], asyncio.Future[Use]]] = []
        for uses, waiting in self._waiting:
            if waiting.done():
                continue
            if (found := self.acquire_now(*uses)) is None:
                left.append((uses, waiting))
            else:
                waiting.set_result(found)
        self._waiting = left

    def _first_with_room(self, uses: Sequence[Use]) -> Use | None:
        for use in uses:
            if self._has_room(use):
                return use
        return None

    def _has_room(self, use: Use) -> bool:
        in_use = self._in_use
        if use is Use.URGENT:
            return in_use[use] < self._urgent
        at_most = self.most - self._urgent
        reserved = in_use[Use.SOURCE] + in_use[Use.TARGET]
        room = at_most - 1
        # The first of each has room even if the limit has been lowered while scans held more: they may wait for it.
        if use is Use.QUESTION and not in_use[use]:
            return True
        if use is Use.TARGET and not in_use[use] and reserved >= room:
            return True
        if reserved + in_use[Use.QUESTION] >= at_most:
            return False
        if use is Use.QUESTION:
            return True
        if use is Use.SOURCE and self._both and in_use[use] >= max(1, room // 2):
            return False
        return reserved < room
