"""One object, read in parts: each by a GET of its own that names the content it wants."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

from retl.connectors.files.store import FileArchived, FileChanged, FileInfo, changed
from retl.connectors.files.stores.objects.client import ObjectClient, begin, budget
from retl.connectors.files.stores.objects.errors import ARCHIVED, CHANGED, code_of
from retl.connectors.files.stores.objects.identity import bare, etag_of, identity_of
from retl.model.errors import ConnectionFailed, RetlError, SourceError, TransientError
from retl.threads import end_task

PART = 8 << 20
BLOCK = 1 << 20
_LARGE = 1 << 20
"""From here on an answer is received by a thread."""
_PATIENCE = 5.0


class Slots:
    """How many parts all readers together may hold beyond the one that each of them always has."""

    def __init__(self, free: int) -> None:
        self._free = free

    def take(self) -> bool:
        """Whether there was one. A reader never waits for one, so that two of them cannot wait for each other."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    def give(self) -> None:
        self._free += 1


class ObjectReader:
    """Reads one object once, under the identity it was listed with."""

    def __init__(self, client: ObjectClient, file: FileInfo, slots: Slots, parallel: int) -> None:
        self._client = client
        self._file = file
        self._slots = slots
        self._parallel = parallel
        self._parts = self._all_parts()
        self._under_way: deque[tuple[_Part, asyncio.Task[None]]] = deque()

    async def read(self) -> AsyncGenerator[bytes, None]:
        """The blocks of the object, in order. A part comes as a whole before it is given on: nobody who is slow holds a GET open."""
        proved = True
        try:
            while self._begin():
                part, task = self._under_way[0]
                await asyncio.wait([task])
                task.result()
                proved &= part.proved
                while part.blocks:
                    yield part.block()
                self._end(self._under_way.popleft)
        finally:
            while self._under_way:
                await end_task(self._under_way[-1][1], patience=_PATIENCE)
                self._end(self._under_way.pop)
        if not proved:
            await self._prove()

    def _all_parts(self) -> Iterator[_Part]:
        size = self._file.size
        for at in range(0, size, PART) if size else (0,):
            yield _Part(self._client, self._file, at, min(at + PART, size))

    def _begin(self) -> bool:
        """Send for as many parts as there is room for; whether any is under way."""
        while len(self._under_way) < self._parallel and (not self._under_way or self._slots.take()):
            part = next(self._parts, None)
            if part is None:
                if self._under_way:
                    self._slots.give()
                break
            self._under_way.append((part, begin(part.fetch())))
        return bool(self._under_way)

    def _end(self, pop: Any) -> None:
        pop()
        if self._under_way:
            self._slots.give()

    async def _prove(self) -> None:
        """A store that does not say which content it gave is asked afterwards whether it is still the same."""
        name = self._file.name
        try:
            head = await self._client.head(
                self._client.location.prefix + name, f"looking at {self._client.location.root}{name}"
            )
        except RetlError as error:
            raise changed(self._file, "it is gone") if code_of(error) in CHANGED else error from error
        if identity_of(head.get("ETag", ""), int(head.get("Content-Length", -1))) != self._file.identity:
            raise changed(self._file, "it was overwritten while it was read")


class _Part:
    """The bytes of an object from one place up to another."""

    def __init__(self, client: ObjectClient, file: FileInfo, at: int, end: int) -> None:
        self.blocks: deque[bytes] = deque()
        self.proved = True
        """Whether each answer said which content it is of."""
        self._client = client
        self._file = file
        self._at = at
        self._end = end
        self._was_cut = False
        self._what = f"reading {client.location.root}{file.name}"

    def block(self) -> bytes:
        """The next block of those that are there: of several small pieces one."""
        pieces = [self.blocks.popleft()]
        size = len(pieces[0])
        while self.blocks and (size := size + len(self.blocks[0])) <= BLOCK:
            pieces.append(self.blocks.popleft())
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def fetch(self) -> None:
        """Get all of it. What a cut has left is kept, and the rest is asked for."""
        spent = budget()
        while True:
            before = self._at
            try:
                return await self._get()
            except FileChanged:
                raise
            except TransientError as error:
                self._was_cut = True
                if self._at > before:
                    spent.reset()
                await spent.wait(error, exactly=error.retry_after)

    async def _get(self) -> None:
        headers = {"if-match": etag_of(self._file.identity)}
        if not self._is_whole:
            headers["range"] = f"bytes={self._at}-{self._end - 1}"
        key = self._client.location.prefix + self._file.name
        try:
            # After a cut each byte counts that has come.
            large = self._end - self._at > _LARGE and not self._was_cut
            await self._client.fetch(key, self._what, headers, self, large=large)
        except RetlError as error:
            raise self._of_file(error) from error.__cause__
        if self._at < self._end:
            raise ConnectionFailed(f"the answer ended early while {self._what}.", remedy="nothing, if it passes.")
        if self._at > self._end:
            raise SourceError(f"{self._what} gave more bytes than were asked for.", remedy="check endpoint.")

    def add(self, block: bytes) -> None:
        """Keep the next piece of an answer."""
        self._at += len(block)
        self.blocks.append(block)

    @property
    def _is_whole(self) -> bool:
        return self._at == 0 and self._end == self._file.size

    def _of_file(self, error: RetlError) -> RetlError:
        """What a refusal says of the file: it is another one, gone or archived by now."""
        code = code_of(error)
        if code in CHANGED:
            return changed(self._file, "it was overwritten or deleted")
        if code in ARCHIVED:
            return FileArchived(
                f"{self._file.name!r} is archived, and cannot be read before it is restored.",
                remedy="restore it in the store; the next scan takes it.",
            )
        return error

    def begin(self, headers: Mapping[str, str]) -> None:
        """See that an answer is of the right content, and of the right place in it."""
        etag = headers.get("ETag", "")
        self.proved &= bool(etag)
        if etag and bare(etag) != bare(etag_of(self._file.identity)):
            raise changed(self._file, "it was overwritten")
        size = str(self._file.size)
        if self._is_whole and headers.get("Content-Length", size) != size:
            raise changed(self._file, f"it had {size} bytes")
        if not self._is_whole and headers.get("Content-Range") != f"bytes {self._at}-{self._end - 1}/{size}":
            raise self._wrong_range(headers.get("Content-Range"))

    def _wrong_range(self, given: str | None) -> RetlError:
        if given is not None and given.rpartition("/")[2] != str(self._file.size):
            return changed(self._file, f"it had {self._file.size} bytes")
        return SourceError(
            f"{self._what}: the store gave other bytes than were asked for ({given or 'all of them'}).",
            remedy="check endpoint: retl needs a store that gives ranges of an object.",
        )
