"""The two ways to commit: in one transaction with the checkpoint, or between a proof of the fence and its save."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod

from retl.connectors.base import CommitResult, TableWriter
from retl.engine.context import ScanContext
from retl.model.checkpoint import FencedCheckpoint
from retl.model.window import Slice
from retl.state.base import lease_lost

_PROOF_SECONDS = 1.0
"""Maximum age of the last fence check when a batch is written to a target that does not hold the checkpoint."""


class Committer(ABC):
    """Commits the writes of one scan, and its checkpoint."""

    def __init__(self, context: ScanContext) -> None:
        self._context = context
        self._proved = -math.inf  # a new scan has proved nothing yet

    @abstractmethod
    async def begin(self, begun: FencedCheckpoint | None) -> FencedCheckpoint | None:
        """Record that a refresh begins; returns what the target must save together with the pre-action."""

    @abstractmethod
    async def before_write(self) -> None:
        """A batch is about to be written."""

    @abstractmethod
    async def commit(
        self, writer: TableWriter, fenced: FencedCheckpoint, slice_: Slice, rejects_left: int
    ) -> CommitResult:
        """Commit what is staged, and the checkpoint."""

    @abstractmethod
    async def finish(self, writer: TableWriter, final: FencedCheckpoint | None) -> None:
        """Finish the target, and save the final checkpoint if it is not saved yet."""

    async def prove(self) -> None:
        """Raise ``LeaseLost`` unless this process still owns the pipeline."""
        if not await self._context.store.beat(self._context.fence):
            raise lease_lost(self._context.fence)
        self._proved = time.monotonic()


class Atomic(Committer):
    """The target holds the checkpoints: rows, checkpoint and the proof of the fence are one transaction."""

    async def begin(self, begun: FencedCheckpoint | None) -> FencedCheckpoint | None:
        return begun

    async def before_write(self) -> None:
        """Nothing is visible before the commit, which proves the fence itself."""

    async def commit(
        self, writer: TableWriter, fenced: FencedCheckpoint, slice_: Slice, rejects_left: int
    ) -> CommitResult:
        return await writer.commit(fenced, slice_, rejects_left)

    async def finish(self, writer: TableWriter, final: FencedCheckpoint | None) -> None:
        await writer.finish(final)


class ProveWriteSave(Committer):
    """The checkpoints are elsewhere: prove the fence, write, then save. A crash in between repeats the slice."""

    def __init__(self, context: ScanContext) -> None:
        super().__init__(context)
        # Shorter than a successor waits, so that none can come in between.
        self._longest_unproved = min(_PROOF_SECONDS, context.lease_ttl / 2)

    async def begin(self, begun: FencedCheckpoint | None) -> FencedCheckpoint | None:
        if begun is not None:
            await self._context.store.save(begun)
        return None

    async def before_write(self) -> None:
        """Prove the fence again: a process that was frozen may have a successor, and what it writes cannot be undone."""
        if time.monotonic() - self._proved >= self._longest_unproved:
            await self.prove()

    async def commit(
        self, writer: TableWriter, fenced: FencedCheckpoint, slice_: Slice, rejects_left: int
    ) -> CommitResult:
        await self.prove()
        done = await writer.commit(None, slice_, rejects_left)
        if done.rejects:
            await self._context.store.add_rejects(self._context.pipeline, done.rejects)
        await self._context.store.save(fenced)
        return done

    async def finish(self, writer: TableWriter, final: FencedCheckpoint | None) -> None:
        if final is not None:
            await self.prove()
        await writer.finish(None)
        if final is not None:
            await self._context.store.save(final)


def committer(context: ScanContext) -> Committer:
    """The way to commit, by the place of the checkpoints."""
    return Atomic(context) if context.state_in_target else ProveWriteSave(context)
