"""The changes of a table of files as groups: what is read and committed as one."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from retl.connectors.files.formats import merged
from retl.connectors.files.manifest import Counts, Difference, compare
from retl.connectors.files.reading import SMALL_BYTES
from retl.connectors.files.selection import Selection
from retl.connectors.files.store import FileInfo, FileStore
from retl.connectors.manifest.names import KeptNames
from retl.connectors.manifest.pairs import check_vanished, no_entries
from retl.model.manifest import ManifestEntry
from retl.model.schema import pack
from retl.model.table import TableSpec
from retl.state.base import Manifest

FACTS = "files"
"""Where the checkpoint's detail remembers the columns."""
# Small files make one slice up to these; a larger one is a slice of its own.
GROUP_BYTES = 32 * 1024 * 1024
GROUP_FILES = 1_000


@dataclass(eq=False)
class Group:
    """The files of one slice, and what has come of them."""

    files: tuple[FileInfo, ...]
    gone: tuple[str, ...] = ()
    """Names whose rows and entries are removed."""
    entries_only: bool = False
    """Whether only the entries of ``gone`` are removed, since the target has no rows of them."""
    remembers: bool = True
    """Whether the checkpoint remembers the columns with it: not before all old entries are gone."""
    last: bool = False
    """Whether everything was compared, and nothing is left but this."""
    found_at: float = field(default_factory=time.monotonic)
    rows: dict[str, int] = field(default_factory=dict)
    """How many rows came of each file that was read to its end."""
    rejects: int = 0
    counted: bool = False
    """Whether ``rejects`` count among those of the scan."""
    known: Mapping[str, ManifestEntry] = field(default_factory=dict)
    """What the manifest says of files that keep their rows where their content is the same."""
    digests: dict[str, str] = field(default_factory=dict)
    """The hashes of contents that the manifest remembers."""
    same: set[str] = field(default_factory=set)
    """The files that keep their rows."""

    @property
    def is_large(self) -> bool:
        return len(self.files) == 1


def compares_contents(table: TableSpec) -> bool:
    """Whether a file keeps its rows where its content is the same: not where all of them are written anew."""
    return table.files.identity == "content" and not table.replaces


class _Small:
    """Small files until they make a group, of no more than ``most``."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.files: list[FileInfo] = []
        self._known: dict[str, ManifestEntry] = {}
        self._size = 0

    def add(self, file: FileInfo, known: ManifestEntry | None) -> Group | None:
        """The group that is complete with this file: of many small ones, or of a large one alone."""
        entries = {} if known is None else {file.name: known}
        if file.size > SMALL_BYTES:
            return Group((file,), known=entries)
        self.files.append(file)
        self._known |= entries
        self._size += file.size
        return self.take() if self._size >= GROUP_BYTES or len(self.files) >= self._most else None

    def take(self) -> Group:
        group = Group(tuple(self.files), known=self._known)
        self.files, self._known, self._size = [], {}, 0
        return group


def _age(file: FileInfo) -> tuple[float, str]:
    return (file.modified.timestamp() if file.modified is not None else 0.0, file.name)


class Changes:
    """Compares what is listed with the manifest, and gives what has to be done, in groups."""

    def __init__(
        self,
        table: TableSpec,
        store: FileStore,
        manifest: Manifest,
        selection: Selection,
        columns: pa.Schema,
        facts: dict[str, Any],
        *,
        fresh: bool,
        unfinished: bool,
    ) -> None:
        """``fresh``: the target has nothing of what the manifest says. ``unfinished``: a replacing scan did not end."""
        self._table = table
        self._store = store
        self._manifest = manifest
        self._selection = selection
        self._columns = columns
        self._facts = facts
        self._fresh = fresh
        self._unfinished = unfinished
        self.counts = Counts()
        self._gone = KeptNames()

    @property
    def scope_column(self) -> str | None:
        """The target's column that holds the name of the file."""
        name = self._table.files.provenance.get("file")
        return None if name is None else self._table.target_name(name)

    @property
    def _most_files(self) -> int:
        """How many files one slice has. What is paid for each row, a crash must not take back for many."""
        paid = self._table.embeddings is not None
        return min(GROUP_FILES, self._table.slice_rows) if paid else GROUP_FILES

    # What is remembered -----------------------------------------------------

    def widens(self, columns: pa.Schema) -> bool:
        """Whether the table's columns must become wider to take these."""
        return not merged([self._columns, columns]).equals(self._columns)

    def learned(self, columns: Sequence[pa.Schema]) -> dict[str, Any]:
        """The facts of the checkpoint with the columns of further files."""
        return {FACTS: {**self._facts[FACTS], "schema": pack(merged([self._columns, *columns]))}}

    # Groups -----------------------------------------------------------------

    def _compare(
        self, counts: Counts, *, everything: bool = False, strict: bool = True
    ) -> AsyncGenerator[list[Difference], None]:
        listing = self._store.list(self._selection.prefix, counts.leave_out)
        entries: AsyncIterator[ManifestEntry] = no_entries() if self._fresh else aiter(self._manifest)
        return compare(listing, entries, self._selection, counts, everything=everything, strict=strict)

    async def groups(self) -> AsyncGenerator[Group, None]:
        """What is to be read, then what is gone. Nothing where nothing has changed."""
        if self._fresh:
            async with aclosing(self._old_entries()) as old:
                async for group in old:
                    yield group
        if self._table.files.key_conflict == "newest":
            async with aclosing(self._by_age()) as groups:
                async for group in groups:
                    yield group
            return
        replaces = self._table.replaces
        if replaces and not (self._fresh or self._unfinished or await self._any_change()):
            return
        if replaces and self._unfinished and self._columns.names:
            yield Group(())  # where there is no file, that is what the table has to be replaced by
        small = _Small(self._most_files)
        async with aclosing(self._compare(self.counts, everything=replaces)) as pages:
            async for page in pages:
                for one in page:
                    if one.file is None:
                        await self._gone.add(one.name)
                    elif (ready := small.add(one.file, self._kept(one.entry))) is not None:
                        yield ready
        if small.files:
            group = small.take()
            group.last = not self._gone.count
            yield group
        async with aclosing(self._removals()) as removals:
            async for group in removals:
                yield group

    def _kept(self, entry: ManifestEntry | None) -> ManifestEntry | None:
        """The entry of a file that keeps its rows where its content is the same."""
        return entry if compares_contents(self._table) else None

    async def _by_age(self) -> AsyncGenerator[Group, None]:
        """The files from the oldest to the newest, so that a key in two of them ends with the rows of the newer one.

        Only the new ones where they are newer than all others. Else every file again: one that has changed or gone may
        have hidden rows of any older one.
        """
        files: list[tuple[FileInfo, bool]] = []
        async with aclosing(self._compare(self.counts, everything=True, strict=False)) as pages:
            async for page in pages:
                for one in page:
                    if one.file is None:
                        await self._gone.add(one.name)
                    else:
                        files.append((one.file, one.entry is None))
        async with aclosing(self._removals()) as removals:
            async for group in removals:
                yield group
        gone = self._gone.count and self._table.files.vanished == "delete"
        if not (self.counts.new or self.counts.changed or gone):
            return
        files.sort(key=lambda one: _age(one[0]))
        first_new = next((number for number, (_, new) in enumerate(files) if new), len(files))
        if not self.counts.changed and not gone and all(new for _, new in files[first_new:]):
            files = files[first_new:]
        for file, _ in files:
            yield Group((file,))  # in one of two files a key could not be told to be the newer

    async def _old_entries(self) -> AsyncGenerator[Group, None]:
        """The entries of a table that is gone: they would hide files that have to be read again."""
        names: list[str] = []
        async for entry in self._manifest:
            names.append(entry.name)
            if len(names) >= GROUP_FILES:
                yield Group((), tuple(names), entries_only=True, remembers=False)
                names = []
        if names:
            yield Group((), tuple(names), entries_only=True, remembers=False)

    async def survey(self, most: int) -> tuple[Counts, list[FileInfo]]:
        """What has changed, and the first files that can be read. Reads only the listing and the manifest."""
        counts = Counts()
        files: list[FileInfo] = []
        async with aclosing(self._compare(counts, everything=True, strict=False)) as pages:
            async for page in pages:
                files += [one.file for one in page if one.file is not None][: most - len(files)]
        return counts, files

    async def _any_change(self) -> bool:
        counts = Counts()
        async with aclosing(self._compare(counts)) as pages:
            async for page in pages:
                if page:
                    return True
        return False

    async def _removals(self) -> AsyncGenerator[Group, None]:
        entries_only = self._table.replaces
        if not self._gone.count or (self._table.files.vanished == "keep" and not entries_only):
            return
        if not entries_only:
            counts = self.counts
            check_vanished(
                self._table,
                "files",
                vanished=counts.vanished,
                vanished_rows=counts.vanished_rows,
                known=counts.known,
                known_rows=counts.known_rows,
            )
        async with aclosing(self._gone.groups(GROUP_FILES)) as groups:
            async for names in groups:
                yield Group((), names, entries_only)

    def close(self) -> None:
        self._gone.close()
