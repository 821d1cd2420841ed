"""What one table's scans remember."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from retl.model.errors import RowsRejected, SchemaDrift
from retl.model.hidden import shown
from retl.model.manifest import ManifestChange
from retl.model.plain import EPOCH, Plain
from retl.model.report import Progress
from retl.model.window import Position

CHECKPOINT_VERSION = 1
_LONGEST_KEY = 2_000
_LONGEST_REASON = 1_000
_LONGEST_CONTENT = 48 * 1024


class Refresh(msgspec.Struct, frozen=True):
    """A replacing scan that has changed the target and is not finished.

    The next scan continues it, and does not archive the half-loaded table again.
    """

    scan_id: str
    pre_action: str
    archives: bool = True
    """Whether a table was archived. If not, a table that a crash leaves half-loaded is not an archive either."""


class Backfill(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a backfill is that has not ended. What it asks for is compared, so that only the same one goes on."""

    since: str | None = None
    until: str | None = None
    cursor: str
    cursor_type: str | None = None
    selection: str
    done: str | None = None
    """All rows of the range up to this cursor value are in the target."""
    position: Position | None = None
    """How far the group of rows behind it is."""
    rows: int = 0
    """How many rows it has delivered, in all runs."""
    rows_planned: int | None = None
    """How many they will be, as far as the source can tell."""


class Backfilled(msgspec.Struct, frozen=True):
    """A backfill that was sent to the owner, and is in the target to its end: no later owner begins it again."""

    asked: str
    """The request."""
    rows: int = 0


class Underway(msgspec.Struct, frozen=True):
    """A scan that has committed something and has not finished: what other processes see of it."""

    scan_id: str
    at: datetime
    """When it committed last, by the clock of its process."""
    progress: Progress
    highest: str | None = None
    """The highest cursor value that the source had when the scan was planned."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The durable watermark and scan facts of one table.

    ``watermark`` is the source's own text of the highest cursor value that is safely in
    the target, to its last digit.
    """

    version: int = CHECKPOINT_VERSION
    cursor: str | None = None
    cursor_type: str | None = None
    watermark: str | None = None
    position: Position | None = None
    refresh: Refresh | None = None
    scan_id: str | None = None
    columns: dict[str, str] | None = None
    """Column names and types of the source at the last scan, to notice what changed."""
    selection: str | None = None
    """The selection at the source (columns, filter, expressions), to notice that it changed."""
    detail: dict[str, Any] = {}
    """The source's own: a manifest of files, versions of partitions."""
    window_digest: str | None = None
    """What the last window held, where it brought nothing new: the same again need not be written."""
    unfinished: bool = False
    """Whether ``after_sql`` is still to run: slices of a scan were committed, its end was not."""
    target: str | None = None
    """The identity of the target's table that the rows were written to (``TargetTable.identity``)."""
    backfill: Backfill | None = None
    """A backfill that has not ended. The watermark knows nothing of it."""
    backfilled: Backfilled | None = None
    """The one that ended last, of those that were sent to the owner."""
    underway: Underway | None = None
    """The scan that has saved this checkpoint, unless it has finished."""
    written: int = 0
    """Rows that scans since the last ``reset`` have delivered to it: with any, the table cannot be empty or gone."""


def check_cursor_type(table: str, cursor: str, checkpoint: Checkpoint, native: str) -> None:
    """Refuse a watermark of another type: its text would no longer compare as it did. Raises ``SchemaDrift``."""
    if checkpoint.watermark is None or checkpoint.cursor_type in (None, native):
        return
    raise SchemaDrift(
        f"the cursor column {cursor!r} was of type {checkpoint.cursor_type} and is now {native}, "
        "so the watermark no longer compares.",
        remedy=f"run `retl reset` for table {table!r}: its next scan then reads everything once.",
    )


class Fence(msgspec.Struct, frozen=True):
    """Proof of ownership: a commit is refused once the pipeline has another epoch."""

    pipeline: str
    owner: str
    epoch: int


class FencedCheckpoint(msgspec.Struct, frozen=True):
    """A checkpoint on its way into the store, with the fence that must still hold."""

    fence: Fence
    table: str
    checkpoint: Checkpoint
    manifest: ManifestChange | None = None
    """What is saved of the manifest in the same step."""


class Reject(Plain, frozen=True, kw_only=True):
    """A row that the target rejected: its key, the reason and its content (JSON text)."""

    table: str
    key: str
    reason: str
    content: str
    column: str = ""
    scan_id: str = ""
    at: datetime = EPOCH
    """When it was kept, in UTC."""

    def __post_init__(self) -> None:
        """Bound what is kept: a value may be larger than a request to the store."""
        for name, value in (
            ("key", _short_key(self.key)),
            ("reason", shown(self.reason, _LONGEST_REASON)),
            ("column", shown(self.column, _LONGEST_REASON)),
            ("content", _short_content(self.content)),
        ):
            msgspec.structs.force_setattr(self, name, value)


def check_rejects(
    rejects: Sequence[Reject],
    allowed: int,
    what: str,
    remedy: str,
    outcome: str = "nothing of this slice was written",
) -> None:
    """Raise ``RowsRejected`` for more rejects than allowed. ``what`` happened to ``{rows}``; ``outcome`` is that of the slice."""
    if len(rejects) <= allowed:
        return
    first = rejects[0]
    rows = f"{len(rejects):,} row{'s' if len(rejects) > 1 else ''}"
    error = RowsRejected(
        f"{what.replace('{rows}', rows)} (the first: key {first.key}: {first.reason}); "
        f"max_rejects allows {max(0, allowed):,} more, so {outcome}.",
        remedy=f"`retl rejects` shows them all; {remedy}.",
    )
    error.rejects = list(rejects)
    raise error


def _short_key(key: str) -> str:
    """A key that is too long keeps its beginning, and a hash tells it from others."""
    if len(key) <= _LONGEST_KEY:
        return key
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{key[: _LONGEST_KEY - len(digest) - 1]}#{digest}"


def _short_content(content: str) -> str:
    """JSON text; a value that is too long becomes a string of its beginning."""
    if len(content) <= _LONGEST_CONTENT or (content[:1] == '"' and len(content) <= 7 * _LONGEST_CONTENT):
        return content
    return msgspec.json.encode(f"{content[:_LONGEST_CONTENT]}… ({len(content):,} characters)").decode()
