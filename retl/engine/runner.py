"""Runs of a pipeline: on schedule or once, by the one process that owns it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime, timedelta

import anyio

from retl.engine.alerts import Alerts
from retl.engine.bus import EventBus
from retl.engine.config import PipelineConfig
from retl.engine.context import StopSignal, now
from retl.engine.health import Health
from retl.engine.lease import Lease, owner_in_words
from retl.engine.log import error_text, log_unexpected
from retl.engine.motion import Motion
from retl.engine.ownership import Ownership
from retl.engine.run import Run
from retl.engine.scan import Scan
from retl.engine.schedule import Timer, backoff
from retl.engine.steering import Commands
from retl.engine.wanted import Wanted, wanted_tables
from retl.model import events
from retl.model.checkpoint import Fence
from retl.model.errors import ConfigError, LeaseLost, RetlError, TargetBusy
from retl.model.report import RunReport, ScanReport
from retl.model.status import PipelineState
from retl.model.steering import CommandWord, Sent
from retl.threads import Grace

_MOST_REJECTS = 5_000
"""Most rejects of a table that are kept."""
_PRUNE_SECONDS = 3600.0
_CLEAN_UP_SECONDS, _CLEAN_UP_AT_ONCE_SECONDS = 0.5, 5.0
"""How long what was abandoned may take to clean up: at the end of a grace, and where there was none."""


class Runner:
    """Runs one pipeline, one run at a time; can be triggered, paused, resumed and stopped."""

    def __init__(self, config: PipelineConfig, bus: EventBus) -> None:
        self._config = config
        self._bus = bus
        self.name = config.name
        self.schedule = config.schedule
        self._store = config.store
        self.lease = Lease(config.store, config.name, ttl=config.lease_ttl)
        self._stop = StopSignal()
        self._whole: anyio.CancelScope | None = None
        self._run_scope: anyio.CancelScope | None = None
        self._wake = anyio.Event()
        self._triggered = False
        self._triggered_tables: frozenset[str] = frozenset()
        self.commands = Commands(
            config.store,
            config.name,
            emit=bus.emit,
            wake=self._wake_up,
            trigger=self._trigger_table,
            stop=lambda grace: self.stop(grace=grace),
        )
        self._pruned = -math.inf
        self._loop: asyncio.AbstractEventLoop | None = None
        self._limits: list[asyncio.TimerHandle] = []
        self.grace = Grace()
        self.health = Health(config.name, bus)
        self.alerts = Alerts(config, self.lease, self.health, bus, self._stop)
        self.motion = Motion(self.lease, bus, ttl=config.lease_ttl, stall_timeout=config.stall_timeout)
        self._timer: Timer | None = None
        self._ownership: Ownership | None = None
        self.state: PipelineState = "stopped"
        self.last: dict[str, ScanReport] = {}
        self.scans: dict[str, Scan] = {}
        self.last_run: datetime | None = None
        self.next_run: datetime | None = None

    @contextmanager
    def scope(self) -> Iterator[None]:
        """What is left of a run is cancelled at the end of its grace, wherever it waits."""
        with anyio.CancelScope() as self._whole:
            yield

    def begin(self, grace: Grace) -> None:
        """A new run, in the running event loop; nobody has asked it to stop yet."""
        self._stop.requested = False
        self._loop = asyncio.get_running_loop()
        self._wake = anyio.Event()
        self.grace = grace

    async def take_lease(self) -> Fence:
        """Own the pipeline; raises ``TargetBusy`` if another living process does."""
        fence = await self.lease.take_unless_alive()
        if fence is None:
            raise TargetBusy(
                f"the pipeline is being run by {owner_in_words(self.lease.holder)}.",
                remedy="stop it there first, or wait: when it stops, this one can run.",
                pipeline=self.name,
            )
        return fence

    async def once(self, wanted: Wanted) -> tuple[RunReport, list[Exception]]:
        """Every wanted table once, now."""
        self.state = "scanning"
        fence = await self.take_lease()
        self._bus.emit(events.LeaseAcquired(pipeline=self.name, at=now(), epoch=fence.epoch))
        self.commands.begin_single(fence)
        async with self.alerts.keeping(), self._heartbeat():
            return await self._run_tables(fence, wanted, deadline=None)

    async def forever(self, begun: Callable[[], None]) -> None:
        """On schedule, until stopped. ``begun`` is called once it is clear that this can work: owned, standing by, or retried."""
        timer = self._timer = self.schedule.timer()
        failures = 0
        owned = False
        while not self._stop.requested:
            try:
                fence = await self._hold_lease(begun)
                if fence is None:
                    return
                await self.commands.begin(fence)
                begun()
                failures, owned = 0, True
                async with self._heartbeat() as lost:
                    await self._run_ticks(timer, lost)
            except LeaseLost as error:
                self.lease.fence = None
                self._bus.emit(events.LeaseGone(pipeline=self.name, at=now(), reason=error.message))
            except Exception as error:
                # An error that shows only after the start must not end a running service.
                if isinstance(error, ConfigError) and not owned:
                    raise error.with_context(pipeline=self.name) from None
                failures += 1
                begun()
                self._report_failed_run(error)
                await self._sleep(backoff(failures, most=min(30.0, self.schedule.period or 30.0)))

    def _report_failed_run(self, error: Exception) -> None:
        if isinstance(error, RetlError):
            error.with_context(pipeline=self.name)
        else:
            log_unexpected("unexpected error in a run", error, pipeline=self.name)
        self._bus.emit(
            events.RunFailed(pipeline=self.name, at=now(), error=error_text(error), error_type=type(error).__name__)
        )

    async def _hold_lease(self, begun: Callable[[], None]) -> Fence | None:
        """Own the pipeline, or stand by until it can be owned; ``None`` if it is stopped before."""
        announced = None
        while not self._stop.requested:
            fence = self.lease.fence or await self.lease.try_take()
            if fence is not None:
                self._bus.emit(events.LeaseAcquired(pipeline=self.name, at=now(), epoch=fence.epoch))
                return fence
            self.state = "standby"
            begun()
            if self.lease.holder != announced:
                announced = self.lease.holder
                self._bus.emit(events.LeaseHeld(pipeline=self.name, at=now(), owner=owner_in_words(announced)))
            await self._forward()
            await self._sleep(min(1.0, self._config.lease_ttl / 5))
        return None

    async def _forward(self) -> None:
        """Standing by: what is asked here is for the owner, and would be old when this one takes over."""
        wanted = self._take_wanted(due=False)
        await self.commands.forward([] if wanted is None else sorted(wanted.names or ()) or [None])

    async def give_up(self) -> None:
        """End the ownership, if any, so that the next owner need not wait."""
        if self.lease.fence is not None:
            await self.commands.end()
        await self.lease.give_up()

    @asynccontextmanager
    async def _heartbeat(self) -> AsyncIterator[list[LeaseLost]]:
        """Keep the lease alive; the list gets the error when it is lost."""
        lost: list[LeaseLost] = []

        def on_lost(error: LeaseLost) -> None:
            lost.append(error)
            self._wake.set()

        failure: BaseException | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.lease.keep, on_lost, self.commands)
            try:
                yield lost
            except Exception as error:  # raised again outside the group, so that it stays plain
                failure = error
            finally:
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _run_ticks(self, timer: Timer, lost: list[LeaseLost]) -> None:
        while not self._stop.requested:
            if lost:
                raise lost[0]
            tick = timer.next()
            due = tick is not None and tick.final and tick.delay <= 0
            paused = self.commands.paused
            wanted = self._take_wanted(due=due and not paused)
            if wanted is not None:
                if due and wanted.names is None:
                    assert tick is not None
                    self._coalesce(timer, tick.missed)
                assert self.lease.fence is not None
                self.next_run = None
                left = self.schedule.period if paused else timer.left()
                deadline = time.monotonic() + left if left is not None else None
                await self._run_tables(self.lease.fence, wanted, deadline=deadline)
                continue
            self.state = "paused" if paused else "idle"
            self.next_run = self._next_tick()
            await self._sleep(None if tick is None or paused else tick.delay)

    def _take_wanted(self, *, due: bool) -> Wanted | None:
        """What is to be scanned now, by the schedule or by ``trigger``; ``None`` if nothing is."""
        everything, tables = due or self._triggered, self._triggered_tables
        if not everything and not tables:
            return None
        self._triggered, self._triggered_tables = False, frozenset()
        return Wanted(None if everything else tables)

    def waits_for(self) -> str | None:
        """What the pipeline waits for, for people."""
        if self.state == "standby":
            return f"{owner_in_words(self.lease.holder)}, which runs this pipeline"
        if self.state == "paused":
            return "resume() or trigger()"
        if self.state == "idle":
            return f"the next run at {self.next_run.isoformat(timespec='seconds')}" if self.next_run else "trigger()"
        return None

    def _next_tick(self) -> datetime | None:
        """The time of the next tick; ``None`` if there is none."""
        left = self._timer.left() if self._timer is not None and not self.commands.paused else None
        return now() + timedelta(seconds=left) if left is not None else None

    def _coalesce(self, timer: Timer, missed: int) -> None:
        timer.consume()
        if missed:
            self._bus.emit(events.TicksMissed(pipeline=self.name, at=now(), missed=missed))

    async def _run_tables(
        self, fence: Fence, wanted: Wanted, *, deadline: float | None
    ) -> tuple[RunReport, list[Exception]]:
        """Every wanted table once. Errors are reported and returned; ``LeaseLost`` is raised, for it ends all scans."""
        self.state, self.last_run = "scanning", now()
        if self._ownership is None or self._ownership.fence != fence:
            self._ownership = Ownership(self._store, fence, state_in_target=self._config.state_in_target)
        run = Run(
            self._config,
            self._ownership,
            wanted,
            deadline=deadline,
            emit=self._bus.emit,
            stop=self._stop,
            sleep=self._sleep,
            next_tick=self._next_tick,
            scans=self.scans,
            last=self.last,
        )
        try:
            with anyio.CancelScope() as self._run_scope:
                await run.run()
            await run.end()
            if not self._run_scope.cancelled_caught:
                with anyio.CancelScope() as self._run_scope:
                    await run.after()
            if not run.unresolved:
                self.health.run_ended()
            await self._forget_old_rejects()
        finally:
            self._run_scope = None
            self.scans.clear()
        return run.report, run.errors

    async def _forget_old_rejects(self) -> None:
        """Forget old rejects: they hold people's data and are not kept for ever."""
        if time.monotonic() - self._pruned < _PRUNE_SECONDS:
            return
        before = now() - self._config.keep_rejects
        with suppress(RetlError):  # nothing depends on it, and the next run tries again
            await self._store.prune_rejects(self.name, before, _MOST_REJECTS)
            self._pruned = time.monotonic()

    # Control: from any thread ------------------------

    def _attend(self, call: Callable[..., object], *arguments: object) -> None:
        """Call in the event loop of the run, wherever this is called."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is loop:
            call(*arguments)
        else:
            loop.call_soon_threadsafe(call, *arguments)

    def _wake_up(self) -> None:
        self._attend(lambda: self._wake.set())

    def trigger(self, wanted: Wanted) -> None:
        """Scan these tables now, also while paused. During a run: once more after it; several triggers are one."""
        if wanted.names is None:
            self._triggered = True
        else:
            self._triggered_tables |= wanted.names
        self._wake_up()

    def _trigger_table(self, table: str | None) -> None:
        """Scan one table now, or all. Raises ``ConfigError`` for one that the pipeline does not have."""
        self.trigger(wanted_tables(self._config.tables, None if table is None else [table]))

    def pause(self) -> None:
        """Start no further run on schedule. A run that is under way is finished."""
        self.commands.pause()
        self._attend(self.commands.attend)
        self._wake_up()

    def resume(self) -> None:
        """Go on with the schedule; missed ticks count as one."""
        self.commands.resume()
        self._attend(self.commands.attend)
        self._wake_up()

    def obey(self, word: CommandWord, table: str | None, grace: float | None) -> Sent:
        """Do at once, as the owner, what was sent to the owner."""
        acts: dict[CommandWord, Callable[[], None]] = {
            "trigger": lambda: self._trigger_table(table),
            "pause": self.pause,
            "resume": self.resume,
            "stop": lambda: self.stop(grace=grace),
        }
        acts[word]()
        owner = owner_in_words(self.lease.fence.owner if self.lease.fence else None)
        return Sent(pipeline=self.name, command=word, table=table, owner=owner, heard=True)

    def stop(self, *, grace: float | None = None) -> None:
        """End ``run_forever`` or ``run_once`` soon: the slice under way is committed first, for which it has ``grace`` seconds.

        Then it is abandoned, and read again by the next run. Nothing is lost either way.
        """
        self._stop.requested = True
        if grace is not None:
            self._attend(self._limit, grace)
        self._wake_up()

    def _limit(self, grace: float) -> None:
        assert self._loop is not None
        clean_up = _CLEAN_UP_SECONDS
        if grace <= 0:
            self._abandon()
            clean_up = _CLEAN_UP_AT_ONCE_SECONDS
        else:
            self._limits.append(self._loop.call_later(grace, self._abandon))
        self._limits.append(self._loop.call_later(grace + clean_up, self._give_up))

    def _abandon(self) -> None:
        if self._run_scope is not None:
            self._run_scope.cancel()

    def _give_up(self) -> None:
        self.grace.end()
        if self._whole is not None:
            self._whole.cancel()

    async def _sleep(self, seconds: float | None) -> None:
        """Sleep for at most ``seconds``, until something wants attention."""
        if self._stop.requested:
            return
        with anyio.move_on_after(seconds):
            await self._wake.wait()
        if self._wake.is_set():
            self._wake = anyio.Event()

    def rest(self) -> None:
        """The run is over."""
        while self._limits:
            self._limits.pop().cancel()
        self.state = "stopped"
        self.next_run = self._timer = None
