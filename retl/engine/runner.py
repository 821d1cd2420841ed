"""Runs of a pipeline: on schedule or once, by the one process that owns it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from datetime import datetime, timedelta

import anyio
from anyio.abc import TaskGroup

from retl.engine.alerts import Alerts
from retl.engine.asked_runs import AskedRuns
from retl.engine.bus import EventBus
from retl.engine.config import PipelineConfig
from retl.engine.context import StopSignal, now
from retl.engine.ending import Ending
from retl.engine.health import Health
from retl.engine.history import History
from retl.engine.lease import Lease, owner_in_words
from retl.engine.log import error_text, log_unexpected
from retl.engine.motion import Motion
from retl.engine.ownership import Ownership
from retl.engine.rejects import Pruning
from retl.engine.request import Request, stopped_before
from retl.engine.run import Run
from retl.engine.scan import Scan
from retl.engine.schedule import backoff
from retl.engine.steering import Commands
from retl.engine.ticks import Due, Ticks
from retl.engine.turns import Turns
from retl.engine.wanted import Wanted, wanted_tables
from retl.model import events
from retl.model.checkpoint import Fence
from retl.model.errors import ConfigError, LeaseLost, RetlError, TargetBusy
from retl.model.report import RunReport
from retl.model.status import PipelineState
from retl.model.steering import CommandWord, Sent
from retl.threads import Grace

_SEND_IT = "have it done there (`retl backfill` does that by itself, and `send_backfill()` in Python)"


class Runner:
    """Runs one pipeline, one scan of each table at a time; can be triggered, paused, resumed and stopped."""

    def __init__(self, config: PipelineConfig, bus: EventBus) -> None:
        self._config = config
        self._bus = bus
        self.name = config.name
        self._store = config.store
        self.lease = Lease(config.store, config.name, ttl=config.lease_ttl)
        self._stop = StopSignal()
        self.ending = Ending()
        self._wake = anyio.Event()
        self._changed = anyio.Event()
        self._ticks = Ticks(config.timetable)
        self._turns = Turns(config.scans_at_once)
        self.commands = Commands(
            config.store,
            config.name,
            emit=bus.emit,
            wake=self._wake_up,
            trigger=self._trigger_table,
            stop=lambda grace: self.stop(grace=grace),
            backfill=lambda asked, request: self.asked.begin(asked, request),
        )
        self.asked = AskedRuns(config.tables, self._ticks, self.commands.backfills, wake=self._wake_up)
        self._pruning = Pruning(config.store, config.name, config.keep_rejects)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.health = Health(config.name, bus)
        self.alerts = Alerts(config, self.lease, self.health, bus, self._stop)
        self.motion = Motion(self.lease, bus, ttl=config.lease_ttl, stall_timeout=config.stall_timeout)
        self.history = History(config.name, config.store, self.health)
        self._ownership: Ownership | None = None
        self.state: PipelineState = "stopped"
        self.scans: dict[str, Scan] = {}
        self.last_run: datetime | None = None
        self.next_run: datetime | None = None

    def begin(self, grace: Grace) -> None:
        """A new run, in the running event loop; nobody has asked it to stop yet."""
        self._stop.requested = False
        self._loop = asyncio.get_running_loop()
        self._wake, self._changed = anyio.Event(), anyio.Event()
        self._turns = Turns(self._config.scans_at_once)
        self.ending.begin(grace)

    async def take_lease(self, way_out: str = "stop it there first") -> Fence:
        """Own the pipeline; raises ``TargetBusy`` if another living process does."""
        fence = await self.lease.take_unless_alive()
        if fence is None:
            raise TargetBusy(
                f"the pipeline is being run by {owner_in_words(self.lease.holder)}.",
                remedy=f"{way_out}, or wait: when it stops, this one can run.",
                pipeline=self.name,
            )
        return fence

    async def once(self, wanted: Wanted) -> tuple[RunReport, list[Exception]]:
        """Every wanted table once, now."""
        self.state = "scanning"
        fence = await (self.take_lease() if wanted.range is None else self.take_lease(_SEND_IT))
        self._bus.emit(events.LeaseAcquired(pipeline=self.name, at=now(), epoch=fence.epoch))
        self.commands.begin_single(fence)
        request = Request()
        if wanted.range is not None:
            wanted, request = await self.asked.instead(wanted, wanted.range)
        outcome = stopped_before(self.name)
        async with self.alerts.keeping(), self._heartbeat():
            with request.scope:
                outcome = await self._run_tables(fence, wanted, left=None)
        request.answer(outcome)
        return outcome

    async def forever(self, begun: Callable[[], None]) -> None:
        """On schedule, until stopped. ``begun`` is called once it is clear that this can work: owned, standing by, or retried."""
        self._ticks.start()
        self.state = "standby"
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
                await self.history.catch_up()
                async with self._heartbeat() as lost:
                    await self._run_ticks(lost)
            except LeaseLost as error:
                self.lease.fence = None
                self._bus.emit(events.LeaseGone(pipeline=self.name, at=now(), reason=error.message))
            except Exception as error:
                # An error that shows only after the start must not end a running service.
                if isinstance(error, ConfigError) and not owned:
                    raise error.with_context(pipeline=self.name) from None
                failures += 1
                begun()
                await self._report_failed_run(error)
                await self._sleep(backoff(failures, most=min(30.0, self._config.timetable.period or 30.0)))

    async def _report_failed_run(self, error: Exception) -> None:
        if isinstance(error, RetlError):
            error.with_context(pipeline=self.name)
        else:
            log_unexpected("unexpected error in a run", error, pipeline=self.name)
        kind = type(error).__name__
        self._bus.emit(events.RunFailed(pipeline=self.name, at=now(), error=error_text(error), error_type=kind))
        await self.history.add_failed_run(error, reachable=self.lease.reachable is not False)

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
        await self.commands.forward(self._ticks.take_triggers())

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
            self._ring()

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

    async def _run_ticks(self, lost: list[LeaseLost]) -> None:
        """Run what is due, each schedule beside the others, until it is stopped; raises what ends this."""
        failures: list[Exception] = []
        async with anyio.create_task_group() as runs:
            try:
                await self._begin_runs(runs, lost, failures)
            except Exception as error:  # raised again outside the group, so that it stays plain
                failures.append(error)
        if failures or lost:
            raise (*failures, *lost)[0]

    async def _begin_runs(self, runs: TaskGroup, lost: list[LeaseLost], failures: list[Exception]) -> None:
        while not (self._stop.requested or lost or failures):
            paused = self.commands.paused
            for due in self._ticks.begin(paused=paused):
                if due.missed:
                    self._bus.emit(events.TicksMissed(pipeline=self.name, at=now(), missed=due.missed))
                runs.start_soon(self._run_due, due, failures)
            if not self._ticks.running:
                self.state = "paused" if paused else "idle"
                self.next_run = self._next_tick()
            delay = None if paused else self._ticks.delay()
            with anyio.move_on_after(delay):
                await self._changed.wait()
            self._changed = anyio.Event()
        if failures:
            runs.cancel_scope.cancel()  # what ends one of them, such as a lost lease, is for all

    async def _run_due(self, due: Due, failures: list[Exception]) -> None:
        assert self.lease.fence is not None
        self.next_run = None
        outcome = stopped_before(self.name)
        try:
            with due.request.scope if due.request is not None else nullcontext():
                outcome = await self._run_tables(self.lease.fence, due.wanted, left=due.left)
        except Exception as error:
            failures.append(error)
            outcome = outcome[0], [error]
        finally:
            self._ticks.ended(due)
            if due.request is not None:
                due.request.answer(outcome)
            self._changed.set()

    @property
    def serving(self) -> bool:
        """Whether ``run_forever`` runs here, and is no standby."""
        return self._ticks.started and self.lease.fence is not None

    def _next_tick(self, table: str | None = None) -> datetime | None:
        """The time of the next tick, of a table or of any; ``None`` if there is none."""
        left = self._ticks.left(table) if not self.commands.paused else None
        return now() + timedelta(seconds=left) if left is not None else None

    async def _run_tables(
        self, fence: Fence, wanted: Wanted, *, left: float | None
    ) -> tuple[RunReport, list[Exception]]:
        """Every wanted table once; what may pass is tried again for the seconds that are ``left``.

        Errors are reported and returned; ``LeaseLost`` is raised, for it ends all scans.
        """
        self.state, self.last_run = "scanning", now()
        if self._ownership is None or self._ownership.fence != fence:
            self._ownership = Ownership(self._store, fence, state_in_target=self._config.state_in_target)
        run = Run(
            self._config,
            self._ownership,
            wanted,
            self._turns,
            deadline=time.monotonic() + left if left is not None else None,
            emit=self._bus.emit,
            stop=self._stop,
            sleep=self._sleep,
            next_tick=self._next_tick,
            scans=self.scans,
            history=self.history,
        )
        with self.ending.run() as scope:
            await run.run()
        await run.end()
        if not scope.cancelled_caught:
            with self.ending.run():
                await run.after()
        for error in run.unresolved.values() if wanted.range is None else ():  # who asked for a range is told
            await self.history.add_failed_run(error, reachable=True)
        if not run.unresolved:
            self.health.run_ended()
        await self._pruning.run()
        return run.report, run.errors

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
        self._attend(self._ring)

    def _ring(self) -> None:
        """Wake what sleeps now, and let the schedules look again."""
        self._wake.set()
        self._wake = anyio.Event()
        self._changed.set()

    def trigger(self, wanted: Wanted) -> None:
        """Scan these tables now, also while paused. During a run: once more after it; several triggers are one."""
        self._ticks.trigger(wanted.names)
        self._wake_up()

    def _trigger_table(self, table: str | None) -> None:
        """Scan one table now, or all. Raises ``ConfigError`` for one that the pipeline does not have."""
        self.trigger(wanted_tables(self._config.tables, None if table is None else [table]))

    def hear_soon(self) -> None:
        """Hear what is asked in the state store now, and not with the next beat."""
        self._attend(self.commands.attend)

    def pause(self) -> None:
        """Start no further run on schedule. A run that is under way is finished."""
        self.commands.pause()
        self.hear_soon()
        self._wake_up()

    def resume(self) -> None:
        """Go on with the schedule; missed ticks count as one."""
        self.commands.resume()
        self.hear_soon()
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
            self._attend(self.ending.limit, grace)
        self._wake_up()

    async def _sleep(self, seconds: float | None) -> None:
        """Sleep for at most ``seconds``, until something wants attention."""
        if self._stop.requested:
            return
        with anyio.move_on_after(seconds):
            await self._wake.wait()

    def after_fork(self) -> None:
        """The parent runs the pipeline, if anybody does, and writes what its history lacks."""
        self.lease.after_fork()
        self.history.forget_waiting()
        self.state = "stopped"
        self.next_run = self._loop = self._ownership = None
        self.ending = Ending()
        self.scans.clear()

    def rest(self) -> None:
        """The run is over."""
        self.ending.rest()
        self.state = "stopped"
        self.next_run = None
        for due in self._ticks.end():
            if due.request is not None:
                due.request.answer(stopped_before(self.name))
