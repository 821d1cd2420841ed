"""What a scan is about to do: the source's part and the target's part."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from retl.model.actions import Action
from retl.model.answers import TargetTable
from retl.model.checkpoint import Checkpoint, Fence, Refresh
from retl.model.table import TableSpec
from retl.model.window import Slice, Window


@dataclass(frozen=True)
class SourcePlan:
    """One scan of one table as the source will answer it.

    ``schema`` is that of the batches to come, under the target's column names: selected,
    renamed and computed. Its fields carry the *logical* types; a batch may hold
    any column as canonical text instead. ``key`` is in the target's names too.
    """

    table: TableSpec
    """The table as it will be scanned: as declared, unless the source has a narrower meaning for a word of it."""
    schema: pa.Schema
    key: tuple[str, ...]
    slices: tuple[Slice, ...]
    window: Window | None = None
    highest: str | None = None
    """The highest cursor value that the source has, also where the window ends below it (``settle``) or there is none;
    ``None`` where the source has not told."""
    rows: int | None = None
    """How many rows the slices hold; ``None`` where the source cannot tell."""
    exact_rows: bool = False
    """Whether ``rows``, and the ``rows`` of each slice that has them, were counted in the very snapshot that is read,
    so that exactly as many must come."""
    null_cursor_rows: int = 0
    cursor_type: str | None = None
    unique_key: bool = False
    """Whether the source guarantees that ``key`` identifies one row."""
    statements: tuple[str, ...] = ()
    """What will be asked of the source, for people."""
    warnings: tuple[str, ...] = ()
    by_manifest: bool = False
    """Whether ``SourceScan.slices`` finds the slices by comparing with the manifest. Where it finds none after an
    earlier scan, nothing is new, also for a table that is replaced."""
    finished: dict[str, Any] = field(default_factory=dict)
    """What the checkpoint's ``detail`` holds besides, once the scan is finished."""
    detail: dict[str, object] = field(default_factory=dict)
    """The source's own facts of this scan, handed back to ``read``."""


@dataclass(frozen=True)
class WriteSpec:
    """One scan of one table as the target is asked to take it."""

    pipeline: str
    table: TableSpec
    schema: pa.Schema
    key: tuple[str, ...]
    scan_id: str
    blacklist: frozenset[Action] = frozenset()
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    fence: Fence | None = None
    """Who owns the pipeline; ``None`` for a preview."""
    state_in_target: bool = False
    """Whether the checkpoint lives in the target: every commit must then prove the fence."""
    refresh: Refresh | None = None
    """The replacing scan that this one begins or, after a crash, carries on."""
    unique_key: bool = False
    """Whether the source guarantees that ``key`` identifies one row."""
    prove: Callable[[], Awaitable[None]] | None = None
    """Raises ``LeaseLost`` if another process has taken the pipeline over. A target that has waited calls it before
    it sends something that cannot be undone; ``None`` for a preview."""
    found: TargetTable | None = None
    """The target's table as this scan has found it, and has not changed it since; ``None`` where it may be another by now."""

    @property
    def cursor(self) -> str | None:
        """The cursor's name in the target, where it is among the columns."""
        if self.table.cursor is None:
            return None
        name = self.table.target_name(self.table.cursor)
        return name if name in self.schema.names else None

    @property
    def unread_cursor(self) -> str | None:
        """The cursor, if it is not among the columns that the target gets."""
        return self.table.cursor if self.cursor is None else None

    @property
    def epoch(self) -> int:
        return self.fence.epoch if self.fence else 0


@dataclass(frozen=True, slots=True)
class SourcePreview:
    """What people may want to know of a scan before it runs, beyond its plan."""

    lines: tuple[str, ...] = ()
    rows: pa.RecordBatch | None = None
    """A few of the rows that would come, where they cost little."""


@dataclass(frozen=True)
class TargetPreview:
    """How the target would prepare itself, and which values it would cast."""

    statements: tuple[str, ...] = ()
    casts: tuple[str, ...] = ()
    """One line for each column whose type changes on the way: ``amount: decimal128(18, 4) -> TEXT``."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchSize:
    """How large a target likes its batches; the engine cuts and joins to fit."""

    rows: int = 65_536
    bytes: int = 8 * 1024 * 1024
