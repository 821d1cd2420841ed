"""What a scan sees of its books before it reads any document."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import datetime

from retl.connectors.yuque.catalog import Book, Catalog, Listed, place
from retl.connectors.yuque.facts import Facts
from retl.connectors.yuque.selection import Selection

_PAGE = 1_000


@dataclass
class Listing:
    """The documents that are listed, all or those that have changed; about 500 bytes of memory each."""

    books: dict[int, Book]
    contents: dict[int, dict[int, str]] = field(default_factory=dict)
    """By book: the place of each document in its table of contents."""
    documents: dict[int, Listed] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    """Those that lie in the bins."""
    whole: set[int] = field(default_factory=set)
    """The books of which all documents were listed, so that what is missing is gone."""
    since: dict[int, datetime] = field(default_factory=dict)
    """By book: the last change that was seen."""
    short: list[Book] = field(default_factory=list)
    """Books that changed so fast that some of their documents may not have been seen."""
    listed_at: float = 0.0

    @property
    def is_whole(self) -> bool:
        return self.whole == set(self.books)

    async def pages(self) -> AsyncGenerator[list[Listed], None]:
        """The documents, page by page, in the order of their names."""
        ordered = sorted(self.documents.values(), key=lambda one: one.name)
        for start in range(0, len(ordered), _PAGE):
            yield ordered[start : start + _PAGE]

    def path(self, book: int, number: int) -> str | None:
        """Where a document stands in the table of contents; ``None`` where it does not."""
        return self.contents.get(book, {}).get(number)

    def place(self, book: Book, number: int) -> str:
        """What changes when a document stands elsewhere."""
        return place(book, self.path(book.id, number))


class Capabilities:
    """What an installation can do, as it has shown; kept by the door, and asked anew with each full listing."""

    def __init__(self) -> None:
        self.changes: bool | None = None
        """Whether it can tell what has changed."""
        self.bins: bool = True
        """Whether it shows what was deleted."""


async def listing_of(
    catalog: Catalog, selection: Selection, facts: Facts | None, can: Capabilities, *, deletes: bool, every: float
) -> Listing:
    """What there is, or what has changed since ``facts``. ``deletes``: whether it matters what is gone."""
    books = await selection.books(catalog)
    found = Listing({book.id: book for book in books})
    if facts is None or facts.is_due(every):
        can.changes, can.bins = None, True
        facts = None
        found.listed_at = time.time()
    for book in books:
        found.contents[book.id] = await catalog.contents(book)
        since = None if facts is None else facts.since.get(book.id)
        if since is not None and can.changes is None:
            can.changes = await catalog.knows_changes(book)
        if not can.changes:
            since = None
        await _list(catalog, book, since, found)
        if deletes and can.bins:
            deleted = await catalog.deleted(book)
            can.bins = deleted is not None
            found.deleted |= deleted or set()
    found.deleted -= found.documents.keys()
    return found


async def _list(catalog: Catalog, book: Book, since: datetime | None, found: Listing) -> None:
    documents, complete = await catalog.documents(book, since)
    found.documents |= documents
    if since is None and complete:
        found.whole.add(book.id)
    if not complete:
        found.short.append(book)
        return
    times = [one.changed for one in documents.values() if one.changed is not None]
    if times or since is not None:
        found.since[book.id] = max([*times, *([since] if since is not None else [])])
