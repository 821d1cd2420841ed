"""One scan of a table of documents: a few documents as a slice, each with its entry of the manifest."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import anyio.to_thread
import msgspec
import pyarrow as pa

from retl.connectors.base import SourceScan
from retl.connectors.manifest.ahead import ahead
from retl.connectors.manifest.groups import GroupQueue
from retl.connectors.yuque.catalog import Listed
from retl.connectors.yuque.changes import Changes, Group
from retl.connectors.yuque.errors import NotThere, QuotaUsedUp
from retl.connectors.yuque.facts import Facts
from retl.connectors.yuque.listing import Listing
from retl.connectors.yuque.reading import DocumentReader, Row
from retl.connectors.yuque.settings import MOST_AT_ONCE
from retl.connectors.yuque.types import KEY
from retl.model.errors import RetlError, RowsRejected, SourceError
from retl.model.manifest import ManifestChange, ManifestEntry
from retl.model.plan import SourcePlan, SourcePreview
from retl.model.window import Scope, Slice

_BATCH_BYTES = 4 * 1024 * 1024
_MOST_TOLD = 20
_MOST_FAILED = 10
"""So many documents that fail one after another are no fault of theirs."""
_PREVIEWED = 3


class Prepared:
    """What a scan knows once it has listed its books."""

    def __init__(self, listing: Listing, changes: Changes, reader: DocumentReader) -> None:
        self.listing = listing
        self.changes = changes
        self.reader = reader


class DocumentScan(SourceScan):
    """Lists, compares, and reads group by group. Asks nothing before its slices are asked for."""

    def __init__(
        self,
        plan: SourcePlan,
        names: Sequence[str],
        prepare: Callable[[Callable[[str], None]], Awaitable[Prepared]],
        facts: Facts,
        *,
        unfinished: bool,
    ) -> None:
        """``names``: the columns of the plan under their names here. ``facts``: what the checkpoint remembers with a slice.
        ``unfinished``: a replacing scan did not end.
        """
        self.plan = plan
        self._names = list(names)
        self._prepare = prepare
        self._facts = facts
        self._unfinished = unfinished
        self._prepared: Prepared | None = None
        self._groups = GroupQueue(self._changed())
        self._bad: list[str] = []
        self._left_out = 0
        self._failed = 0
        self._warnings: list[str] = []
        self._told: set[str] = set()

    # Slices -----------------------------------------------------------------

    async def slices(self) -> AsyncGenerator[Slice, None]:
        async with aclosing(self._groups.groups()) as groups:
            async for index, group in groups:
                yield self._slice(index, group)
        self._end()

    async def _known(self) -> Prepared:
        if self._prepared is None:
            self._prepared = await self._prepare(self._warn)
        return self._prepared

    async def _changed(self) -> AsyncGenerator[Group, None]:
        known = await self._known()
        some = False
        async with aclosing(known.changes.groups(unfinished=self._unfinished)) as groups:
            async for group in groups:
                some = True
                yield group
        if known.listing.listed_at and not some and not self.plan.table.replaces:
            yield Group()  # that all were listed is remembered, though nothing has changed

    def _slice(self, index: int, group: Group) -> Slice:
        table = self.plan.table
        gone = () if group.entries_only else group.gone
        names = (*(one.name for one in group.documents), *gone)
        column = table.target_name(KEY) if gone else table.scope
        entries = tuple(self._entry(one) for one in group.documents if one.name in group.read)
        return Slice(
            index=index,
            scope=Scope(column, names) if column is not None and names else None,
            manifest=ManifestChange(put=entries, remove=group.gone),
            detail=self._facts.packed() if group.remembers else {},
        )

    def _entry(self, one: Listed) -> ManifestEntry:
        assert self._prepared is not None
        facts = {"book": str(one.book.id), "kind": one.kind, "place": self._prepared.listing.place(one.book, one.id)}
        return ManifestEntry(name=one.name, identity=one.identity, rows=1, facts=facts)

    def delivered(self, slice_: Slice) -> Slice | None:
        group = self._groups.of(slice_)
        if group is None:
            return slice_
        if group.documents and not group.read and not group.gone:
            self.committed(slice_)
            return None
        group.documents = tuple(one for one in group.documents if one.name in group.read)
        return self._slice(slice_.index, group)

    def committed(self, slice_: Slice) -> None:
        self._groups.committed(slice_)

    def rejected(self, slice_: Slice, error: RowsRejected) -> bool:
        """Go on without the documents whose rows the target rejects; what else is not committed comes again."""
        group = self._groups.of(slice_)
        if group is None or not group.documents:
            return False
        self._groups.committed(slice_)
        others = self._groups.take_back()
        self._groups.put_first([*self._without_rejected(group, error), *others])
        return True

    def _without_rejected(self, group: Group, error: RowsRejected) -> list[Group]:
        """The group without the documents that the rejects name; one by one where they do not tell."""
        named = self._named_in(error) if self.plan.table.max_rejects == 0 else set()
        bad = [one for one in group.documents if one.name in named or len(group.documents) == 1]
        for one in bad:
            self._leave_out(one, error)
        rest = [one for one in group.documents if one not in bad]
        return [Group(tuple(rest))] if bad and rest else [Group((one,)) for one in rest]

    def _named_in(self, error: RowsRejected) -> set[str]:
        column = self.plan.table.target_name(KEY)
        found = set()
        for reject in error.rejects:
            try:
                found.add(str(msgspec.json.decode(reject.content).get(column)))
            except (msgspec.DecodeError, AttributeError):
                continue
        return found

    # The end ----------------------------------------------------------------

    def _end(self) -> None:
        """Remember how far this scan has seen, unless something was left out; what is committed stays."""
        if not self._left_out:
            assert self._prepared is not None
            self.plan.finished.update(self._seen(self._prepared.listing).packed())
            return
        more = f"; and {self._left_out - len(self._bad):,} more" if self._left_out > len(self._bad) else ""
        documents = f"{self._left_out:,} document{'s' if self._left_out > 1 else ''}"
        raise SourceError(
            f"{documents} could not be read, and the target keeps what it had of them: {'; '.join(self._bad)}{more}",
            remedy='let the token read them, or leave them out: ignore = "group/book/slug". All others are in the target, and '
            "these are tried again by the next scan.",
        )

    def _seen(self, listing: Listing) -> Facts:
        since = {book: moment for book, moment in self._facts.since.items() if book in listing.books}
        return Facts(self._facts.words, since | listing.since, listing.listed_at or self._facts.listed_at)

    def _leave_out(self, one: Listed, error: RetlError) -> None:
        message = error.message if str(one.id) in error.message else f"{one.what}: {error.message}"
        self._left_out += 1
        if len(self._bad) < 3:
            self._bad.append(message)
        self._warn(f"{message} The target keeps what it had of this document.")

    def _warn(self, message: str) -> None:
        if message not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(message)
            self._warnings.append(message)

    def warnings(self) -> Sequence[str]:
        told, self._warnings = self._warnings, []
        return told

    async def close(self) -> None:
        await self._groups.aclose()
        if self._prepared is not None:
            self._prepared.changes.close()

    async def preview(self) -> SourcePreview:
        """The books, and what there is to do in them."""
        known = await self._known()
        told = [f"book {book.namespace}: {book.name}" for book in known.listing.books.values()]
        return SourcePreview((*told, (await known.changes.survey()).text))

    # Rows -------------------------------------------------------------------

    async def read(self, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        group = self._groups.of(slice_)
        if group is None or not group.documents:
            return
        group.read.clear()
        known = await self._known()
        rows: list[Row] = []
        size = 0
        async with aclosing(ahead(group.documents, known.reader.row, at_once=MOST_AT_ONCE)) as done:
            async for one, task in done:
                row = await self._settled(one, task.exception() or task.result())
                if row is None:
                    continue
                group.read[one.name] = one
                rows.append(row)
                size += sum(len(value) for value in row.values() if isinstance(value, str))
                if size >= _BATCH_BYTES:
                    yield await anyio.to_thread.run_sync(self._batch, rows)
                    rows, size = [], 0
        if rows:
            yield await anyio.to_thread.run_sync(self._batch, rows)

    async def _settled(self, one: Listed, outcome: Row | BaseException | None) -> Row | None:
        """The row of a document. One that cannot be read is left out; what is about the service is raised."""
        if not isinstance(outcome, BaseException):
            self._failed = 0
            return outcome
        if isinstance(outcome, NotThere):
            assert self._prepared is not None
            await self._prepared.changes.vanished(one.id)
            return None
        if isinstance(outcome, QuotaUsedUp) or not isinstance(outcome, SourceError):
            raise outcome
        self._failed += 1
        if self._failed >= _MOST_FAILED:
            raise outcome
        self._leave_out(one, outcome)
        return None

    def _batch(self, rows: list[Row]) -> pa.RecordBatch:
        arrays: list[Any] = [
            pa.array([row[name] for row in rows], column.type)
            for name, column in zip(self._names, self.plan.schema, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(self.plan.schema))
