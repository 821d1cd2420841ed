"""A backfill: a scan of a range of the cursor, which keeps its own progress and leaves the watermark where it is."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

from msgspec.structs import replace

from retl.connectors.base import Source
from retl.engine.checkpoints import after_scan, selection
from retl.engine.drift import Warn, usable
from retl.model.actions import Write
from retl.model.checkpoint import Backfill, Backfilled, Checkpoint
from retl.model.errors import ConfigError
from retl.model.plan import SourcePlan
from retl.model.range import CursorRange
from retl.model.table import TableSpec


def backfill_spec(spec: TableSpec, wanted: CursorRange, source: Source) -> TableSpec:
    """The table for a backfill. Raises ``ConfigError`` for one of which no range can be read again."""
    reason, remedy = _why_not(spec, source)
    if reason:
        raise ConfigError(f"{reason}, so no range of it can be backfilled.", remedy=remedy, table=spec.name)
    # Its bounds are given: nothing moves them. A lost target is never made good by a part of the rows.
    return dataclasses.replace(
        spec, range=wanted, lookback=timedelta(), settle=None, null_cursor="warn", lost_target="fail"
    )


def _why_not(spec: TableSpec, source: Source) -> tuple[str, str]:
    now = f"`retl run --once --table {spec.name}` does it now."
    if spec.replaces:
        return f'every scan replaces the whole table (pre_action = "{spec.pre_action}")', f"scan it: {now}"
    if spec.cursor is None:
        return "the table has no cursor, and every scan reads all of it", f"scan it: {now}"
    if spec.write is Write.APPEND:
        return (
            'write = "append" would double the rows that are in the target already',
            "give the table a key and upsert; or delete the range in the target, and load it by a table with a query.",
        )
    if not source.ranges:
        return (
            f"a {source.system} source cannot read a given range",
            "`retl reset` for the table: its next scan then reads everything once.",
        )
    return "", ""


class Keeper:
    """How a scan continues from a checkpoint, and what of its own it becomes in the store: the watermark moves with it."""

    def begin(self, table: TableSpec, stored: Checkpoint, warn: Warn) -> Checkpoint:
        """The checkpoint that the scan continues from."""
        return usable(table, stored, warn)

    def after_scan(self, before: Checkpoint, plan: SourcePlan, scan_id: str, digest: str | None) -> Checkpoint:
        """The checkpoint once all slices are committed and the target is finished."""
        return after_scan(before, plan, scan_id, digest)

    def stored(self, checkpoint: Checkpoint) -> Checkpoint:
        """What the store keeps of the scan's checkpoint."""
        return checkpoint


class BackfillKeeper(Keeper):
    """A backfill has a checkpoint of its own, in the place of the table's watermark; the store keeps it beside that."""

    def __init__(self, asked: str | None = None) -> None:
        self._asked = asked
        self._stored = Checkpoint()
        self._progress = Backfill(cursor="", selection="")

    def begin(self, table: TableSpec, stored: Checkpoint, warn: Warn) -> Checkpoint:
        assert table.range is not None
        assert table.cursor is not None
        self._stored = stored
        wanted = Backfill(
            since=table.range.since, until=table.range.until, cursor=table.cursor, selection=selection(table)
        )
        before = stored.backfill
        if before is not None and _range_of(before) != wanted:
            ends = CursorRange(before.since, before.until)
            warn(f"the backfill {ends} was not finished, and is given up for this one.")
            before = None
        self._progress = before or wanted
        return Checkpoint(
            cursor=table.cursor,
            cursor_type=self._progress.cursor_type,
            watermark=self._progress.done,
            position=self._progress.position,
            target=stored.target,
            written=stored.written,
        )

    def after_scan(self, before: Checkpoint, plan: SourcePlan, scan_id: str, digest: str | None) -> Checkpoint:
        ended = None if self._asked is None else Backfilled(self._asked, self._rows(before))
        return replace(before, scan_id=scan_id, watermark=None, position=None, underway=None, backfilled=ended)

    def _rows(self, checkpoint: Checkpoint) -> int:
        return self._progress.rows + checkpoint.written - self._stored.written

    def stored(self, checkpoint: Checkpoint) -> Checkpoint:
        done, position = checkpoint.watermark, checkpoint.position
        under_way = done is not None or position is not None
        progress = replace(
            self._progress,
            done=done,
            position=position,
            cursor_type=checkpoint.cursor_type,
            rows=self._rows(checkpoint),
            rows_planned=self._rows_planned(checkpoint),
        )
        return replace(
            self._stored,
            backfill=progress if under_way else None,
            backfilled=checkpoint.backfilled or self._stored.backfilled,
            underway=checkpoint.underway,
            target=checkpoint.target,
            written=checkpoint.written,
            window_digest=None,  # the target may hold other rows now than the last scan has left
        )

    def _rows_planned(self, checkpoint: Checkpoint) -> int | None:
        scan = checkpoint.underway
        if scan is None or scan.progress.rows_planned is None:
            return self._progress.rows_planned
        return self._progress.rows + scan.progress.rows_planned


def _range_of(backfill: Backfill) -> Backfill:
    """What it asks for, without how far it is."""
    return replace(backfill, done=None, position=None, cursor_type=None, rows=0, rows_planned=None)


def keeper_of(table: TableSpec, asked: str | None = None) -> Keeper:
    """How a scan of this table keeps its progress; ``asked``: the request that a backfill answers."""
    return Keeper() if table.range is None else BackfillKeeper(asked)
