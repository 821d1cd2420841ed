"""One scan of a table of files: groups of files as slices, each with its part of the manifest."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import anyio
import msgspec
import pyarrow as pa

from retl.connectors.base import REJECT, ScanAgain, SourceScan
from retl.connectors.files.ahead import Ahead
from retl.connectors.files.changes import Changes, Group, compares_contents
from retl.connectors.files.reading import Content, FileReader, NewColumns
from retl.connectors.files.shape import Shape, notices_columns
from retl.connectors.files.small import DIGEST, Outcome, SmallReader, is_same
from retl.connectors.files.store import FileArchived, FileChanged, FileInfo, FileStore
from retl.connectors.manifest.groups import GroupQueue
from retl.model.errors import ConnectionFailed, RetlError, RowsRejected, SourceError
from retl.model.manifest import ManifestChange, ManifestEntry
from retl.model.plan import SourcePlan, SourcePreview
from retl.model.window import Scope, Slice
from retl.threads import shielded

_MOST_TOLD = 20
_PREVIEWED_FILES = 3
_PREVIEWED_ROWS = 3


class _TooManyRejects(SourceError):
    """A file with more rejects than its table may have."""


class FileScan(SourceScan):
    """Finds what has changed while it goes, and reads it group by group."""

    def __init__(
        self,
        plan: SourcePlan,
        shape: Shape,
        store: FileStore,
        reader: FileReader,
        small_reader: SmallReader,
        changes: Changes,
        facts: dict[str, Any],
    ) -> None:
        self.plan = plan
        self._shape = shape
        self._store = store
        self._reader = reader
        self._small_reader = small_reader
        self._changes = changes
        self._facts = facts
        self._groups = GroupQueue(changes.groups())
        self._ahead = Ahead(reader)
        self._looked = False
        self._rejects = 0
        self._bad: dict[str, str] = {}
        self._warnings: list[str] = []
        self._left_out = 0
        self._wider: list[pa.Schema] = []

    # Slices -----------------------------------------------------------------

    async def slices(self) -> AsyncGenerator[Slice, None]:
        async with aclosing(self._groups.groups()) as groups:
            async for index, group in groups:
                yield self._slice(index, group)
        if self._wider:
            raise ScanAgain(self._changes.learned(self._wider))
        self._end()

    async def _look_ahead(self, content: Content) -> None:
        """Fetch the next file, once one has come as a whole whose rows are still on their way."""
        if self._looked or not content.has_come or self.plan.table.files.quiet is not None:
            return
        self._looked = True
        group = await self._groups.peek()
        if group is not None and group.is_large:
            await self._ahead.fetch(group.files[0])

    def _slice(self, index: int, group: Group) -> Slice:
        names = (
            *(file.name for file in group.files if file.name not in group.same),
            *(() if group.entries_only else group.gone),
        )
        column = self._changes.scope_column if group.gone and not group.entries_only else self.plan.table.scope
        entries = tuple(self._entry(group, file) for file in group.files if file.name in group.rows)
        return Slice(
            index=index,
            scope=Scope(column, names) if column is not None and names else None,
            manifest=ManifestChange(put=entries, remove=group.gone),
            detail=self._facts if group.remembers else {},
            last=group.last and not (self._wider or self._left_out or self._groups.are_waiting),
        )

    def _entry(self, group: Group, file: FileInfo) -> ManifestEntry:
        facts = {DIGEST: group.digests[file.name]} if file.name in group.digests else {}
        return ManifestEntry(name=file.name, identity=file.identity, rows=group.rows[file.name], facts=facts)

    def delivered(self, slice_: Slice) -> Slice | None:
        group = self._groups.of(slice_)
        if group is None:
            return slice_
        group.files = tuple(file for file in group.files if file.name in group.rows)
        if not group.files and not group.gone:
            self.committed(slice_)
            return None
        self._rejects += group.rejects
        group.counted = True
        return self._slice(slice_.index, group)

    def committed(self, slice_: Slice) -> None:
        self._groups.committed(slice_)

    def rejected(self, slice_: Slice, error: RowsRejected) -> bool:
        """Go on without the files whose rows the target rejects; what else was given and not committed comes again."""
        group = self._groups.of(slice_)
        if group is None:
            return False
        self._groups.committed(slice_)
        others = self._groups.take_back()
        if group.is_large:
            self._leave_out(group.files[0], error)
            again: Sequence[Group] = ()
        else:
            again = self._without_rejected(group, error)
        for one in (group, *others):
            self._rejects -= one.rejects if one.counted else 0
            one.counted = False
        self._groups.put_first([*again, *others])
        return True

    def _without_rejected(self, group: Group, error: RowsRejected) -> list[Group]:
        """The group without the files that the rejects name; one by one where they do not tell."""
        named = self._named_in(error)
        bad = [file for file in group.files if file.name in named] if self.plan.table.max_rejects == 0 else []
        if not bad:
            return [Group((file,)) for file in group.files]
        for file in bad:
            self._leave_out(file, error)
        rest = tuple(file for file in group.files if file not in bad)
        return [Group(rest, group.gone, group.entries_only)] if rest or group.gone else []

    def _named_in(self, error: RowsRejected) -> set[str]:
        column = self._changes.scope_column
        found = set()
        for reject in error.rejects:
            try:
                found.add(msgspec.json.decode(reject.content).get(column))
            except (msgspec.DecodeError, AttributeError):
                continue
        return found

    # The end ----------------------------------------------------------------

    def _end(self) -> None:
        """Say what was left out; what is committed stays."""
        for warning in self._changes.counts.warnings:
            self._warn(warning)
        if not self._left_out:
            return
        shown = "; ".join(list(self._bad.values())[:3])
        more = f" and {self._left_out - 3:,} more" if self._left_out > 3 else ""
        files = f"{self._left_out:,} file{'s' if self._left_out > 1 else ''}"
        raise SourceError(
            f"{files} could not be read, and the target keeps what it had of them: {shown}{more}",
            remedy="correct the files or the words of the table; all others are in the target, and each of these is tried "
            "again by the next scan.",
        )

    def _leave_out(self, file: FileInfo, error: RetlError) -> None:
        if isinstance(error, FileChanged | FileArchived):
            self._warn(error.message)
            return
        message = error.message if file.name in error.message else f"{file.name}: {error.message}"
        self._left_out += 1
        if len(self._bad) < _MOST_TOLD:
            self._bad[file.name] = message
            self._warn(f"{message} The target keeps what it had of this file.")

    def _warn(self, message: str) -> None:
        if len(self._warnings) < _MOST_TOLD:
            self._warnings.append(message)

    def warnings(self) -> Sequence[str]:
        told, self._warnings = self._warnings, []
        return told

    async def close(self) -> None:
        await self._ahead.close()
        await self._groups.aclose()
        self._changes.close()

    async def preview(self) -> SourcePreview:
        """What there is to do, and a few rows of the first file that can be read."""
        counts, files = await self._changes.survey(_PREVIEWED_FILES)
        told = [counts.text]
        for file in files:
            try:
                async with aclosing(self._reader.rows(file, self._shape, check=False)) as batches:
                    batch = await anext(batches, None)
            except RetlError as error:
                told.append(error.message)
                continue
            if batch is not None:
                return SourcePreview(tuple(told), batch.slice(0, _PREVIEWED_ROWS))
        return SourcePreview(tuple(told))

    # Rows -------------------------------------------------------------------

    async def read(self, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        group = self._groups.of(slice_)
        if group is None or not group.files:
            return
        group.rows.clear()
        group.digests.clear()
        group.same.clear()
        group.rejects = 0
        if (quiet := self.plan.table.files.quiet) is not None:
            # Each file is then read under the identity that it was listed with: who has written to it, it shows.
            await anyio.sleep(max(0.0, group.found_at + quiet.total_seconds() - time.monotonic()))
        reading = self._large(group) if group.is_large else self._small(group)
        async with aclosing(reading) as batches:
            async for batch in batches:
                yield batch

    async def _large(self, group: Group) -> AsyncGenerator[pa.RecordBatch, None]:
        """One file, passed on while it comes."""
        (file,) = group.files
        rows = rejects = 0
        content = self._ahead.take(file)
        self._looked = False
        try:
            if await self._keeps_rows(group, file, content):
                return
            reading = self._reader.rows(file, self._shape, check=notices_columns(self.plan.table), content=content)
            async with aclosing(reading) as batches:
                async for batch in batches:
                    rows += batch.num_rows
                    rejects += _rejects_in(batch)
                    self._check_rejects(file, rows, rejects, batch, ended=False)
                    yield batch
                    await self._look_ahead(content)
            self._check_rejects(file, rows, rejects, None, ended=True)
        except RetlError as error:
            await self._settle(file, error)
            return
        finally:
            await shielded(content.close())
        group.rows[file.name] = rows
        group.rejects = rejects

    async def _keeps_rows(self, group: Group, file: FileInfo, content: Content) -> bool:
        """Whether a file has the content whose rows the target holds."""
        if not compares_contents(self.plan.table):
            return False
        await content.begin()
        digest = group.digests[file.name] = await content.hash()
        known = group.known.get(file.name)
        if known is None or not is_same(known, digest):
            return False
        await content.prove()
        group.rows[file.name] = known.rows
        group.same.add(file.name)
        return True

    async def _small(self, group: Group) -> AsyncGenerator[pa.RecordBatch, None]:
        """Many files, a few at once, each passed on when it is known to be good."""
        async with aclosing(self._small_reader.read(group.files, group.known)) as outcomes:
            async for outcome in outcomes:
                for batch in await self._taken(group, outcome):
                    yield batch

    async def _taken(self, group: Group, outcome: Outcome) -> Sequence[pa.RecordBatch]:
        if outcome.is_large:
            self._groups.put(Group(outcome.files, known=group.known))
            return []
        batches = outcome.batches
        rejects = sum(map(_rejects_in, batches))
        try:
            if outcome.error is not None:
                raise outcome.error
            self._check_rejects(
                outcome.files[-1],
                sum(outcome.rows),
                group.rejects + rejects,
                batches[-1] if batches else None,
                ended=True,
            )
        except RetlError as error:
            await self._settle(outcome.files[-1], error)
            return []
        names = [file.name for file in outcome.files]
        group.rows.update(zip(names, outcome.rows, strict=True))
        group.digests.update(zip(names, outcome.digests, strict=False))
        group.same.update(names if outcome.is_same else ())
        group.rejects += rejects
        return batches

    async def _settle(self, file: FileInfo, error: RetlError) -> None:
        """Go on without a file; what is about the store and not about the file is raised."""
        if isinstance(error, ConnectionFailed):
            raise error
        wider = await self._columns_that_fit(file, error)
        if wider is None:
            self._leave_out(file, error)
        else:
            self._wider.append(wider)

    async def _columns_that_fit(self, file: FileInfo, error: RetlError) -> pa.Schema | None:
        """The columns that a file needs, where the table may get them."""
        table = self.plan.table
        if isinstance(error, NewColumns):
            return error.columns if table.new_columns == "add" else None
        if not isinstance(error, _TooManyRejects) or table.files.new_types != "widen":
            return None
        try:
            columns = await self._reader.columns(file)
        except ConnectionFailed:
            raise
        except RetlError:
            return None
        return columns if self._changes.widens(columns) else None

    def _check_rejects(
        self, file: FileInfo, rows: int, rejects: int, batch: pa.RecordBatch | None, *, ended: bool
    ) -> None:
        """Raise for a file with more rejects than its table may have."""
        table = self.plan.table
        if table.max_reject_share is None:
            allowed = max(0, table.max_rejects - self._rejects)
        elif ended:
            allowed = int(rows * table.max_reject_share)
        else:
            return
        if rejects > allowed:
            first = _first_reason(batch)
            raise _TooManyRejects(
                f"{file.name}: {rejects:,} of its first {rows:,} rows cannot be read{first}; max_rejects allows {allowed:,}."
            )


def _rejects_in(batch: pa.RecordBatch) -> int:
    if batch.schema.names[-1:] != [REJECT]:
        return 0
    return int(batch.num_rows - batch.column(REJECT).null_count)


def _first_reason(batch: pa.RecordBatch | None) -> str:
    if batch is None or not _rejects_in(batch):
        return ""
    return f" (the first: {batch.column(REJECT).drop_null()[0]['reason'].as_py()})"
