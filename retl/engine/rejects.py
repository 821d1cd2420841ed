"""Rejects: rows that a source could read and no target can be given become such on their way, and old ones are forgotten."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from datetime import timedelta

import msgspec
import pyarrow as pa

from retl.connectors.base import REJECT, CommitResult, TableWriter
from retl.engine.context import now
from retl.model.checkpoint import FencedCheckpoint, Reject, check_rejects
from retl.model.errors import RetlError
from retl.model.plan import WriteSpec
from retl.model.window import Slice
from retl.state.base import StateStore, commit_with_rejects

_MOST_REJECTS = 5_000
"""Most rejects of a table that are kept."""
_PRUNE_SECONDS = 3600.0


class SourceRejects(TableWriter):
    """A target's writer that is given all rows but those; they count as rejects of the commit."""

    def __init__(self, writer: TableWriter, spec: WriteSpec, store: StateStore) -> None:
        self._writer = writer
        self._spec = spec
        self._store = store
        self.overlaps = writer.overlaps
        self._rejects: list[Reject] = []

    async def begin(self, slice_: Slice) -> None:
        await self._writer.begin(slice_)

    async def write(self, batch: pa.RecordBatch) -> None:
        if batch.schema.names[-1:] == [REJECT]:
            good = batch.column(REJECT).is_null()
            self._rejects += self._told(batch.filter(batch.column(REJECT).is_valid()))
            batch = batch.drop_columns([REJECT]).filter(good)
        if batch.num_rows:
            await self._writer.write(batch)

    def _told(self, batch: pa.RecordBatch) -> list[Reject]:
        keys = batch.select([name for name in self._spec.key if name in batch.schema.names])
        texts = [column.cast(pa.string()).to_pylist() for column in keys.columns]
        at = now()
        return [
            Reject(
                table=self._spec.table.name,
                key=msgspec.json.encode(dict(zip(keys.schema.names, key, strict=True))).decode(),
                scan_id=self._spec.scan_id,
                at=at,
                **found,
            )
            for found, *key in zip(batch.column(REJECT).to_pylist(), *texts, strict=True)
        ]

    async def discard(self) -> None:
        self._rejects.clear()
        await self._writer.discard()

    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        check_rejects(
            self._rejects,
            rejects_left,
            "the source has {rows} with a value that no target can store",
            "correct them at the source, filter them with where, or leave the column out",
        )
        mine, self._rejects = tuple(self._rejects), []
        commit = self._writer.commit(fenced, slice_, rejects_left - len(mine))
        return await commit_with_rejects(commit, mine, fenced, self._store)

    async def count(self) -> int:
        return await self._writer.count()

    async def deletes(self) -> int:
        return await self._writer.deletes()

    async def finish(self, fenced: FencedCheckpoint | None) -> None:
        await self._writer.finish(fenced)


class Pruning:
    """Forgets the old rejects of one pipeline, once an hour: they hold people's data and are not kept for ever."""

    def __init__(self, store: StateStore, pipeline: str, keep: timedelta) -> None:
        self._store = store
        self._pipeline = pipeline
        self._keep = keep
        self._pruned = -math.inf

    async def run(self) -> None:
        """After a run: prune, if it is time. Never fails."""
        if time.monotonic() - self._pruned < _PRUNE_SECONDS:
            return
        with suppress(RetlError):  # nothing depends on it, and the next run tries again
            await self._store.prune_rejects(self._pipeline, now() - self._keep, _MOST_REJECTS)
            self._pruned = time.monotonic()
