"""The backfills that were sent to the owner of a pipeline: begun by it, gone on with by its successors, ended once.

What is to be done lies beside the lease until it has ended, and each change of it is stored before it is acted upon. How far
a backfill is, and that it has ended, lies in the checkpoint, which is committed with the rows: an owner that dies in
between leaves to the next one what is left to do, and no more than that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from retl.engine.context import Emit, now
from retl.engine.lease import owner_in_words
from retl.engine.log import error_text
from retl.engine.request import Outcome, Request
from retl.engine.schedule import backoff
from retl.model import events
from retl.model.backfills import BackfillStatus, kept, with_progress
from retl.model.checkpoint import Checkpoint, Fence
from retl.model.errors import ConfigError, LeaseLost, TargetBusy, TransientError
from retl.model.hidden import shown
from retl.model.range import CursorRange
from retl.model.report import RunReport
from retl.state.base import StateStore

_MOST_TRIES = 8
"""So often one is begun without getting any further, by whichever owner: then something is wrong that no further try mends."""
_LONGEST_PAUSE = 300.0
_LONGEST_ERROR = 1_000


class _Run(NamedTuple):
    """One that runs here."""

    asked: BackfillStatus
    request: Request


class AskedBackfills:
    """Those of one pipeline, in one process."""

    def __init__(
        self,
        store: StateStore,
        pipeline: str,
        *,
        emit: Emit,
        run: Callable[[BackfillStatus, Request], None],
        attend: Callable[[], None],
    ) -> None:
        """``run`` begins one, or raises ``ConfigError``; ``attend`` has the store told soon."""
        self._store = store
        self._pipeline = pipeline
        self._emit = emit
        self._run = run
        self._attend = attend
        self._fence: Fence | None = None
        self._single = self._ends = False
        self._running: dict[str, _Run] = {}
        self._news: dict[str, BackfillStatus] = {}
        """What has become of them here, and the store does not know yet."""
        self._told: dict[str, BackfillStatus] = {}
        """As much of that as the store is being told."""
        self._begins: list[BackfillStatus] = []
        """What is to begin once the store knows that it has."""
        self._not_before: dict[str, float] = {}

    @property
    def pending(self) -> bool:
        """Whether something has ended here that the store does not know yet."""
        return bool(self._news)

    def begin(self, fence: Fence, *, single: bool = False) -> None:
        """A new owner. What a former ownership has left running here ends."""
        for run in self._running.values():
            run.request.scope.cancel()
        self._fence, self._single, self._ends = fence, single, False
        self._running, self._news, self._not_before = {}, {}, {}

    def end(self) -> None:
        """Begin no more: only tell what has ended."""
        self._ends = True

    # What the store says ------------------------------------------------------

    async def settled(self, stored: tuple[BackfillStatus, ...]) -> tuple[BackfillStatus, ...]:
        """What the store shall say of them. What begins has it say so first: ``take_up`` is called then."""
        self._begins, self._told = [], dict(self._news)
        for gone in self._running.keys() - {one.id for one in stored if one.pending}:
            self._running[gone].request.scope.cancel()  # it was ended without us
        if self._fence is None or not any(one.pending for one in stored):
            return stored
        idle = [one for one in stored if one.pending and one.id not in self._running]
        checkpoints = await self._store.load(self._pipeline) if idle or self._news else {}
        found = kept([self._now(one, checkpoints) if one.pending else one for one in stored])
        self._told = dict(self._news)
        return found

    def _now(self, asked: BackfillStatus, checkpoints: Mapping[str, Checkpoint]) -> BackfillStatus:
        checkpoint = checkpoints.get(asked.table, Checkpoint())
        found = self._news.get(asked.id)
        if found is not None:
            further = with_progress(found, checkpoint)
            tries = 0 if further.rows > found.rows else found.tries
            return replace(further, tries=tries, cancelled_by=asked.cancelled_by)
        if asked.id in self._running:
            return self._under_way(asked)
        over = checkpoint.backfilled
        if over is not None and over.asked == asked.id:  # its owner died before it could tell
            return replace(asked, state="done", rows=over.rows, ended_at=now())
        if asked.cancelled_by is not None:
            return self._noted(self._cancelled(with_progress(asked, checkpoint)))
        return self._begun(asked, with_progress(asked, checkpoint))

    def _under_way(self, asked: BackfillStatus) -> BackfillStatus:
        if asked.cancelled_by is not None:
            self._running[asked.id] = _Run(asked, self._running[asked.id].request)
            self._running[asked.id].request.scope.cancel()
        return replace(asked, state="running", started_at=asked.started_at or now(), owner=self._owner)

    @property
    def _owner(self) -> str:
        return owner_in_words(self._fence.owner if self._fence is not None else None)

    def _begun(self, asked: BackfillStatus, further: BackfillStatus) -> BackfillStatus:
        """One that this owner begins, or goes on with, unless something speaks against it."""
        assert self._fence is not None
        if self._single and not self._ends and asked.state == "waiting" and asked.epoch == self._fence.epoch:
            return self._noted(
                self._dropped(asked, "a single run takes no backfill; send it again when that has ended")
            )
        if self._single or self._ends or time.monotonic() < self._not_before.get(asked.id, 0.0):
            return asked
        tries = 1 if further.rows > asked.rows else asked.tries + 1
        if tries > _MOST_TRIES:
            why = f"it was begun {_MOST_TRIES} times and got no further"
            why = f"{why}; the last error: {asked.error}" if asked.error else why
            return self._noted(self._dropped(further, why))
        begun = replace(
            further, state="running", tries=tries, started_at=asked.started_at or now(), owner=self._owner, error=None
        )
        self._begins.append(begun)
        return begun

    def _noted(self, found: BackfillStatus) -> BackfillStatus:
        """Decided once, however often the store must be told."""
        self._news[found.id] = found
        return found

    def take_up(self) -> None:
        """The store knows: begin what was to begin, and forget what has ended."""
        for id, found in self._told.items():
            if self._news.get(id) is found:  # else more has become of it, while the store was told
                del self._news[id]
        begins, self._begins = self._begins, []
        for asked in begins:
            again = asked.tries > 1 or asked.rows > 0
            self._tell(events.BackfillStarted, asked, since=asked.since, until=asked.until, resumed=again)
            self._start(asked)

    def _start(self, asked: BackfillStatus) -> None:
        request = self.joined(asked)
        try:
            self._run(asked, request)
        except ConfigError as error:  # the sender has other tables
            request.answer((RunReport(self._pipeline, ()), [error]))

    def joined(self, asked: BackfillStatus) -> Request:
        """The request of one that runs here from now on."""
        request = Request(lambda outcome: self._ended(asked.id, request, outcome))
        self._running[asked.id] = _Run(asked, request)
        return request

    # What comes of it ---------------------------------------------------------

    def _ended(self, id: str, request: Request, outcome: Outcome) -> None:
        run = self._running.get(id)
        if run is None or run.request is not request:
            return  # it was begun by a former ownership
        del self._running[id]
        found = self._outcome(run.asked, request, outcome)
        if found is not None:
            self._news[id] = found
            self._attend()

    def _outcome(self, asked: BackfillStatus, request: Request, outcome: Outcome) -> BackfillStatus | None:
        """What has become of it; ``None`` where the run was stopped: the next owner goes on."""
        report, errors = outcome
        scan = report.scans[-1] if report.scans else None
        if scan is not None and scan.status == "done":
            rows = asked.rows + scan.rows
            error = error_text(errors[0]) if errors else None  # a hook after it
            return replace(asked, state="done", rows=rows, ended_at=now(), error=error)
        if request.scope.cancel_called:
            return self._cancelled(asked)
        if not errors or isinstance(errors[0], LeaseLost):
            return None
        text = shown(error_text(errors[0]), _LONGEST_ERROR)
        if isinstance(errors[0], TransientError):
            self._not_before[asked.id] = time.monotonic() + backoff(asked.tries, most=_LONGEST_PAUSE)
            return replace(asked, error=text)
        if scan is not None:  # its own event has told
            return replace(asked, state="failed", error=text, ended_at=now())
        return self._dropped(asked, text)

    def _cancelled(self, asked: BackfillStatus) -> BackfillStatus:
        by = asked.cancelled_by or self._owner
        self._tell(events.CommandDropped, asked, command="backfill", reason=f"it was cancelled by {by}")
        return replace(asked, state="cancelled", ended_at=now())

    def _dropped(self, asked: BackfillStatus, reason: str) -> BackfillStatus:
        self._tell(events.CommandDropped, asked, command="backfill", reason=reason)
        return replace(asked, state="failed", error=reason, ended_at=now())

    def _tell(self, kind: Callable[..., events.Event], asked: BackfillStatus, **facts: object) -> None:
        about = {"pipeline": self._pipeline, "at": now(), "table": asked.table}
        self._emit(kind(**about, sent_at=asked.at, by=asked.by, **facts))

    # What this process is asked for itself --------------------------------------

    async def same(self, *tables: str, ends: CursorRange | None = None) -> BackfillStatus | None:
        """The same backfill, if it was sent and has not ended. Raises ``TargetBusy`` for another one of the table."""
        backfills = (await self._store.read_steering(self._pipeline)).backfills
        found = [same_of(backfills, self._pipeline, table, ends) for table in tables]
        return next((one for one in found if one is not None), None)

    async def check_free(self, *tables: str) -> None:
        """Raise ``TargetBusy`` where a backfill of one of the tables was sent and has not ended."""
        await self.same(*tables)


def pending_of(backfills: Sequence[BackfillStatus], table: str) -> BackfillStatus | None:
    """The one of a table that has not ended: there is one at most."""
    return next((one for one in backfills if one.pending and one.table == table), None)


def same_of(
    backfills: Sequence[BackfillStatus], pipeline: str, table: str, ends: CursorRange | None
) -> BackfillStatus | None:
    """That one, if it has these ends. Raises ``TargetBusy`` where it has others."""
    found = pending_of(backfills, table)
    if found is not None and (ends is None or not found.asks_for(ends)):
        raise _still_pending(pipeline, found)
    return found


def _still_pending(pipeline: str, asked: BackfillStatus) -> TargetBusy:
    """The error of a backfill beside another one of the same table."""
    ending = ", and is being cancelled" if asked.cancelled_by is not None else " and has not ended"
    return TargetBusy(
        f"the backfill {asked.ends} of this table was sent by {asked.by}{ending}.",
        remedy="wait for it (`retl status` shows how far it is), or cancel it: "
        f"`retl backfill --cancel {pipeline} {asked.table}`.",
        pipeline=pipeline,
        table=asked.table,
    )
