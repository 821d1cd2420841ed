"""The groups of a scan that finds its slices while it compares: each is one slice, until it is committed."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterable
from typing import Generic, TypeVar

from retl.model.window import Slice

G = TypeVar("G")


class GroupQueue(Generic[G]):
    """Numbers groups as slices, and gives those again that were not committed when one was rejected."""

    def __init__(self, found: AsyncGenerator[G, None]) -> None:
        self._found = found
        self._waiting: deque[G] = deque()
        """Groups that come before what is found next."""
        self._failure: Exception | None = None
        """What looking ahead has met: raised when its turn has come."""
        self._given: dict[int, G] = {}
        self._next = 0

    async def groups(self) -> AsyncGenerator[tuple[int, G], None]:
        """Each group with the index of its slice."""
        while (group := await self._take()) is not None:
            number = self._next
            self._given[number] = group
            self._next += 1
            yield number, group

    async def _take(self) -> G | None:
        if not self._waiting:
            if self._failure is not None:
                raise self._failure
            found = await anext(self._found, None)
            if found is not None:
                return found
        return self._waiting.popleft() if self._waiting else None

    async def peek(self) -> G | None:
        """The group that comes next, found before its turn."""
        if not self._waiting and self._failure is None:
            try:
                found = await anext(self._found, None)
            except Exception as error:
                self._failure = error
            else:
                self._waiting.extend([found] if found is not None else [])
        return self._waiting[0] if self._waiting else None

    @property
    def are_waiting(self) -> bool:
        """Whether groups are to be given again, or later."""
        return bool(self._waiting)

    def of(self, slice_: Slice) -> G | None:
        """The group of a slice that is neither committed nor taken back."""
        return self._given.get(slice_.index)

    def committed(self, slice_: Slice) -> None:
        """Forget the group of a slice."""
        self._given.pop(slice_.index, None)

    def take_back(self) -> list[G]:
        """Every group that was given and is not committed, in order."""
        return [self._given.pop(index) for index in sorted(self._given)]

    def put(self, group: G) -> None:
        """Give a group later, after those that wait."""
        self._waiting.append(group)

    def put_first(self, groups: Iterable[G]) -> None:
        """Give some groups next, in their order."""
        self._waiting.extendleft(reversed(list(groups)))

    async def aclose(self) -> None:
        await self._found.aclose()
