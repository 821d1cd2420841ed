"""``Pipeline``: declare what is synced; check it, plan it, run it once or for ever."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import anyio
import structlog

from retl.connectors.base import Connector, Source, SystemInfo, Target
from retl.engine import guard
from retl.engine.context import Limits, StopSignal, now_text
from retl.engine.lease import DEFAULT_TTL, Lease
from retl.engine.retry import backoff
from retl.engine.scan import Scan
from retl.engine.schedule import Schedule, Timer, make_schedule
from retl.model import events as event_types
from retl.model.actions import Action, PreAction, Write, parse_actions
from retl.model.checkpoint import Checkpoint, Fence, Reject
from retl.model.cursor import CursorFamily, age
from retl.model.duration import Duration
from retl.model.errors import ConfigError, LeaseLost, RetlError, TargetBusy, TransientError
from retl.model.plan import Load, SourcePlan, TargetPlan
from retl.model.report import RunReport, ScanReport
from retl.model.status import PipelineState, PipelineStatus, TableStatus
from retl.model.table import (
    NewColumns,
    NullCursor,
    Table,
    TableOptions,
    TableSpec,
    check_declaration,
    is_pattern,
    matching,
    resolve,
)
from retl.state.base import StateStore
from retl.threads import to_the_end

_log = structlog.get_logger("retl")

_KEPT_EVENTS = 1000


@dataclass(frozen=True)
class TablePlan:
    """What a scan of one table would do. Nothing was written to find it out."""

    table: TableSpec
    source: SourcePlan
    target: TargetPlan
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One line of a ``check``: what was looked at, and what was found."""

    level: Literal["ok", "warning", "error"]
    subject: str
    message: str


class Pipeline:
    """One source, one target, some tables and a schedule.

    ``name`` identifies the pipeline in its state store: checkpoints belong to it.
    ``source`` and ``target`` are connectors (``retl.connectors``), or objects of your own
    that implement ``retl.connectors.base``. What is given here for tables (``cursor``,
    ``lookback`` ...) holds for every table that says nothing else; ``cursor`` only for
    those that have such a column.

    Checkpoints and the lease live inside the target where it has transactions, so that
    data and checkpoint are one commit; else in ``state``, which must then be given unless
    losing the watermark with the process is acceptable (``retl.MemoryStore()``).

    Raises ``ConfigError`` for words that do not fit together. Nothing is opened before
    the first method is awaited. A pipeline is used from one event loop.
    """

    def __init__(
        self,
        name: str,
        *,
        source: Connector | Source,
        target: Connector | Target,
        tables: Sequence[Table | str],
        interval: Duration | None = None,
        cron: str | None = None,
        timezone: str | None = None,
        blacklist: Iterable[str] = (),
        state: StateStore | None = None,
        cursor: str | None = None,
        lookback: Duration | None = None,
        settle: Duration | None = None,
        null_cursor: NullCursor | None = None,
        pre_action: PreAction | str | None = None,
        keep_archives: int | None = None,
        max_shrink: str | float | None = None,
        max_rejects: int | None = None,
        write: Write | str | None = None,
        new_columns: NewColumns | None = None,
        slice_rows: int | None = None,
        lease_ttl: float = DEFAULT_TTL,
        channel_bytes: int = Limits.channel_bytes,
    ) -> None:
        self.name = name
        try:
            if not name or not name.strip():
                raise ConfigError("a pipeline needs a name.", remedy='give it one, such as "orders".')
            self.schedule: Schedule = make_schedule(interval, cron, timezone)
            self._defaults = TableOptions(
                cursor=cursor,
                lookback=lookback,
                settle=settle,
                null_cursor=null_cursor,
                pre_action=_word(PreAction, pre_action, "pre_action"),
                keep_archives=keep_archives,
                max_shrink=max_shrink,
                max_rejects=max_rejects,
                write=_word(Write, write, "write"),
                new_columns=new_columns,
                slice_rows=slice_rows,
            )
            self._blacklist: frozenset[Action] = parse_actions(blacklist)
            self._tables = [Table(table) if isinstance(table, str) else table for table in tables]
            if not self._tables:
                raise ConfigError("the pipeline has no tables.", remedy="name at least one.")
            for table in self._tables:
                self._check_table(table)
            self._source = source.source() if isinstance(source, Connector) else source
            self._target = target.target() if isinstance(target, Connector) else target
        except RetlError as error:
            error.located(pipeline=name)
            raise
        inside = self._target.state_store() if state is None else None
        self._store: StateStore = state or inside or _no_store(name, self._target)
        self._state_in_target = inside is not None
        self._limits = Limits(channel_bytes=channel_bytes)
        self._lease_ttl = lease_ttl
        self._lease = Lease(self._store, name, ttl=lease_ttl)
        self._resolved: dict[int, TableSpec] = {}
        self._listeners: list[Callable[[event_types.Event], None]] = []
        self._stop = StopSignal()
        self._scope: anyio.CancelScope | None = None
        self._run_scope: anyio.CancelScope | None = None
        self._wake = anyio.Event()
        self._triggered = False
        self._paused = False
        self._busy = False
        self._state: PipelineState = "stopped"
        self._last: dict[str, ScanReport] = {}
        self._scans: dict[str, Scan] = {}
        self._last_run: str | None = None
        self._next_run: str | None = None

    def __repr__(self) -> str:
        return f"<Pipeline {self.name!r} {self._source.system} -> {self._target.system}, {self.schedule.describe()}>"

    def _check_table(self, table: Table) -> None:
        check_declaration(table)
        if not is_pattern(table):
            # A table that inherits its cursor is checked again when its columns are known.
            assert table.name is not None
            resolve(table, table.name, self._defaults, self._blacklist, inherited_cursor=None)

    # Before a run -----------------------------------------------------------

    async def check(self) -> list[Finding]:
        """Test both connections and look at every table, as a preflight. Writes nothing and never raises ``RetlError``."""
        findings: list[Finding] = []
        try:
            reachable = [await self._try_ping(findings, role, system) for role, system in self._systems()]
            if not all(reachable):
                return findings
            errors: list[Exception] = []
            try:
                specs = await self._specs(errors)
            except RetlError as error:
                return [*findings, Finding("error", "tables", str(error.located(pipeline=self.name)))]
            findings.extend(
                Finding("error", getattr(unresolved, "table", "") or "tables", str(unresolved)) for unresolved in errors
            )
            for spec in specs:
                findings.extend(await self._check_spec(spec))
            return findings
        finally:
            await self._release()

    def _systems(self) -> tuple[tuple[str, Source | Target], ...]:
        return (("source", self._source), ("target", self._target))

    async def _try_ping(self, findings: list[Finding], role: str, system: Source | Target) -> bool:
        try:
            info: SystemInfo = await system.ping()
        except RetlError as error:
            findings.append(Finding("error", role, str(error.located(pipeline=self.name, system=system.system))))
            return False
        text = " ".join(part for part in (info.product, info.version, info.detail) if part)
        findings.append(Finding("ok", role, text))
        return True

    async def _check_spec(self, spec: TableSpec) -> list[Finding]:
        try:
            plan = await self._plan_table(spec)
        except RetlError as error:
            return [Finding("error", spec.name, str(error))]
        rows = "" if plan.source.rows is None else f", {plan.source.rows:,} rows to read"
        mode = "full scan" if spec.full else f"incremental by {spec.cursor}"
        ok = Finding("ok", spec.name, f"-> {spec.to}: {mode}{rows}")
        return [ok, *(Finding("warning", spec.name, warning) for warning in plan.warnings)]

    async def plan(self) -> list[TablePlan]:
        """What the next scan of every table would do: windows, SQL, DDL, casts. Writes nothing.

        Raises the ``RetlError`` that the scan itself would end in, where it can be known.
        """
        try:
            return [await self._plan_table(spec) for spec in await self._specs()]
        except RetlError as error:
            error.located(pipeline=self.name)
            raise
        finally:
            await self._release()

    async def _plan_table(self, spec: TableSpec) -> TablePlan:
        try:
            checkpoint = (await self._peek_checkpoints()).get(spec.name, Checkpoint())
            source = await self._source.plan(spec, checkpoint)
            null_warning = guard.check_null_cursor(source)
            load = Load(
                pipeline=self.name,
                table=spec,
                schema=source.schema,
                key=source.key,
                scan_id="plan",
                blacklist=self._blacklist,
                checkpoint=checkpoint,
                unique_key=source.unique_key,
            )
            target = await self._target.preview(load)
        except RetlError as error:
            error.located(pipeline=self.name, table=spec.name)
            raise
        warnings = (*source.warnings, *((null_warning,) if null_warning else ()), *target.warnings)
        return TablePlan(spec, source, target, warnings)

    async def _peek_checkpoints(self) -> dict[str, Checkpoint]:
        return await self._store.load(self.name)

    async def tables(self) -> list[str]:
        """The tables that the source offers, sorted."""
        try:
            return await self._source.list_tables()
        except RetlError as error:
            error.located(pipeline=self.name)
            raise
        finally:
            await self._release()

    # Runs -------------------------------------------------------------------

    async def run_once(self, *, check: bool = True) -> RunReport:
        """Scan every table once, now, and return what came of it.

        Waits for a lease whose owner has died; raises ``TargetBusy`` where another process
        runs this pipeline. A table that fails does not stop the others; afterwards the
        first error is raised, unless ``check`` is false and the reports alone should tell.
        """
        with self._running():
            self._state = "scanning"
            try:
                fence = await self._lease.take_unless_alive()
                if fence is None:
                    raise TargetBusy(
                        f"the pipeline is being run by {_owner(self._lease.holder)}.",
                        remedy="stop it there first, or wait: when it stops, this one can run.",
                        pipeline=self.name,
                    )
                self._emit(event_types.LeaseAcquired(pipeline=self.name, at=now_text(), epoch=fence.epoch))
                async with self._heartbeat():
                    report, errors = await self._run_tables(fence, deadline=None)
            except RetlError as error:
                error.located(pipeline=self.name)
                raise
            finally:
                await self._let_go()
        if errors and check:
            raise errors[0]
        return report

    async def run_forever(self) -> None:
        """Run on schedule until ``stop`` is called or the task is cancelled.

        Errors never end it: transient ones are tried again within the interval, with
        backoff and jitter; permanent ones are reported and the schedule goes on. Where
        another process owns the pipeline this one stands by and takes over when the
        other stops or dies. Raises ``ConfigError`` at once for a declaration that can
        never work.
        """
        with self._running():
            self._emit(
                event_types.PipelineStarted(pipeline=self.name, at=now_text(), schedule=self.schedule.describe())
            )
            try:
                with anyio.CancelScope() as self._scope:
                    await self._run_schedule()
            finally:
                self._scope = None
                try:
                    await self._let_go()
                finally:
                    self._emit(event_types.PipelineStopped(pipeline=self.name, at=now_text()))

    async def _run_schedule(self) -> None:
        timer = self.schedule.timer()
        failures = 0
        while not self._stop.requested:
            try:
                if not await self._hold_lease():
                    return
                failures = 0
                async with self._heartbeat() as lost:
                    await self._run_ticks(timer, lost)
            except LeaseLost as error:
                self._lease.fence = None
                self._emit(event_types.LeaseGone(pipeline=self.name, at=now_text(), reason=error.message))
            except Exception as error:
                if isinstance(error, ConfigError):
                    raise error.located(pipeline=self.name) from None
                failures += 1
                self._report_failed_run(error)
                await self._sleep(backoff(failures, most=min(30.0, self.schedule.period or 30.0)))

    def _report_failed_run(self, error: Exception) -> None:
        if isinstance(error, RetlError):
            error.located(pipeline=self.name)
        else:
            _log.error("unexpected error in a run", pipeline=self.name, exc_info=error)
        self._emit(
            event_types.RunFailed(pipeline=self.name, at=now_text(), error=str(error), error_type=type(error).__name__)
        )

    async def _hold_lease(self) -> bool:
        """Own the pipeline, or stand by until it can be owned; ``False`` when stopped meanwhile."""
        announced = None
        while not self._stop.requested:
            fence = self._lease.fence or await self._lease.try_take()
            if fence is not None:
                self._emit(event_types.LeaseAcquired(pipeline=self.name, at=now_text(), epoch=fence.epoch))
                return True
            self._state = "standby"
            if self._lease.holder != announced:
                announced = self._lease.holder
                self._emit(event_types.LeaseHeld(pipeline=self.name, at=now_text(), owner=_owner(announced)))
            await self._release()
            await self._sleep(min(1.0, self._lease_ttl / 5))
        return False

    @asynccontextmanager
    async def _heartbeat(self) -> AsyncIterator[list[str]]:
        """Keep the lease alive meanwhile; the list gets the reason when it is lost."""
        lost: list[str] = []

        def on_lost(reason: str) -> None:
            lost.append(reason)
            self._wake.set()

        failure: BaseException | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._lease.keep, on_lost)
            try:
                yield lost
            except Exception as error:  # raised again outside the group, so that it stays plain
                failure = error
            finally:
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _run_ticks(self, timer: Timer, lost: list[str]) -> None:
        while not self._stop.requested:
            if lost:
                raise LeaseLost(lost[0], pipeline=self.name)
            tick = timer.next()
            due = tick is not None and tick.final and tick.delay <= 0
            if (due and not self._paused) or self._triggered:
                if due:
                    assert tick is not None
                    self._coalesce(timer, tick.missed)
                self._triggered = False
                assert self._lease.fence is not None
                self._next_run = None
                period = self.schedule.period
                deadline = time.monotonic() + period if period is not None else None
                await self._run_tables(self._lease.fence, deadline=deadline)
                await self._release()
                continue
            self._state = "paused" if self._paused else "idle"
            self._next_run = _from_now(tick.delay) if tick is not None and not self._paused else None
            await self._sleep(None if tick is None or self._paused else tick.delay)

    def _coalesce(self, timer: Timer, missed: int) -> None:
        timer.consume()
        if missed:
            self._emit(event_types.TicksMissed(pipeline=self.name, at=now_text(), missed=missed))

    async def _run_tables(self, fence: Fence, *, deadline: float | None) -> tuple[RunReport, list[Exception]]:
        """Every table once. Errors are reported and returned; ``LeaseLost`` is raised, for it ends them all."""
        self._state, self._last_run = "scanning", now_text()
        reports: list[ScanReport] = []
        errors: list[Exception] = []
        try:
            with anyio.CancelScope() as self._run_scope:
                specs = await self._specs(errors)
                for unresolved in errors:
                    if isinstance(unresolved, RetlError):
                        self._report_failed_run(unresolved)
                for spec in specs:
                    if self._stop.requested:
                        break
                    report, error = await self._scan(spec, fence, deadline)
                    reports.append(report)
                    if error is not None:
                        errors.append(error)
                    if isinstance(error, LeaseLost):
                        raise error
        finally:
            self._run_scope = None
            self._scans.clear()
        return RunReport(self.name, tuple(reports)), errors

    async def _scan(self, spec: TableSpec, fence: Fence, deadline: float | None) -> tuple[ScanReport, Exception | None]:
        """Scan one table; after a transient error again, until the next tick is due."""
        attempt = 0
        while True:
            attempt += 1
            scan = self._scans[spec.name] = Scan(
                pipeline=self.name,
                table=spec,
                source=self._source,
                target=self._target,
                store=self._store,
                state_in_target=self._state_in_target,
                fence=fence,
                blacklist=self._blacklist,
                emit=self._emit,
                stop=self._stop,
                limits=self._limits,
            )
            error: Exception | None = None
            try:
                await scan.run()
            except TransientError as failure:
                error = failure
                delay = backoff(attempt)
                patience = deadline - time.monotonic() if deadline is not None else 30.0 - delay * 2
                if delay < patience and not self._stop.requested:
                    self._emit(
                        event_types.RetryScheduled(
                            pipeline=self.name,
                            at=now_text(),
                            table=spec.name,
                            error=str(error),
                            attempt=attempt,
                            delay=delay,
                        )
                    )
                    await self._sleep(delay)
                    continue
            except Exception as failure:
                error = failure
            return await self._close_scan(scan, error, attempt), error

    async def _close_scan(self, scan: Scan, error: Exception | None, attempts: int) -> ScanReport:
        period = self.schedule.period
        report = scan.report(error, attempts=attempts, next_run=_from_now(period) if period else None)
        self._last[report.table] = report
        with suppress(RetlError):  # the history is for people; the checkpoint is safe already
            await self._store.add_report(report)
        kind = event_types.ScanFailed if error else event_types.ScanFinished
        self._emit(kind(pipeline=self.name, at=now_text(), report=report))
        if error is not None and not isinstance(error, RetlError):
            _log.error("unexpected error in a scan", pipeline=self.name, table=report.table, exc_info=error)
        return report

    async def _specs(self, errors: list[Exception] | None = None) -> list[TableSpec]:
        """The concrete tables, as of now. With ``errors`` a table that cannot be resolved does not hide the others."""
        specs: list[TableSpec] = []
        offered: list[str] | None = None
        for number, table in enumerate(self._tables):
            try:
                if table.match is None:
                    if number not in self._resolved:
                        assert table.name is not None
                        self._resolved[number] = await self._resolve(table, table.name)
                    specs.append(self._resolved[number])
                    continue
                if offered is None:
                    offered = await self._source.list_tables()
                named = {other.name for other in self._tables if other.match is None} | {spec.name for spec in specs}
                found = [name for name in matching(table.match, offered) if name not in named]
                if not found and not any(spec.name in matching(table.match, offered) for spec in specs):
                    raise ConfigError(
                        f"no table of the source matches {table.match!r}.",
                        remedy="see `retl tables` for what there is.",
                    )
                specs.extend([await self._resolve(table, name) for name in found])
            except RetlError as error:
                error.located(pipeline=self.name, table=table.name or table.match or "")
                if errors is None:
                    raise
                errors.append(error)
        _check_targets(specs)
        return specs

    async def _resolve(self, table: Table, name: str) -> TableSpec:
        inherited = self._defaults.cursor or None
        if table.cursor is None and inherited is not None and table.query is None:
            schema = await self._source.describe(name)
            if schema is not None and not schema.has(inherited):
                inherited = None
        return resolve(table, name, self._defaults, self._blacklist, inherited_cursor=inherited)

    # While it runs ----------------------------------------------------------

    def trigger(self) -> None:
        """Run now, also while paused. During a run: once more after it; several triggers are one."""
        self._triggered = True
        self._wake.set()

    def pause(self) -> None:
        """Start no further run on schedule. A run that is under way is finished."""
        self._paused = True
        self._wake.set()

    def resume(self) -> None:
        """Go on with the schedule; ticks missed meanwhile are one."""
        self._paused = False
        self._wake.set()

    def stop(self, *, finish_slice: bool = True) -> None:
        """End ``run_forever`` or ``run_once`` soon.

        With ``finish_slice`` the slice under way is committed first; without, it is
        abandoned and read again by the next run. Nothing is lost either way.
        """
        self._stop.requested = True
        if not finish_slice and self._run_scope is not None:
            self._run_scope.cancel()
        self._wake.set()

    def subscribe(self, listener: Callable[[event_types.Event], None]) -> Callable[[], None]:
        """Call ``listener`` with every event, in the event loop; it must not block. Returns what ends it."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            with suppress(ValueError):
                self._listeners.remove(listener)

        return unsubscribe

    async def events(self) -> AsyncIterator[event_types.Event]:
        """The events from now on, until the pipeline stops. A slow reader misses the oldest beyond 1,000."""
        queue: deque[event_types.Event] = deque(maxlen=_KEPT_EVENTS)
        arrived = anyio.Event()

        def listen(event: event_types.Event) -> None:
            queue.append(event)
            arrived.set()

        unsubscribe = self.subscribe(listen)
        try:
            while True:
                while queue:
                    event = queue.popleft()
                    yield event
                    if isinstance(event, event_types.PipelineStopped):
                        return
                arrived = anyio.Event()
                await arrived.wait()
        finally:
            unsubscribe()

    async def status(self) -> PipelineStatus:
        """The pipeline as it stands, with what the state store knows of earlier runs and other processes."""
        checkpoints = await self._store.load(self.name)
        rejects = await self._store.count_rejects(self.name)
        lease = await self._store.read_lease(self.name)
        last = {report.table: report for report in reversed(await self._store.reports(self.name, limit=200))}
        last.update(self._last)
        known = list(dict.fromkeys([*(table.name for table in self._tables if table.name), *last, *checkpoints]))
        now = datetime.now(UTC)
        tables = [
            self._table_status(name, checkpoints.get(name), last.get(name), rejects.get(name, 0), now) for name in known
        ]
        latest = max(last.values(), key=lambda report: report.started_at, default=None)
        return PipelineStatus(
            pipeline=self.name,
            state=self._state,
            schedule=self.schedule.describe(),
            owner=_owner(lease.owner) if lease.owner else None,
            last_run=self._last_run or (latest.started_at if latest else None),
            next_run=self._next_run or (latest.next_run if latest and lease.owner else None),
            tables=tuple(tables),
        )

    def _table_status(
        self, name: str, checkpoint: Checkpoint | None, last: ScanReport | None, rejects: int, now: datetime
    ) -> TableStatus:
        watermark = checkpoint.watermark if checkpoint else None
        family: CursorFamily | None = None
        if watermark is not None:
            family = "date" if len(watermark) == 10 and watermark[4:5] == "-" else "time" if ":" in watermark else None
        lag = age(watermark, family, now) if watermark is not None and family is not None else None
        scan = self._scans.get(name)
        spec = next((spec for spec in self._resolved.values() if spec.name == name), None)
        return TableStatus(
            table=name,
            to=spec.to if spec else last.to if last else name,
            watermark=watermark,
            lag=lag.total_seconds() if lag is not None else None,
            rejects=rejects,
            last=last,
            progress=scan.progress() if scan is not None and self._state == "scanning" else None,
        )

    # What is remembered -----------------------------------------------------

    async def history(self, table: str | None = None, limit: int = 20) -> list[ScanReport]:
        """The reports of past scans, newest first."""
        return await self._store.reports(self.name, table, limit)

    async def rejects(self, table: str | None = None, limit: int = 1000) -> list[Reject]:
        """The rows that the target refused, newest first."""
        return await self._store.rejects(self.name, table, limit)

    async def clear_rejects(self, table: str | None = None) -> int:
        """Forget refused rows; returns how many there were."""
        return await self._store.clear_rejects(self.name, table)

    async def reset(self, table: str | None = None) -> int:
        """Forget the checkpoint of a table, or of all: the next scan reads everything. Returns how many there were.

        Raises ``TargetBusy`` where another process runs the pipeline.
        """
        with self._running():
            try:
                if await self._lease.take_unless_alive() is None:
                    raise TargetBusy(
                        f"the pipeline is being run by {_owner(self._lease.holder)}.",
                        remedy="stop it there first.",
                        pipeline=self.name,
                    )
                return await self._store.forget(self.name, table)
            finally:
                await self._let_go()

    async def aclose(self) -> None:
        """Close every connection. ``run_once`` and ``run_forever`` may be called again afterwards."""
        await to_the_end(self._close())

    async def _close(self) -> None:
        async with AsyncExitStack() as closing:  # each of them, also where another one fails
            closing.push_async_callback(self._store.aclose)
            closing.push_async_callback(self._target.aclose)
            closing.push_async_callback(self._source.aclose)

    async def __aenter__(self) -> Pipeline:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    # Inside -----------------------------------------------------------------

    def _running(self) -> Any:
        return _Busy(self)

    async def _release(self) -> None:
        await to_the_end(self._let_rest())

    async def _let_rest(self) -> None:
        await self._source.release()
        await self._target.release()

    async def _let_go(self) -> None:
        """After a run: nothing stays open, and the next owner need not wait."""
        self._state = "stopped"
        self._next_run = None
        await to_the_end(self._give_up())

    async def _give_up(self) -> None:
        await self._lease.give_up()
        await self._close()

    async def _sleep(self, seconds: float | None) -> None:
        """Sleep until something wants attention, at most so long."""
        if self._stop.requested:
            return
        with anyio.move_on_after(seconds):
            await self._wake.wait()
        if self._wake.is_set():
            self._wake = anyio.Event()

    def _emit(self, event: event_types.Event) -> None:
        if not self._listeners:
            _log_failure(event)
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception as error:
                _log.error("a listener of a pipeline's events failed", pipeline=self.name, exc_info=error)


class _Busy:
    """Holds a pipeline for one run at a time."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def __enter__(self) -> None:
        if self._pipeline._busy:
            raise ConfigError(
                "the pipeline is running already.",
                remedy="use trigger() to run now, or another Pipeline object under another name.",
                pipeline=self._pipeline.name,
            )
        self._pipeline._busy = True
        self._pipeline._stop.requested = False

    def __exit__(self, *exception: object) -> None:
        self._pipeline._busy = False


def _log_failure(event: event_types.Event) -> None:
    """Where nobody listens, failures are still logged: an error must never pass in silence."""
    if isinstance(event, event_types.ScanFailed):
        _log.error("scan failed", pipeline=event.pipeline, table=event.report.table, error=event.report.error)
    elif isinstance(event, event_types.RunFailed):
        _log.error("run failed", pipeline=event.pipeline, error=event.error)
    elif isinstance(event, event_types.Warned):
        _log.warning(event.message, pipeline=event.pipeline, table=event.table)


def _check_targets(specs: Sequence[TableSpec]) -> None:
    seen: dict[str, str] = {}
    for spec in specs:
        other = seen.setdefault(spec.to, spec.name)
        if other is not spec.name:
            raise ConfigError(
                f"the tables {other!r} and {spec.name!r} would both be written to {spec.to!r}.",
                remedy="give one of them another name with to.",
            )


def _no_store(name: str, target: Target) -> StateStore:
    raise ConfigError(
        f"the target ({target.system}) has no place for checkpoints, and the pipeline has no state store.",
        remedy='give it state=retl.SqliteStore("retl-state.db"), or retl.MemoryStore() where starting over with each process is right.',
        pipeline=name,
    )


def _word(kind: Any, value: Any, what: str) -> Any:
    if value is None:
        return None
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(f"{what} is {value!r}.", remedy="use one of " + ", ".join(kind) + ".") from None


def _owner(owner: str | None) -> str:
    if not owner:
        return "another process"
    host, pid = [*owner.split("/"), ""][:2]
    return f"process {pid} on {host}" if pid else owner


def _from_now(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")
