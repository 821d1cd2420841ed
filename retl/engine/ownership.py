"""Facts that are asked once per ownership of a pipeline, not for every table of every run."""

from __future__ import annotations

import time

import anyio

from retl.connectors.base import Source, Target
from retl.engine.targets import claim_of
from retl.model.checkpoint import Checkpoint, Fence
from retl.model.table import TableSpec
from retl.state.base import Claim, StateStore

_CHECKPOINT_SECONDS = 5.0
"""Maximum age of a checkpoint that a scan continues from: the target may have been restored from a backup."""


class Ownership:
    """One period of ownership: under one fence no other process writes the pipeline's checkpoints."""

    def __init__(self, store: StateStore, fence: Fence, *, state_in_target: bool) -> None:
        self.fence = fence
        self._store = store
        self._state_in_target = state_in_target
        self._claims: dict[tuple[str, str | None, str], Claim | None] = {}
        self._checkpoints: dict[str, Checkpoint] | None = None
        self._loaded = 0.0
        self._forgotten = 0
        self._lock = anyio.Lock()

    async def checkpoint(self, table: str) -> Checkpoint:
        """The checkpoint of a table. One question serves all scans that begin within a few seconds."""
        async with self._lock:
            found = self._checkpoints
            while found is None or time.monotonic() - self._loaded > _CHECKPOINT_SECONDS:
                before = self._forgotten
                found = await self._store.load(self.fence.pipeline)
                self._loaded = time.monotonic()
                if before != self._forgotten:
                    found = None  # another run began, or has failed, while the store answered
            self._checkpoints = found
            return found.get(table, Checkpoint())

    def remember(self, table: str, checkpoint: Checkpoint) -> None:
        """Remember what a successful scan has saved."""
        if self._checkpoints is not None:
            self._checkpoints[table] = checkpoint

    def forget(self) -> None:
        """Ask the store again: a run begins, or it is unknown what a failed scan has saved."""
        self._checkpoints = None
        self._forgotten += 1

    async def claim(self, source: Source, target: Target, table: TableSpec) -> Claim | None:
        """The claim of a scan. Raises ``ConfigError`` for a table that is its own target."""
        key = (table.name, table.query, table.to)
        if key not in self._claims:
            self._claims[key] = await claim_of(
                self.fence.pipeline, table, target, state_in_target=self._state_in_target, source=source
            )
        return self._claims[key]
