"""The changes of a table of files as groups: what is read and committed as one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from retl.connectors.files.formats import merged
from retl.connectors.files.manifest import Counts, Difference, compare
from retl.connectors.files.names_kept import KeptNames
from retl.connectors.files.reading import SMALL_BYTES
from retl.connectors.files.selection import Selection
from retl.connectors.files.shape import pack
from retl.connectors.files.store import FileInfo, FileStore
from retl.model.errors import GuardStopped
from retl.model.manifest import ManifestEntry
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
    rows: dict[str, int] = field(default_factory=dict)
    """How many rows came of each file that was read to its end."""
    rejects: int = 0
    counted: bool = False
    """Whether ``rejects`` count among those of the scan."""

    @property
    def is_large(self) -> bool:
        return len(self.files) == 1


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

    # What is remembered -----------------------------------------------------

    def widens(self, columns: pa.Schema) -> bool:
        """Whether the table's columns must become wider to take these."""
        return not merged([self._columns, columns]).equals(self._columns)

    def learned(self, columns: Sequence[pa.Schema]) -> dict[str, Any]:
        """The facts of the checkpoint with the columns of further files."""
        return {FACTS: {**self._facts[FACTS], "schema": pack(merged([self._columns, *columns]))}}

    # Groups -----------------------------------------------------------------

    def _compare(self, counts: Counts, *, everything: bool = False) -> AsyncGenerator[list[Difference], None]:
        listing = self._store.list(self._selection.prefix)
        entries: AsyncIterator[ManifestEntry] = _no_entries() if self._fresh else aiter(self._manifest)
        return compare(listing, entries, self._selection, counts, everything=everything)

    async def groups(self) -> AsyncGenerator[Group, None]:
        """What is to be read, then what is gone. Nothing where nothing has changed."""
        if self._fresh:
            async with aclosing(self._old_entries()) as old:
                async for group in old:
                    yield group
        replaces = self._table.replaces
        if replaces and not (self._fresh or self._unfinished or await self._any_change()):
            return
        files: list[FileInfo] = []
        size = 0
        async with aclosing(self._compare(self.counts, everything=replaces)) as pages:
            async for page in pages:
                for found in page:
                    if found.file is None:
                        await self._gone.add(found.name)
                        continue
                    if found.file.size > SMALL_BYTES:
                        yield Group((found.file,))
                        continue
                    files.append(found.file)
                    size += found.file.size
                    if size >= GROUP_BYTES or len(files) >= GROUP_FILES:
                        yield Group(tuple(files))
                        files, size = [], 0
        if files:
            yield Group(tuple(files))
        async with aclosing(self._removals()) as removals:
            async for group in removals:
                yield group

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
            self._check_vanished()
        async with aclosing(self._gone.groups(GROUP_FILES)) as groups:
            async for names in groups:
                yield Group((), names, entries_only)

    def _check_vanished(self) -> None:
        """Stop before more rows are deleted than the table allows, as a listing that is empty by mistake would have it."""
        counts, allowed = self.counts, self._table.max_shrink
        what, gone, known = "rows", counts.vanished_rows, counts.known_rows
        if not known:
            what, gone, known = "files", counts.vanished, counts.known
        if gone < known if allowed is None else gone <= round(known * allowed):
            return
        limit = "not all of them at once" if allowed is None else f'max_shrink = "{allowed:.4g}" allows'
        raise GuardStopped(
            f"{counts.vanished:,} files are gone, with {gone:,} of the {known:,} {what} in the table {self._table.to!r}: "
            f"{limit}, so their rows were left there.",
            remedy='look at the place of the files; if they are gone for good, allow it with max_shrink = "100%".',
        )

    def close(self) -> None:
        self._gone.close()


async def _no_entries() -> AsyncGenerator[ManifestEntry, None]:
    return
    yield  # a generator
