"""Alerts: the owner of a pipeline looks at how it fares, remembers in the state store what he tells, and delivers it.

What is told is stored, under the fence, before it is delivered, and that it was delivered afterwards. So neither a
replica nor a successor tells it again, and one that dies in between leaves it to its successor. While the store does
not answer, nobody else can become the owner: then the memory of this process counts, until the store is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

import anyio
import msgspec

from retl.engine.bus import EventBus
from retl.engine.config import PipelineConfig
from retl.engine.context import StopSignal, now
from retl.engine.health import Health, TableHealth
from retl.engine.lease import Lease
from retl.engine.log import error_text, log_unexpected
from retl.model import events
from retl.model.alerts import Alert, AlertState, Condition, Notice, Send, TableFares, Told, notice_of, recovery_of
from retl.model.checkpoint import Fence
from retl.model.errors import ConfigError, LeaseLost, PermanentError, RetlError
from retl.model.hidden import shown
from retl.threads import end_task

_LOOK_SECONDS = 10.0
_ATTEMPTS = 5
_ATTEMPT_SECONDS = 10.0
_FIRST_PAUSE = 1.0
_STORE_SECONDS = 5.0
_LAST_SECONDS, _LAST_SECONDS_STOPPED = 10.0, 0.5
"""How long what is left to tell may take at the end of a run: of one that is over, and of one that is stopped."""
_PATIENCE = 0.5
_LONGEST_ERROR = 500
"""Characters of an error that are kept; hundreds of tables may fail at once."""
_WAKES = (
    events.ScanFinished,
    events.ScanFailed,
    events.RunFailed,
    events.Recovered,
    events.LeaseAcquired,
    events.LeaseGone,
    events.LeaseHeld,
)


class _Found(NamedTuple):
    """What is the case, and an alert tells."""

    key: str
    condition: Condition
    table: str


class Alerts:
    """The alerts of one pipeline, in one process."""

    def __init__(self, config: PipelineConfig, lease: Lease, health: Health, bus: EventBus, stop: StopSignal) -> None:
        self._pipeline = config.name
        self._by_key: dict[str, tuple[Alert, Send]] = {}
        for alert, send in config.alerts:  # of equal ones each has a number of its own
            double = sum(alert.key == other.key for other, _ in self._by_key.values())
            self._by_key[f"{alert.key} #{double}"] = alert, send
        self._store = config.store
        self._declares = config.tables.declares
        self._lease = lease
        self._health = health
        self._bus = bus
        self._stop = stop
        self._wake = asyncio.Event()
        self._ends = False
        self._epoch = 0
        self._state = AlertState()
        self._stored = AlertState()
        self._before: dict[str, TableHealth] = {}
        self._rejects: dict[str, int] = {}
        self._ask_rejects = True
        if self._by_key:
            bus.watch(self._hear)

    def _hear(self, event: events.Event) -> None:
        if isinstance(event, events.LeaseAcquired) and event.epoch != self._epoch:
            # What failed here while another process was the owner is not this one's to tell.
            self._before = {name: replace(one) for name, one in self._all_health()}
        if isinstance(event, events.ScanFinished | events.ScanFailed) and event.report.rejects:
            self._ask_rejects = True
        if isinstance(event, _WAKES):
            self._wake.set()

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[None]:
        """Look after the alerts for the length of the block, and once more at its end."""
        if not self._by_key:
            yield
            return
        self._wake, self._ends = asyncio.Event(), False
        task = asyncio.get_running_loop().create_task(self._work())
        try:
            yield
            self._ends = True
            self._wake.set()
            await asyncio.wait([task], timeout=_LAST_SECONDS_STOPPED if self._stop.requested else _LAST_SECONDS)
        finally:
            await end_task(task, patience=_PATIENCE)

    async def _work(self) -> None:
        ends = False
        while not ends:
            self._wake.clear()
            ends = self._ends
            await self._look()
            with anyio.move_on_after(0 if ends else _LOOK_SECONDS):
                await self._wake.wait()

    async def _look(self) -> None:
        """Tell what is to be told. Never fails."""
        try:
            if (fence := self._lease.fence) is not None:
                await self._look_as_owner(fence)
            elif self._lease.holder is not None:
                await self._hand_over()
        except (RetlError, TimeoutError):
            return  # the store: the next look tries again, or another process is the owner now
        except Exception as error:
            log_unexpected("alerts failed", error, pipeline=self._pipeline)

    async def _look_as_owner(self, fence: Fence) -> None:
        if fence.epoch != self._epoch:
            await self._load(fence)
        await self._count_rejects()
        self._state = self._changed(now())
        await self._save(fence)
        await self._deliver()
        await self._save(fence)

    async def _hand_over(self) -> None:
        """Another process is the owner, and does not know what this one has told while the store was away: it is over."""
        unknown = {key: one for key, one in self._state.told.items() if one.delivered and key not in self._stored.told}
        over = {key: self._closed(key, one) for key, one in unknown.items()}
        self._state = self._stored = AlertState(told={key: one for key, one in over.items() if one is not None})
        await self._deliver()
        self._state = self._stored = AlertState()
        self._epoch = 0

    # The store ----------------------------------------------------------------

    async def _load(self, fence: Fence) -> None:
        """Take over what the predecessors have told."""
        with anyio.fail_after(_STORE_SECONDS):
            state = await self._store.read_alerts(self._pipeline)
            last = await self._store.last_reports(self._pipeline) if self._needs_success else {}
        succeeded = {name: report.started_at for name, report in last.items() if report.status == "done"}
        tables = {name: TableFares(last_success=at) for name, at in succeeded.items()} | state.tables
        self._stored = state
        self._state = AlertState(
            tables={name: one for name, one in tables.items() if not name or self._declares(name)},
            told={key: one for key, one in state.told.items() if self._alert_of(key) is not None},
        )
        self._epoch, self._ask_rejects = fence.epoch, True

    @property
    def _needs_success(self) -> bool:
        return any(alert.last_success is not None for alert, _ in self._by_key.values())

    async def _save(self, fence: Fence) -> None:
        """Remember what is told. Raises ``LeaseLost``; a store that does not answer is left for later."""
        kept = msgspec.structs.replace(
            self._state, tables={name: one for name, one in self._state.tables.items() if one.failures}
        )
        if kept == self._stored:
            return
        try:
            with anyio.fail_after(_STORE_SECONDS):
                await self._store.save_alerts(fence, kept)
            self._stored = kept
        except LeaseLost:
            raise
        except (RetlError, TimeoutError):
            return

    async def _count_rejects(self) -> None:
        """Ask the store how many are kept, where that may have changed."""
        told = any(one.notice.condition == "rejects" for one in self._state.told.values())
        if not (told or self._ask_rejects) or all(alert.rejects is None for alert, _ in self._by_key.values()):
            return
        with suppress(RetlError, TimeoutError), anyio.fail_after(_STORE_SECONDS):
            self._rejects = await self._store.count_rejects(self._pipeline)
            self._ask_rejects = False

    # What is the case ---------------------------------------------------------

    def _all_health(self) -> Iterator[tuple[str, TableHealth]]:
        yield "", self._health.runs
        yield from list(self._health.tables.items())

    def _changed(self, at: datetime) -> AlertState:
        """The state by what is the case now."""
        tables = {**self._state.tables, **{name: self._fares(name, one) for name, one in self._all_health()}}
        self._before = {name: replace(one) for name, one in self._all_health()}
        found = {one.key: one for one in self._found(tables, at)}
        told = dict(self._state.told)
        for key, one in found.items():
            if key not in told or told[key].notice.recovered:
                told[key] = Told(self._notice(one, tables, at))
        for key in [key for key in told if key not in found and not told[key].notice.recovered]:
            closed = self._closed(key, told.pop(key))
            if closed is not None:
                told[key] = closed
        return AlertState(tables=tables, told=told)

    def _fares(self, name: str, one: TableHealth) -> TableFares:
        """How a table fares: what this process has seen since the last look, after what its predecessors have."""
        known = self._state.tables.get(name, TableFares())
        before = self._before.get(name, TableHealth())
        error = None if one.error is None else shown(one.error, _LONGEST_ERROR)
        counts_on = one.since is not None and one.since == known.since  # from the history, with what they have seen
        if one.last_success != before.last_success or counts_on:
            return TableFares(one.failures, one.since, one.last_success, error)
        more = one.failures - before.failures
        if more <= 0:
            return known
        return TableFares(known.failures + more, known.since or one.since, known.last_success, error)

    def _found(self, tables: dict[str, TableFares], at: datetime) -> Iterator[_Found]:
        for key, (alert, _) in self._by_key.items():
            for table, one in tables.items():
                for condition in self._conditions(alert, table, one, at):
                    yield _Found(f"{key} {condition} {table}", condition, table)

    def _conditions(self, alert: Alert, table: str, one: TableFares, at: datetime) -> Iterator[Condition]:
        if alert.failures is not None and one.failures >= alert.failures:
            yield "failures"
        if not table:
            return
        limit, age = alert.limit, _age(one, at)
        if limit is not None and age is not None and age > limit:
            yield "last_success"
        if alert.rejects is not None and self._rejects.get(table, 0) > alert.rejects:
            yield "rejects"

    def _notice(self, found: _Found, tables: dict[str, TableFares], at: datetime) -> Notice:
        one = tables[found.table]
        rejects = self._rejects.get(found.table, 0)
        return notice_of(self._pipeline, found.table, found.condition, one, at=at, age=_age(one, at), rejects=rejects)

    def _closed(self, key: str, one: Told) -> Told | None:
        """What is left of what was told when it is over: a notice of that, if somebody has heard of it and wants to know."""
        alert = self._alert_of(key)
        if alert is None or not alert[0].recovered or not one.delivered:
            return None
        return Told(recovery_of(one.notice, at=now(), rejects=self._rejects.get(one.notice.table, 0)))

    def _alert_of(self, key: str) -> tuple[Alert, Send] | None:
        """The alert that a key was made of; ``None`` if it is declared no more."""
        return next((alert for known, alert in self._by_key.items() if key.startswith(f"{known} ")), None)

    # Delivery -----------------------------------------------------------------

    async def _deliver(self) -> None:
        """Deliver what nobody has heard yet, to all at once."""
        waiting = [(key, one) for key, one in self._state.told.items() if not one.delivered]
        await asyncio.gather(*(self._tell_one(key, one) for key, one in waiting))

    async def _tell_one(self, key: str, one: Told) -> None:
        alert = self._alert_of(key)
        if alert is not None:
            await self._send(alert[1], one.notice)
        told = dict(self._state.told)
        if alert is None or one.notice.recovered:
            told.pop(key, None)
        else:
            told[key] = Told(one.notice, delivered=True)
        self._state = msgspec.structs.replace(self._state, told=told)

    async def _send(self, send: Send, notice: Notice) -> None:
        """Deliver a notice; after some attempts it is given up, and the log says so."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with anyio.fail_after(_ATTEMPT_SECONDS):
                    await send(notice)
                return
            except Exception as error:
                if attempt == _ATTEMPTS or isinstance(error, PermanentError | ConfigError):
                    self._warn(notice, error)
                    return
            await anyio.sleep(_FIRST_PAUSE * 2 ** (attempt - 1))

    def _warn(self, notice: Notice, error: Exception) -> None:
        why = "it took too long" if isinstance(error, TimeoutError) else error_text(error)
        message = f"an alert was not delivered: {why}"
        self._bus.emit(events.Warned(pipeline=self._pipeline, at=now(), table=notice.table, message=message))


def _age(one: TableFares, at: datetime) -> float | None:
    """The seconds since the last success, or since the first failure where there never was one."""
    moment = one.last_success or one.since
    return None if moment is None else max(0.0, (at - moment).total_seconds())
