"""A listing and the manifest, two streams in the order of names, side by side, and a guard against a listing that is short by mistake."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Protocol, TypeVar

from retl.model.errors import GuardStopped, SourceError
from retl.model.manifest import ManifestEntry
from retl.model.table import TableSpec
from retl.pulse import beat


class Named(Protocol):
    """What a listing shows, under the name that its entry has in the manifest."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)
Pair = tuple[T | None, ManifestEntry | None]
"""One thing as it is listed, and its entry. Without the first it is gone, without the second it is new."""

_PAGE = 1_000


async def pairs(
    listing: AsyncGenerator[Sequence[T], None], manifest: AsyncIterator[ManifestEntry]
) -> AsyncGenerator[list[Pair[T]], None]:
    """Everything that is listed or known, page by page; holds no more than a page of either stream.

    Raises ``SourceError`` for a listing that is not in the order of names.
    """
    entry = await anext(manifest, None)
    last = ""
    async with aclosing(listing):
        async for page in listing:
            beat()
            found: list[Pair[T]] = []
            for item in page:
                if item.name <= last:
                    raise SourceError(f"the listing is not in the order of names: {item.name!r} came behind {last!r}.")
                last = item.name
                while entry is not None and entry.name < item.name:
                    found.append((None, entry))
                    entry = await anext(manifest, None)
                known = entry if entry is not None and entry.name == item.name else None
                if known is not None:
                    entry = await anext(manifest, None)
                found.append((item, known))
            yield found
    while entry is not None:
        found = []
        while entry is not None and len(found) < _PAGE:
            found.append((None, entry))
            entry = await anext(manifest, None)
        yield found


async def no_entries() -> AsyncGenerator[ManifestEntry, None]:
    """The manifest of a table that holds nothing."""
    return
    yield  # a generator


def check_vanished(
    table: TableSpec, things: str, *, vanished: int, vanished_rows: int, known: int, known_rows: int
) -> None:
    """Stop before more rows are deleted than the table allows. ``things``: what is gone, such as ``"files"``."""
    allowed = table.max_shrink
    what, gone, there = ("rows", vanished_rows, known_rows) if known_rows else (things, vanished, known)
    if gone < there if allowed is None else gone <= round(there * allowed):
        return
    limit = "" if allowed is None else f', more than max_shrink = "{allowed:.0%}" allows'
    raise GuardStopped(
        f"{vanished:,} {things} are gone, with {gone:,} of the {there:,} {what} in the table {table.to!r}{limit}; "
        "their rows were left there.",
        remedy=f'look at the place of the {things}; if they are gone for good, allow it with max_shrink = "100%".',
    )
