"""The changes of a table of documents as groups: what is read and committed as one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

from retl.connectors.manifest.ahead import ahead
from retl.connectors.manifest.names import KeptNames
from retl.connectors.manifest.pairs import check_vanished, no_entries, pairs
from retl.connectors.yuque.answers import as_number, as_object
from retl.connectors.yuque.catalog import Catalog, Listed
from retl.connectors.yuque.errors import NotThere
from retl.connectors.yuque.listing import Listing
from retl.connectors.yuque.rows import decode
from retl.connectors.yuque.selection import Selection
from retl.model.errors import TransientError
from retl.model.manifest import ManifestEntry
from retl.model.table import TableSpec
from retl.state.base import Manifest

GROUP_DOCUMENTS = 20
"""A first load of hours that is killed reads no more than these again."""
GROUP_NAMES = 1_000


@dataclass(eq=False)
class Group:
    """The documents of one slice, and what has come of them."""

    documents: tuple[Listed, ...] = ()
    gone: tuple[str, ...] = ()
    """Names whose rows and entries are removed."""
    entries_only: bool = False
    """Whether only the entries of ``gone`` are removed, since the target has no rows of them."""
    remembers: bool = True
    """Whether the checkpoint remembers the table with it: not before all old entries are gone."""
    read: dict[str, Listed] = field(default_factory=dict)
    """Those that were read to their end."""


@dataclass
class Counts:
    """How many documents are what, and how many of them the target holds."""

    new: int = 0
    changed: int = 0
    moved: int = 0
    unchanged: int = 0
    vanished: int = 0
    known: int = 0

    @property
    def text(self) -> str:
        """The same for people."""
        return ", ".join(
            f"{getattr(self, name):,} {name}" for name in ("new", "changed", "moved", "unchanged", "vanished")
        )


class Changes:
    """Compares what is listed with the manifest, and gives what has to be done, in groups."""

    def __init__(
        self,
        table: TableSpec,
        catalog: Catalog,
        selection: Selection,
        listing: Listing,
        manifest: Manifest,
        kinds: frozenset[str],
        *,
        fresh: bool,
    ) -> None:
        """``fresh``: the target has nothing of what the manifest says."""
        self._table = table
        self._catalog = catalog
        self._selection = selection
        self._listing = listing
        self._manifest = manifest
        self._kinds = kinds
        self._fresh = fresh
        self.counts = Counts()
        self._gone = KeptNames()
        self._known: set[int] = set()
        """The documents with an entry that are read again."""
        self._gone_for_ever: set[int] = set()
        self._lost_books: dict[int, bool] = {}
        """Whether a book that is not among those of the table is there nevertheless."""

    def _entries(self) -> AsyncIterator[ManifestEntry]:
        return no_entries() if self._fresh else aiter(self._manifest)

    async def survey(self) -> Counts:
        """What has changed. Reads only the manifest."""
        counts = Counts()
        async for _ in self._differences(counts, everything=False):
            pass
        return counts

    async def groups(self, *, unfinished: bool) -> AsyncGenerator[Group, None]:
        """What is to be read, then what is gone. Nothing where nothing has changed."""
        if self._fresh:
            async for names in self._old_entries():
                yield Group(gone=names, entries_only=True, remembers=False)
        replaces = self._table.replaces
        if replaces and not (self._fresh or unfinished or await self._any_change()):
            return
        waiting: list[Listed] = []
        async with aclosing(self._differences(self.counts, everything=replaces)) as found:
            async for one in found:
                if isinstance(one, str):
                    await self._gone.add(one)
                    continue
                waiting.append(one)
                if len(waiting) >= GROUP_DOCUMENTS:
                    yield Group(tuple(waiting))
                    waiting = []
        if waiting:
            yield Group(tuple(waiting))
        async with aclosing(self._removals()) as removals:
            async for group in removals:
                yield group

    async def _any_change(self) -> bool:
        counts = await self.survey()
        return bool(counts.new or counts.changed or counts.moved or counts.vanished)

    async def _old_entries(self) -> AsyncGenerator[tuple[str, ...], None]:
        """The entries of a table that is gone: they would hide documents that have to be read again."""
        names: list[str] = []
        async for entry in self._manifest:
            names.append(entry.name)
            if len(names) >= GROUP_NAMES:
                yield tuple(names)
                names = []
        if names:
            yield tuple(names)

    # Comparing --------------------------------------------------------------

    async def _differences(self, counts: Counts, *, everything: bool) -> AsyncGenerator[Listed | str, None]:
        """Each document that is to be read, and the name of each that may be gone."""
        async with aclosing(pairs(self._listing.pages(), self._entries())) as pages:
            async for page in pages:
                for listed, entry in page:
                    counts.known += entry is not None
                    if listed is not None and self._is_read(listed):
                        if self._differs(listed, entry, counts) or everything:
                            if entry is not None:
                                self._known.add(listed.id)
                            yield listed
                    elif entry is not None:
                        found = self._unlisted(entry, counts)
                        if found is not None:
                            yield found

    def _differs(self, listed: Listed, entry: ManifestEntry | None, counts: Counts) -> bool:
        if entry is None:
            counts.new += 1
        elif entry.identity != listed.identity:
            counts.changed += 1
        elif entry.facts.get("place") != self._listing.place(listed.book, listed.id):
            counts.moved += 1
        else:
            counts.unchanged += 1
            return False
        return True

    def _unlisted(self, entry: ManifestEntry, counts: Counts) -> Listed | str | None:
        """A document that is known and not listed: gone, moved, or as it was."""
        book = self._listing.books.get(as_number(entry.facts.get("book")) or 0)
        number = as_number(entry.name) or 0
        if self._is_sure(number) or book is None or book.id in self._listing.whole:
            counts.vanished += 1
            return entry.name
        if entry.facts.get("place") != self._listing.place(book, number):
            counts.moved += 1
            self._known.add(number)
            return Listed(number, book, entry.identity, None, entry.facts.get("kind", "Doc"), entry.name, draft=False)
        counts.unchanged += 1
        return None

    def _is_read(self, listed: Listed) -> bool:
        """Whether a document belongs to the table: never one that nobody has published."""
        ignored = self._selection.ignores(f"{listed.book.namespace}/{listed.slug}")
        return listed.kind in self._kinds and not listed.draft and not ignored

    # What is gone -----------------------------------------------------------

    async def _removals(self) -> AsyncGenerator[Group, None]:
        entries_only = self._table.replaces
        if not self._gone.count or (self._table.files.vanished == "keep" and not entries_only):
            return
        if not entries_only:
            known, gone = self.counts.known, self._gone.count
            check_vanished(self._table, "documents", vanished=gone, vanished_rows=gone, known=known, known_rows=known)
        async with aclosing(self._gone.groups(GROUP_NAMES)) as groups:
            async for names in groups:
                proved = await self._proved(names)
                if proved:
                    yield Group(gone=proved, entries_only=entries_only)

    async def vanished(self, number: int) -> None:
        """A document was gone when it was read: what the target has of it is gone, too."""
        if number in self._known and number not in self._gone_for_ever:
            self._gone_for_ever.add(number)
            self.counts.vanished += 1
            await self._gone.add(str(number))

    async def _proved(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Those that are gone indeed: a list may miss one, while others come and go."""
        books = await self._books_of({name for name in names if not self._is_sure(int(name))})
        there: set[str] = set()

        async def look(name: str) -> bool:
            return await self._is_there(int(name), books[name])

        async with aclosing(ahead(books, look, at_once=3)) as looked:
            async for name, task in looked:
                if task.result():
                    there.add(name)
        if there and self._table.replaces:
            raise TransientError(
                f"{len(there):,} documents were not listed, and are there: the books changed while they were listed.",
                remedy="nothing: it is tried again.",
            )
        return tuple(name for name in names if name not in there)

    def _is_sure(self, number: int) -> bool:
        """Whether a document is gone for sure: it lies in a bin, it is none of the table's any more, or it was refused."""
        listed = self._listing.documents.get(number)
        other = listed is not None and not self._is_read(listed)
        return other or number in self._listing.deleted or number in self._gone_for_ever

    async def _books_of(self, names: set[str]) -> dict[str, int]:
        found: dict[str, int] = dict.fromkeys(names, 0)
        async for entry in self._entries():
            if entry.name in names:
                found[entry.name] = as_number(entry.facts.get("book")) or 0
        return found

    async def _is_there(self, number: int, book: int) -> bool:
        """Whether a document that no list shows can still be read in a book of the table."""
        if book not in self._listing.books and not await self._book_is_there(book):
            return False
        what = f"the document {number}, which is not listed"
        try:
            item = decode(await self._catalog.document(book, number, what), what)
        except NotThere:
            return False
        there = as_number(item.get("book_id")) or as_number(as_object(item.get("book")).get("id")) or book
        return (there in self._listing.books or there == book) and not item.get("deleted_at")

    async def _book_is_there(self, book: int) -> bool:
        if book not in self._lost_books:
            try:
                self._lost_books[book] = self._selection.has(await self._catalog.book(str(book)))
            except NotThere:
                self._lost_books[book] = False
        return self._lost_books[book]

    def close(self) -> None:
        self._gone.close()
