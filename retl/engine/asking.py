"""Send a backfill to the owner of a pipeline, look at it, or cancel it: from any process, through the state store."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable

import anyio
from msgspec.structs import replace

from retl.engine.asked import pending_of, same_of
from retl.engine.context import now
from retl.engine.lease import LONGEST_BEAT_SECONDS, Lease, owner_in_words
from retl.engine.steering import LOOK_SECONDS, TRIES, nobody_shares, this_process, too_busy
from retl.model.backfills import BackfillStatus, kept, with_progress
from retl.model.errors import ConfigError
from retl.model.range import CursorRange
from retl.state.base import LeaseRow, StateStore

_FOLLOW_SECONDS = 0.5


class Asking:
    """What one process asks of the backfills of one pipeline, whichever process runs it."""

    def __init__(self, store: StateStore, pipeline: str, *, sent: Callable[[], None] = lambda: None) -> None:
        """``sent`` is called when something was sent: the owner may be of this process, and need not wait for its beat."""
        self._sent = sent
        self._store = store
        self._pipeline = pipeline
        self._watch = Lease(store, pipeline)

    async def _owner(self) -> tuple[LeaseRow, str | None]:
        """The lease, and its living owner in words."""
        lease = await self._store.read_lease(self._pipeline)
        return lease, owner_in_words(lease.owner) if await self._watch.owner_lives(lease) else None

    async def send(self, table: str, ends: CursorRange) -> BackfillStatus:
        """Store it for the owner and its successors; the same one, if that was sent and has not ended, is not sent twice.

        Raises ``TargetBusy`` where another one of the table has not ended.
        """
        by = await this_process()
        for _ in range(TRIES):
            lease, owner = await self._owner()
            if owner is None and not self._store.outlives_process:
                raise nobody_shares(self._pipeline)
            seen = await self._store.read_steering(self._pipeline)
            same = same_of(seen.backfills, self._pipeline, table, ends)
            if same is not None:
                return replace(same, owner=owner)
            asked = BackfillStatus(
                id=secrets.token_hex(6),
                table=table,
                since=ends.since,
                until=ends.until,
                at=now(),
                by=by,
                epoch=lease.epoch,
                owner=owner,
            )
            changed = replace(seen, backfills=kept((*seen.backfills, asked)))
            if await self._store.save_steering(self._pipeline, changed):
                self._sent()
                return asked
        raise too_busy(self._pipeline)

    async def cancel(self, table: str) -> BackfillStatus:
        """End the one of a table that has not ended; where a process runs it, wait until that has heard, for three beats at most."""
        by = await this_process()
        for _ in range(TRIES):
            lease, owner = await self._owner()
            seen = await self._store.read_steering(self._pipeline)
            asked = pending_of(seen.backfills, table)
            if asked is None:
                raise _nothing_to_cancel(self._pipeline, table)
            told = replace(asked, cancelled_by=asked.cancelled_by or by)
            if owner is None:
                told = replace(told, state="cancelled", ended_at=now())
            backfills = tuple(told if one is asked else one for one in seen.backfills)
            if await self._store.save_steering(self._pipeline, replace(seen, backfills=backfills)):
                self._sent()
                return await self._heard(told, lease)
        raise too_busy(self._pipeline)

    async def _heard(self, told: BackfillStatus, lease: LeaseRow) -> BackfillStatus:
        found: BackfillStatus | None = told
        with anyio.move_on_after(min(lease.ttl, 3 * LONGEST_BEAT_SECONDS)):
            while found is not None and found.pending:
                await anyio.sleep(LOOK_SECONDS)
                found = await self.look(told.id)
        return found or await self.look(told.id) or told

    async def look(self, id: str) -> BackfillStatus | None:
        """How one stands; ``None`` where the store has forgotten it."""
        return next((one for one in await self.all() if one.id == id), None)

    async def all(self) -> list[BackfillStatus]:
        """All that are remembered, in the order in which they were sent."""
        backfills = (await self._store.read_steering(self._pipeline)).backfills
        if not any(one.pending for one in backfills):
            return [*backfills]
        checkpoints = await self._store.load(self._pipeline)
        _, owner = await self._owner()
        return [
            with_progress(replace(one, owner=owner), checkpoints.get(one.table)) if one.pending else one
            for one in backfills
        ]

    async def follow(self, asked: BackfillStatus) -> AsyncGenerator[BackfillStatus, None]:
        """How it stands now, and again with each change, until it has ended or is forgotten."""
        last: BackfillStatus | None = None
        while (found := await self.look(asked.id)) is not None:
            if found != last:
                yield found
            if not found.pending:
                return
            last = found
            await anyio.sleep(_FOLLOW_SECONDS)


def _nothing_to_cancel(pipeline: str, table: str) -> ConfigError:
    return ConfigError(
        "no backfill of this table waits or runs, of those that were sent to the owner.",
        remedy="`retl status` shows what has become of them.",
        pipeline=pipeline,
        table=table,
    )
