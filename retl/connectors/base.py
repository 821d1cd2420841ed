"""The whole extension contract: what a source and a target must do, and what they may rely on.

A connector is plain data (``Connector``: the options a user writes), which opens a
``Source`` or a ``Target``. The engine calls nothing but what stands here. Prove an
implementation with the suites in ``retl.testing``.

What the engine guarantees to a connector:

* ``open_load`` is entered only after ``read`` has given its first batch or has proved that there is none;
* slices are read and committed in the order of the plan;
* every scan, load and iterator is left, whatever happens.

A ``Source`` and a ``Target`` are doors: they may be asked by any number of scans at once,
and hold nothing of any of them. What one scan holds (a snapshot, a shadow, a staging table,
connections) lives in the handle that ``open_scan`` or ``open_load`` gives, and goes when
that is left. Connections may be kept in the door between two scans, for a while.

What a connector guarantees to the engine is said at each method. Errors are those of
``retl.model.errors``; a driver's own exceptions never leave a connector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

import msgspec
import pyarrow as pa

from retl.connectors.rows.loading import loading
from retl.connectors.rows.own_columns import OwnColumns
from retl.connectors.rows.rejects import REJECT, RowReject, with_rejects
from retl.connectors.sql.door import RunsSql
from retl.model.actions import Action, PreAction, Write
from retl.model.answers import CommitResult, ScanAgain, SystemInfo, TargetTable
from retl.model.checkpoint import Checkpoint, Fence, FencedCheckpoint, Refresh, Reject
from retl.model.cursor import cursor_family
from retl.model.embeddings import EmbeddingCounts
from retl.model.errors import (
    ConfigError,
    ConnectionFailed,
    LeaseLost,
    PermanentError,
    RepeatedKey,
    RetlError,
    RowsRejected,
    SchemaDrift,
    SourceError,
    TargetBusy,
    TargetError,
    TransientError,
    UnsupportedError,
)
from retl.model.manifest import ManifestChange, ManifestEntry
from retl.model.plan import BatchSize, SourcePlan, SourcePreview, TargetPreview, WriteSpec
from retl.model.range import CursorRange
from retl.model.schema import TableSchema
from retl.model.table import TableSpec
from retl.model.window import Bounds, Position, Scope, Slice, Window, cut, lower_bound, make_window, range_window
from retl.state.base import Manifest, StateStore

__all__ = [
    "REJECT",
    "Action",
    "BatchSize",
    "Bounds",
    "Checkpoint",
    "CommitResult",
    "ConfigError",
    "ConnectionFailed",
    "Connector",
    "CursorRange",
    "Fence",
    "FencedCheckpoint",
    "LeaseLost",
    "Manifest",
    "ManifestChange",
    "ManifestEntry",
    "PermanentError",
    "Position",
    "PreAction",
    "Refresh",
    "Reject",
    "RepeatedKey",
    "RetlError",
    "RowReject",
    "RowsRejected",
    "ScanAgain",
    "SchemaDrift",
    "Scope",
    "Slice",
    "Source",
    "SourceError",
    "SourcePlan",
    "SourcePreview",
    "SourceScan",
    "StateStore",
    "SystemInfo",
    "TableSchema",
    "TableSpec",
    "TableWriter",
    "Target",
    "TargetBusy",
    "TargetError",
    "TargetPreview",
    "TargetTable",
    "TransientError",
    "UnsupportedError",
    "Window",
    "Write",
    "WriteSpec",
    "cursor_family",
    "cut",
    "loading",
    "lower_bound",
    "make_window",
    "range_window",
    "with_rejects",
]


class Source(RunsSql, ABC):
    """A system that is read."""

    system: ClassVar[str]
    """The name that job files and messages use: ``"duckdb"``."""
    files: ClassVar[bool] = False
    """Whether it reads files: other sources refuse the words of files, but for their ``file_words``."""
    file_words: ClassVar[frozenset[str]] = frozenset()
    schemas: ClassVar[bool] = True
    """Whether a dot in a name divides schema and table, unless it is quoted."""
    ranges: ClassVar[bool] = False
    """Whether it reads a range of the cursor where a table asks for one (``TableSpec.range``), so that it can be backfilled."""

    @abstractmethod
    async def ping(self) -> SystemInfo:
        """Reach the system. Raises ``ConnectionFailed`` or ``ConfigError``."""

    @abstractmethod
    async def list_tables(self) -> list[str]:
        """The names of all tables that could be read, sorted."""

    @abstractmethod
    async def describe(self, table: str) -> TableSchema | None:
        """Columns and real key of a table, or ``None`` where there is none of that name."""

    async def location(self, table: str) -> str | None:
        """One text for one physical table, the same for every pipeline: server or file, database, name. See ``Target.location``.
        ``None`` where the system cannot tell, or the table is not a physical one."""
        return None

    def narrowed(self, table: TableSpec) -> TableSpec:
        """The table as this source understands its words: what truncating means for files."""
        return table

    @abstractmethod
    def open_scan(
        self, table: TableSpec, checkpoint: Checkpoint, manifest: Manifest
    ) -> AbstractAsyncContextManager[SourceScan]:
        """Begin a scan: decide what it reads, as of now, and hold for it what reading takes. Reads only.

        With a cursor, the upper bound of its plan is the highest value that the source itself
        names, and no row at or below it may be left out of the slices (rows below
        ``watermark - lookback`` aside). Slices are in ascending cursor order, without gap or
        overlap, and of about ``table.slice_rows`` rows. Where ``table.range`` is set, they hold its rows
        alone, above the checkpoint's watermark if there is one: ``range_window`` makes such a window. A source without a cursor compares what
        it has with the ``manifest``.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close every connection. May be called at any time, and more than once."""


class SourceScan(ABC):
    """One scan of one table, and what the source holds for it. Used by one task at a time."""

    plan: SourcePlan

    async def slices(self) -> AsyncGenerator[Slice, None]:
        """The slices of the scan, in their order: those of the plan, unless the plan is ``by_manifest``.

        Such a source finds them while it compares, so that they need not all lie in memory; the plan then has none. It
        is asked again after ``rejected``, and gives what is not committed. What it raises at the end fails the scan, and
        leaves what is committed as it is; but ``ScanAgain`` begins it anew.
        """
        for slice_ in self.plan.slices:
            yield slice_

    def delivered(self, slice_: Slice) -> Slice | None:
        """The slice as it may be committed, once ``read`` has given all of it; ``None`` where nothing of it may be.

        A source that found a part of it to be bad while it was read leaves it out so, and the scan goes on.
        """
        return slice_

    def committed(self, slice_: Slice) -> None:  # noqa: B027  # not abstract: most need not know
        """Learn that a slice is in the target, with its part of the manifest."""

    def rejected(self, slice_: Slice, error: RowsRejected) -> bool:
        """Whether the scan can go on without a slice of which the target rejected too many rows."""
        return False

    def warnings(self) -> Sequence[str]:
        """What people should know since the last call. Asked at least once a second, also while a slice is read."""
        return ()

    async def preview(self) -> SourcePreview:
        """What this scan would do, for people. Reads only."""
        return SourcePreview()

    @abstractmethod
    def read(self, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        """The rows of one slice, in batches of bounded size.

        Each batch has the column names of ``plan.schema`` in that order; each column has
        the type given there, or is ``string`` and holds canonical text of it. The same
        slice may be read again after an error. When the generator is closed early, the
        query at the source is stopped.

        A row with a value that no column can hold is given by ``with_rejects``: it counts as a
        reject of its scan, and never reaches the target.
        """

    async def recount(self, slice_: Slice) -> int | None:
        """How many rows a slice has as of now; ``None`` where the source cannot tell.

        Asked where fewer came than the plan had counted: rows have gone since, or something cuts the source's answers.
        """
        return None


class TableWriter(ABC):
    """Takes the batches of one scan of one table.

    Rows that were written since the last commit are *staged*: nobody sees them.
    """

    finished: bool = False
    """Whether ``finish`` is done: then leaving the load undoes nothing."""
    overlaps: bool = False
    """Whether batches may be written while a commit is under way: a commit takes what is staged when it is called."""
    embeddings: EmbeddingCounts | None = None
    """What the vectors of this load took so far, where it makes some."""

    async def begin(self, slice_: Slice) -> None:  # noqa: B027  # not abstract: most need not know
        """Learn which slice the next batches belong to: called before the first of them, and again where it is read again.

        What is committed then may be less of it: ``commit`` is given the slice as it was delivered. A divisible slice
        begins once, and is committed several times.
        """

    @abstractmethod
    async def write(self, batch: pa.RecordBatch) -> None:
        """Stage a batch. Must not keep more than a bounded number of bytes in memory."""

    @abstractmethod
    async def discard(self) -> None:
        """Forget what is staged; the engine will read the slice again."""

    @abstractmethod
    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        """Make the staged rows part of the target.

        Where ``fenced`` is given (the target holds the checkpoints), the rows, the
        checkpoint and the proof that the fence still holds are *one* transaction; an
        old fence raises ``LeaseLost`` and changes nothing. Where it is ``None`` the engine
        has proved the fence just before and saves the checkpoint just after, so a crash in
        between repeats the slice: writes must then be idempotent. ``slice_.scope``, where set, is
        replaced in the same transaction: its rows are deleted before others are added, but for
        those of an upsert whose key is staged again, which are updated only where they differ.

        A row that the target refuses is left out and returned as a ``Reject``, never
        changed; with more of them than ``rejects_left`` nothing is committed and
        ``RowsRejected`` is raised with them in its attribute ``rejects``.
        """

    async def lookup(self, column: str, values: Sequence[str], wanted: Sequence[str]) -> pa.Table | None:
        """As ``Target.lookup`` of the table that is written, whose shape the load knows; ``None`` where the target has to be asked."""
        return None

    @abstractmethod
    async def count(self) -> int:
        """The rows committed by this writer into a table that it will switch in, or the target's rows."""

    async def deletes(self) -> int:
        """How many rows of the target ``finish`` will delete, of a mirror."""
        return 0

    @abstractmethod
    async def finish(self, fenced: FencedCheckpoint | None) -> None:
        """After the last commit: switch the shadow in, prune archives, save the checkpoint, in one step where possible.

        ``fenced`` is ``None`` where the last commit has saved the final checkpoint, and where the target holds none.
        """

    async def abort(self) -> None:  # noqa: B027  # not abstract: some have nothing to undo
        """Undo what is staged and not finished; what is committed stays. Safe after any failure. See ``loading``."""


class Target(OwnColumns, RunsSql, ABC):
    """A system that is written."""

    system: ClassVar[str]
    batch_size: BatchSize = BatchSize()
    schemas: ClassVar[bool] = True
    """Whether a dot in a name divides schema and table, unless it is quoted."""
    one_writer: ClassVar[bool] = False
    """Whether it takes one table at a time, as a file does."""
    mirrors: ClassVar[bool] = False
    """Whether it can do ``pre_action = "mirror"``."""
    documents: ClassVar[bool] = False
    """Whether a document may come whole, as its JSON, rather than as columns (``TableSpec.documents``)."""

    @abstractmethod
    async def ping(self) -> SystemInfo:
        """Reach the system. Raises ``ConnectionFailed`` or ``ConfigError``."""

    @abstractmethod
    async def describe(self, table: str) -> TableSchema | None:
        """Columns and key of a table of the target, or ``None``."""

    @abstractmethod
    async def count(self, table: str) -> int:
        """How many rows the table has; 0 where it does not exist."""

    async def location(self, table: str) -> str | None:
        """One text for one physical table, whether it exists yet or not, equal to what ``Source.location`` of it says.

        A scan whose source and target are one table is refused; ``None`` where the system cannot tell.
        """
        return None

    @abstractmethod
    async def preview(self, spec: WriteSpec) -> TargetPreview:
        """What ``prepare`` and ``finish`` would do. Writes nothing.

        Raises ``ConfigError`` or ``SchemaDrift`` for what can be known beforehand: no
        usable key, a type that does not fit, an option that this system cannot honour.
        """

    @abstractmethod
    def open_load(self, spec: WriteSpec, begun: FencedCheckpoint | None) -> AbstractAsyncContextManager[TableWriter]:
        """Begin to write one scan: create or evolve the table, do the pre-action, remove what a crash left behind.

        ``begun`` holds the checkpoint that says a refresh has begun; it is saved together with
        the pre-action where the target can do both at once. Leaving without ``finish`` aborts:
        nothing staged stays, nothing committed is undone.
        """

    def state_store(self) -> StateStore | None:
        """A store for checkpoints inside this target, or ``None`` where it has no transactions."""
        return None

    @abstractmethod
    async def aclose(self) -> None:
        """Close every connection. May be called at any time, and more than once."""


class Connector(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The options of one system, as a user writes them: plain data, no connection.

    The same words serve as keyword arguments and in a job file; ``msgspec.Meta(description=...)`` documents each.
    """

    type_name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    example: ClassVar[str] = ""

    def source(self) -> Source:
        """Open this system for reading."""
        raise UnsupportedError(f"{self.type_name} cannot be a source.", remedy="choose another source.")

    def target(self) -> Target:
        """Open this system for writing."""
        raise UnsupportedError(f"{self.type_name} cannot be a target.", remedy="choose another target.")
