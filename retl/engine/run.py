"""One run of a pipeline: every table once, and again after a transient error."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import anyio
from anyio.abc import TaskGroup

from retl.engine.config import PipelineConfig
from retl.engine.context import Emit, StopSignal, now
from retl.engine.history import History
from retl.engine.hooks import HookCalls
from retl.engine.log import error_text, log_unexpected
from retl.engine.ownership import Ownership
from retl.engine.scan import Scan
from retl.engine.schedule import backoff
from retl.engine.stall import unless_stalled
from retl.engine.turns import Turn, Turns
from retl.engine.wanted import Wanted, not_offered
from retl.model import events
from retl.model.errors import ConfigError, LeaseLost, RetlError, TransientError
from retl.model.hooks import BeforeRun, BeforeScan
from retl.model.report import RunReport, ScanReport, in_one
from retl.model.table import TableSpec

_RETRY_SECONDS = 30.0
"""Seconds for which a run without a deadline tries again after transient errors."""
_LONGEST_PAUSE = 300.0
"""Longest pause before a retry, whatever a system asks for."""


@dataclass(eq=False)
class _QueuedScan:
    """A table's turn to be scanned; without ``spec``, that of all tables to be found."""

    spec: TableSpec | None
    attempts: int = 0
    not_before: float = 0.0
    scan: Scan | None = None
    failures: list[Exception] = field(default_factory=list)
    """What the last attempt ended in, while it waits for the next one."""
    parts: list[ScanReport] = field(default_factory=list)
    """What a scan that gives way to others between its slices has done up to now."""


class Run:
    """Scans the wanted tables in the order of their declaration, a limited number at once.

    After a transient error a table is retried when the others have had their turn, so it
    does not delay them; with growing pauses, until the ``deadline`` (by the monotonic
    clock).
    """

    def __init__(
        self,
        config: PipelineConfig,
        ownership: Ownership,
        wanted: Wanted,
        turns: Turns,
        *,
        deadline: float | None,
        emit: Emit,
        stop: StopSignal,
        sleep: Callable[[float], Awaitable[None]],
        next_tick: Callable[[str], datetime | None],
        scans: dict[str, Scan],
        history: History,
    ) -> None:
        self._config = config
        self._ownership = ownership
        self._wanted = wanted
        self._deadline = deadline
        self._emit = emit
        self._stop = stop
        self._sleep = sleep
        self._next_tick = next_tick
        self._scans = scans
        self._history = history
        self._hooks = HookCalls(config, stop, sleep)
        self._turns = turns
        self._waiting: list[_QueuedScan] = []
        self._order: list[str] = []
        self._reports: dict[str, ScanReport] = {}
        self.unresolved: dict[str, Exception] = {}
        self.begun = False
        """Whether the hook before the run, if there is one, let it begin."""
        self._failure: Exception | None = None
        self.errors: list[Exception] = []

    @property
    def report(self) -> RunReport:
        """The reports so far."""
        scans = tuple(self._reports[name] for name in self._order if name in self._reports)
        left = [name for name in self._order if name not in self._reports] if self._stop.requested else []
        stopped = [f"{name}: not scanned, for the run was stopped" for name in left]
        return RunReport(self._config.name, scans, (*self.unresolved, *stopped))

    async def run(self) -> None:
        """Scan every table. Errors are reported and kept; ``LeaseLost`` is raised, for it ends all scans."""
        begins = BeforeRun(self._config.name, self._wanted.declared)
        if not await self._went_well(self._hooks.before_run(begins)):
            return
        self.begun = True
        self._ownership.forget()
        async with anyio.create_task_group() as tasks:
            self._queue(tasks, _QueuedScan(None))
        if self._failure is not None:
            raise self._failure

    def _queue(self, tasks: TaskGroup, queued: _QueuedScan) -> None:
        self._waiting.append(queued)
        tasks.start_soon(self._attend, tasks, queued)

    async def _attend(self, tasks: TaskGroup, queued: _QueuedScan) -> None:
        """Scan one table until it is done or given up."""
        while queued in self._waiting and not self._ends:
            pause = queued.not_before - time.monotonic()
            if pause > 0:
                await self._sleep(pause)  # shorter if something wants attention: then it is tried now
            async with self._turns.turn(queued.spec.name if queued.spec is not None else None) as turn:
                try:
                    if not self._ends:
                        await self._attempt(tasks, queued, turn)
                except Exception as error:  # raised again outside the group, so that it stays plain
                    self._failure = self._failure or error
                    tasks.cancel_scope.cancel()

    @property
    def _ends(self) -> bool:
        return self._stop.requested or self._failure is not None

    async def _attempt(self, tasks: TaskGroup, queued: _QueuedScan, turn: Turn) -> None:
        self._waiting.remove(queued)
        queued.attempts += 1
        if queued.spec is None:
            await self._find_tables(tasks, queued)
        else:
            await self._scan(queued, queued.spec, turn)

    async def end(self) -> None:
        """Give up what still waits for a retry, or for others: the run was stopped."""
        for queued in self._waiting:
            await self._give_up(queued)
            if queued.parts and not queued.failures:
                await self._tell(queued.parts, None)

    async def _find_tables(self, tasks: TaskGroup, queued: _QueuedScan) -> None:
        found: list[Exception] = []
        for spec in await self._config.tables.specs(self._config.source, self._config.target, found):
            if spec.name not in self._order and self._wanted.has(spec.name):
                self._order.append(spec.name)
                try:
                    self._queue(tasks, _QueuedScan(self._wanted.narrowed(spec, self._config.source)))
                except ConfigError as reason:
                    found.append(reason)
        absent = self._wanted.absent(self._order)
        found = [error for error in found if self._wanted.concerns(error, absent)]
        if not found:
            found = [not_offered(self._config.name, name) for name in absent]
        passing = [error for error in found if isinstance(error, TransientError)]
        for error in found:
            if error not in passing:
                self._report_unresolved(error)
        queued.failures = [*passing]
        if passing and not self._requeue(queued, passing[0]):
            await self._give_up(queued)

    async def after(self) -> None:
        """Call the hook of a run that is over, if it ever began."""
        if self.begun:
            await self._went_well(self._hooks.after_run(self.report))

    async def _went_well(self, hook: Awaitable[None], table: str = "") -> bool:
        try:
            await hook
        except RetlError as error:
            self._report_unresolved(error.with_context(pipeline=self._config.name, table=table))
            return False
        return True

    def _report_unresolved(self, error: Exception) -> None:
        text = error_text(error)
        if text not in self.unresolved:  # it may be found at each attempt
            self.unresolved[text] = error
            self.errors.append(error)
            if self._wanted.range is not None:
                return  # it is told to who has asked for it
            kind = type(error).__name__
            self._emit(events.RunFailed(pipeline=self._config.name, at=now(), error=text, error_type=kind))

    async def _scan(self, queued: _QueuedScan, spec: TableSpec, turn: Turn) -> None:
        config = self._config
        goes_on = bool(queued.parts) and not queued.failures  # the hook before it has let it begin
        scan = queued.scan = self._scans[spec.name] = Scan(
            pipeline=config.name,
            table=spec,
            source=config.source,
            target=config.target,
            store=config.store,
            state_in_target=config.state_in_target,
            fence=self._ownership.fence,
            blacklist=config.blacklist,
            emit=self._emit,
            stop=self._stop,
            limits=config.limits,
            lease_ttl=config.lease_ttl,
            turn=turn,
            ownership=self._ownership,
            before=None if goes_on else lambda scan_id: self._before_scan(spec, scan_id, queued.attempts),
            asked=self._wanted.asked,
        )
        queued.failures = []
        try:
            await unless_stalled(scan.run, config.stall_timeout, lambda still: self._tell_stalled(spec.name, still))
        except Exception as error:
            self._ownership.forget()
            queued.failures = [error]
            if isinstance(error, TransientError) and self._requeue(queued, error):
                return
            await self._give_up(queued)
            if isinstance(error, LeaseLost):
                raise
        else:
            if scan.gave_way:
                self._go_on_later(queued, scan)
            else:
                await self._close(queued, None)
        finally:
            self._scans.pop(spec.name, None)

    def _go_on_later(self, queued: _QueuedScan, scan: Scan) -> None:
        """Queue a scan behind those that wait for its table."""
        queued.parts.append(scan.report(attempts=queued.attempts))
        queued.attempts -= 1  # to go on is no other attempt
        self._waiting.append(queued)

    async def _before_scan(self, spec: TableSpec, scan_id: str, attempt: int) -> None:
        await self._hooks.before_scan(BeforeScan(self._config.name, spec.name, spec.to, scan_id, attempt))

    def _tell_stalled(self, table: str, still: float) -> None:
        told = events.ScanStalled(
            pipeline=self._config.name, at=now(), table=table, seconds=still, limit=self._config.stall_timeout
        )
        self._emit(told)

    def _requeue(self, queued: _QueuedScan, error: TransientError) -> bool:
        """Queue a scan again, unless the next run comes sooner."""
        pause = backoff(queued.attempts)
        left = self._deadline - time.monotonic() if self._deadline is not None else _RETRY_SECONDS - pause * 2
        delay = max(pause, min(error.retry_after or 0.0, _LONGEST_PAUSE))
        if pause >= left or self._stop.requested:
            return False
        queued.not_before = time.monotonic() + delay
        self._waiting.append(queued)
        retry = events.RetryScheduled(
            pipeline=self._config.name,
            at=now(),
            table=queued.spec.name if queued.spec is not None else error.table,
            error=str(error),
            attempt=queued.attempts,
            delay=delay,
        )
        self._emit(retry)
        return True

    async def _give_up(self, queued: _QueuedScan) -> None:
        for error in queued.failures:
            if queued.spec is None or queued.scan is None:
                self._report_unresolved(error)
            else:
                self.errors.append(error)
                await self._close(queued, error)

    async def _close(self, queued: _QueuedScan, error: Exception | None) -> None:
        assert queued.spec is not None
        assert queued.scan is not None
        next_run = self._next_tick(queued.spec.name)
        last = queued.scan.report(error, attempts=queued.attempts, next_run=next_run)
        await self._tell([*queued.parts, last], error)

    async def _tell(self, parts: Sequence[ScanReport], error: Exception | None) -> None:
        report = in_one(parts)
        report = self._reports[report.table] = await self._history.add(report)
        kind = events.ScanFailed if error else events.ScanFinished
        self._emit(kind(pipeline=self._config.name, at=now(), report=report))
        if error is not None and not isinstance(error, RetlError):
            log_unexpected("unexpected error in a scan", error, pipeline=self._config.name, table=report.table)
        if not isinstance(error, LeaseLost):  # another process has the pipeline, and its hooks
            await self._went_well(self._hooks.after_scan(report), report.table)
