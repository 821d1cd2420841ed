"""The options that a table and its pipeline share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from retl.model.actions import PreAction, Write
from retl.model.duration import Duration

if TYPE_CHECKING:
    PreActionWord: TypeAlias = PreAction | Literal["none", "truncate", "rename_and_create", "swap", "mirror"]
    WriteWord: TypeAlias = Write | Literal["upsert", "append"]
else:  # msgspec reads these, and a text is of one type for it
    PreActionWord, WriteWord = PreAction, Write

NullCursor = Literal["warn", "include", "fail"]
LostTarget = Literal["fail", "reload"]
NewColumns = Literal["add", "ignore", "fail"]

DEFAULT_SLICE_ROWS = 50_000


class TableOptions(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The options of one table, or of all tables of a pipeline at once.

    A table takes what it leaves unset (``None``) from its pipeline.
    """

    cursor: str | Literal[False] | None = None
    """Source column that orders change; ``False`` scans in full each time although the pipeline names a cursor."""
    lookback: Duration | None = None
    """How far below the watermark a scan reads again, for rows that were committed late. A number for integer cursors."""
    settle: Duration | None = None
    """How old, by the source's clock, a row must be before it is read."""
    null_cursor: NullCursor | None = None
    """Rows without a cursor value: ``warn`` counts and reports them, ``include`` reads them with every scan, ``fail`` stops."""
    pre_action: PreActionWord | None = None
    """What happens to the target for a full scan: ``none``, ``truncate``, ``rename_and_create``, ``swap``, ``mirror``."""
    keep_archives: int | None = None
    """How many ``A_arc_<timestamp>`` tables ``rename_and_create`` keeps; all of them when unset."""
    max_shrink: str | float | None = None
    """How much smaller a full scan may leave the target: ``"50%"`` or ``0.5``. Unset: anything but empty."""
    max_rejects: int | str | None = None
    """How many rejects one scan may have before it fails: a number, or a share of its rows such as ``"1%"``; 0 when unset."""
    lost_target: LostTarget | None = None
    """The target's table is gone or empty, though rows were written to it: ``fail`` (when unset), or ``reload`` everything."""
    write: WriteWord | None = None
    """``upsert`` by key, or ``append``, which needs no key and never changes a row."""
    new_columns: NewColumns | None = None
    """A source column that the target lacks: ``add`` it, ``ignore`` it or ``fail``."""
    slice_rows: int | None = None
    """How many rows are read, committed and retried as one unit; 50,000 when unset."""
