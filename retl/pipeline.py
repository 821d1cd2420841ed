"""``Pipeline``: declare what to sync; check it, plan it, run it once or for ever."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import anyio
from anyio.abc import TaskStatus

from retl.alerts import sender_of
from retl.connectors.base import Connector, Source, Target
from retl.connectors.documents.embeddings.target import EmbeddingTarget
from retl.connectors.documents.source import ChunkedSource
from retl.control import Control
from retl.engine.arguments import (
    ABANDONED,
    check_count,
    check_name,
    check_side,
    in_context,
    listed,
    no_store,
    once,
    opened,
    word_of,
)
from retl.engine.bus import EventBus
from retl.engine.config import KEEP_REJECTS, PARALLEL_TABLES, PipelineConfig
from retl.engine.context import DEFAULT_TTL, Limits, now
from retl.engine.hooks import checked_hooks
from retl.engine.lease import parse_lease_ttl
from retl.engine.preflight import Finding, Preflight, TablePlan
from retl.engine.runner import Runner
from retl.engine.stall import STALL_TIMEOUT, parse_stall_timeout
from retl.engine.status import pipeline_status
from retl.engine.steering import parse_command, send
from retl.engine.tables import Tables
from retl.engine.targets import adopted
from retl.engine.timetable import make_timetable
from retl.engine.wanted import Wanted, wanted_range, wanted_tables
from retl.model import events as event_types
from retl.model.actions import PreAction, Write, parse_actions
from retl.model.alerts import Alert
from retl.model.duration import Duration, parse_duration
from retl.model.hooks import Hooks
from retl.model.options import LostTarget, NewColumns, NullCursor, PreActionWord, TableOptions, WriteWord
from retl.model.range import Bound
from retl.model.report import RunReport
from retl.model.status import PipelineStatus
from retl.model.steering import CommandWord, Sent
from retl.model.table import Table
from retl.state.base import StateStore
from retl.threads import renew_after_fork

__all__ = ["Finding", "Pipeline", "TablePlan"]


class Pipeline(Control):
    """One source, one target, some tables and a schedule.

    What is given here for tables (``cursor``, ``lookback`` ...) holds for every table, unless
    the table says otherwise; ``cursor`` only for those that have such a column.

    Checkpoints and the lease live inside the target where it has transactions, so that
    data and checkpoint are one commit; else in ``state``, which must then be given:
    ``retl.MemoryStore()`` where losing the watermark with the process is acceptable.

    Raises ``ConfigError`` for words that do not fit together. Nothing is opened before
    the first method is awaited. A pipeline is used from one event loop.

    Args:
        name: Identifies the pipeline in its state store, where its checkpoints and its lease are.
        source: Where rows come from: one of ``retl.connectors``, or a ``Source`` of your own.
        target: Where they go: one of ``retl.connectors``, or a ``Target`` of your own.
        tables: What is copied, each a ``Table`` or just its name.
        interval: Seconds, or text such as ``"5m"``, from the start of one run to that of the next.
        cron: The times of runs instead, as five fields: ``"0 3 * * *"``. Without either, runs begin by ``trigger`` alone.
        timezone: The zone of ``cron``, such as ``"Europe/Prague"``. UTC when unset.
        jitter: How much later it may begin, so that not all do at once: a twentieth of the interval when unset, at most 3 seconds.
        blacklist: Actions that are never done to the target, such as ``"DROP"``. What needs one is refused before it begins.
        state: Where checkpoints are kept instead of in the target.
        cursor: The column that tells what is new. Without one, tables are read in full.
        lookback: How far before the last value of the cursor each scan begins, for rows that were committed late.
        settle: How old a row has to be by its cursor before it is read.
        null_cursor: What becomes of rows without a value of the cursor.
        pre_action: What happens to the target's table before a full load, such as ``"swap"``.
        keep_archives: How many of the replaced tables stay, under ``rename_and_create``.
        max_shrink: By how much a replaced table may shrink, as a share (``"20%"``) before the scan is stopped.
        max_rejects: How many rows of a scan may be rejected, as a number or a share, before it fails.
        lost_target: What happens where the target's table is empty or gone although rows were written to it.
        write: ``"upsert"`` by key, or ``"append"``.
        new_columns: What happens where the source has a column that the target lacks.
        slice_rows: About how many rows are one transaction.
        parallel_tables: How many tables are scanned at once, where the target takes several writers.
        keep_rejects: How long rejected rows are remembered.
        lease_ttl: After how long without a sign of life another process takes over.
        stall_timeout: After how long without an answer or a row a scan is given up, and tried again. 0: never.
        channel_bytes: How many bytes wait between reader and writer, at most, in each scan.
        alerts: Who is told what, and when.
        hooks: What of yours is called around runs and scans.
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
        jitter: Duration | None = None,
        blacklist: Iterable[str] = (),
        state: StateStore | None = None,
        cursor: str | None = None,
        lookback: Duration | None = None,
        settle: Duration | None = None,
        null_cursor: NullCursor | None = None,
        pre_action: PreActionWord | None = None,
        keep_archives: int | None = None,
        max_shrink: str | float | None = None,
        max_rejects: int | str | None = None,
        lost_target: LostTarget | None = None,
        write: WriteWord | None = None,
        new_columns: NewColumns | None = None,
        slice_rows: int | None = None,
        parallel_tables: int = PARALLEL_TABLES,
        keep_rejects: Duration = KEEP_REJECTS,
        lease_ttl: Duration = DEFAULT_TTL,
        stall_timeout: Duration = STALL_TIMEOUT,
        channel_bytes: int = Limits.channel_bytes,
        alerts: Sequence[Alert] = (),
        hooks: Hooks | None = None,
    ) -> None:
        self.name = check_name(name)
        """What identifies it in its state store."""
        with in_context(self.name):
            check_count("channel_bytes", channel_bytes, "a whole number of bytes, at least 1")
            check_count("parallel_tables", parallel_tables, "a whole number, at least 1")
            ttl, stall = parse_lease_ttl(lease_ttl), parse_stall_timeout(stall_timeout)
            keep = parse_duration(keep_rejects, what="keep_rejects")
            defaults = TableOptions(
                cursor=cursor,
                lookback=lookback,
                settle=settle,
                null_cursor=null_cursor,
                pre_action=word_of(PreAction, pre_action, "pre_action"),
                keep_archives=keep_archives,
                max_shrink=max_shrink,
                max_rejects=max_rejects,
                lost_target=lost_target,
                write=word_of(Write, write, "write"),
                new_columns=new_columns,
                slice_rows=slice_rows,
            )
            senders = tuple((alert, sender_of(alert)) for alert in alerts)
            actions = parse_actions(listed("blacklist", blacklist))
            declared = [Table(table) if isinstance(table, str) else table for table in listed("tables", tables)]
            self._source = opened(source, source.source) if isinstance(source, Connector) else source
            self._target = opened(target, target.target) if isinstance(target, Connector) else target
            check_side(self._source, Source, "source", "IteratorSource")
            check_side(self._target, Target, "target", "FunctionTarget")
            self._source, self._target = _with_documents(self._source, self._target, declared)
            self.hooks = checked_hooks(hooks, self._source, self._target)
            self._tables = Tables(name, declared, defaults, actions, self._source, self._target)
            timetable = make_timetable(name, declared, interval=interval, cron=cron, timezone=timezone, jitter=jitter)
            self.schedule = timetable.schedule
            """When it runs; tables may have schedules of their own."""
            inside = self._target.state_store() if state is None else None
            self._store: StateStore = state or inside or no_store(self._target)
        self._config = PipelineConfig(
            name=name,
            source=self._source,
            target=self._target,
            tables=self._tables,
            timetable=timetable,
            store=self._store,
            state_in_target=inside is not None,
            blacklist=actions,
            limits=Limits(channel_bytes=channel_bytes),
            lease_ttl=ttl,
            stall_timeout=stall,
            parallel_tables=parallel_tables,
            keep_rejects=keep,
            alerts=senders,
            hooks=self.hooks,
        )
        self._bus = EventBus()
        self._runner = Runner(self._config, self._bus)
        self._busy, self._looks = False, 0
        renew_after_fork(self)
        self._stop_waits = False

    def __repr__(self) -> str:
        return f"<Pipeline {self.name!r} {self._source.system} -> {self._target.system}, {self.schedule.describe()}>"

    # Before a run -----------------------------------------------------------

    async def check(self) -> list[Finding]:
        """Test both connections and look at every table, as a preflight. Writes nothing and never raises ``RetlError``."""
        async with self._looking():
            return await Preflight(self._config).check()

    async def plan(self, *, errors: list[Exception] | None = None) -> list[TablePlan]:
        """What the next scan of every table would do: windows, SQL, DDL, casts. Writes nothing.

        Raises the ``RetlError`` that the scan itself would end in, where it can be known.
        With ``errors``, a list of yours, a table that cannot be planned does not hide the
        others: its error is appended there, and the plans of the others are returned. What
        concerns them all, such as a system that does not answer, is raised all the same.
        """
        async with self._looking():
            return await Preflight(self._config).plans(errors)

    async def tables(self) -> list[str]:
        """The tables that the source offers, sorted."""
        async with self._looking():
            return await self._source.list_tables()

    # Runs -------------------------------------------------------------------

    async def run_once(self, *, tables: Iterable[str] | None = None, check: bool = True) -> RunReport:
        """Scan every table once, now, or those that ``tables`` names; return what came of it.

        Waits for a lease whose owner has died; raises ``TargetBusy`` where another process
        runs this pipeline, and ``ConfigError`` for a name that the pipeline does not have.
        A table that fails does not stop the others; afterwards the first error is raised,
        unless ``check`` is false and the reports alone should tell.
        """
        with in_context(self.name):
            wanted = wanted_tables(self._config.tables, tables)
        return await self._once(wanted, check=check)

    async def backfill(
        self, table: str, *, since: Bound | None = None, until: Bound | None = None, check: bool = True
    ) -> RunReport:
        """Read a range of a table's cursor again, now: the rows with ``since <= cursor < until``, as they are at the source.

        Both ends are values of the cursor (a datetime, a date, a whole number, or text as the source writes it); an
        end that is left out is open. A time without a zone is in that of the cursor's values. The rows are
        upserted slice by slice, each with how far the backfill is; the watermark stays where it is. A backfill that
        was interrupted goes on, when the same one is asked for again, where it stopped. Deletes do not follow.
        While ``run_forever`` runs, it goes on beside that, and the table is scanned by one of them at a time.

        Raises ``ConfigError`` for a table without a cursor, or whose rows it would double; ``TargetBusy`` where
        another process runs this pipeline, which ``send_backfill`` reaches, or where one of the table was sent that has
        not ended; and the error that it ended in, unless ``check`` is false.
        """
        with in_context(self.name):
            wanted = wanted_range(self._config.tables, table, since, until)
        return await self._once(wanted, check=check)

    async def _once(self, wanted: Wanted, *, check: bool) -> RunReport:
        beside = wanted.range is not None and self._busy and self._runner.serving
        with in_context(self.name):
            report, errors = await (self._runner.asked.beside(wanted) if beside else self._alone(wanted))
            if errors and check:
                raise errors[0]
        return report

    async def _alone(self, wanted: Wanted) -> tuple[RunReport, list[Exception]]:
        report, errors = RunReport(self.name, (), (ABANDONED,)), list[Exception]()
        with self._running() as grace:
            try:
                with self._runner.ending.whole():
                    report, errors = await self._runner.once(wanted)
            finally:
                await self._let_go(grace)
        return report, errors

    async def run_forever(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run on schedule until ``stop`` is called or the task is cancelled.

        Errors never end it: transient ones are tried again within the interval, with
        backoff and jitter; permanent ones are reported and the schedule goes on. Where
        another process owns the pipeline this one stands by and takes over when the
        other stops or dies. Raises ``ConfigError`` at once, before the first scan, for a
        declaration that can never work; what turns out to be wrong later is reported.

        ``await tasks.start(pipeline.run_forever)`` returns once it is past that. See ``retl.running``.
        """
        with self._running() as grace:
            if self._stop_waits:
                self._stop_waits = False
                self._runner.stop()
            started = event_types.PipelineStarted(
                pipeline=self.name, at=now(), schedule=self._config.timetable.describe()
            )
            self._bus.emit(started)
            try:
                with self._runner.ending.whole():
                    async with self._runner.alerts.keeping():
                        await self._runner.forever(once(task_status.started))
            finally:
                try:
                    await self._let_go(grace)
                finally:
                    self._bus.emit(event_types.PipelineStopped(pipeline=self.name, at=now()))
            await self._bus.settle()

    async def send(self, command: CommandWord, table: str | None = None, *, grace: Duration | None = None) -> Sent:
        """Have the owner of the pipeline, whichever process that is, ``trigger``, ``pause``, ``resume`` or ``stop``.

        The command lies beside the lease in the state store until the owner's next sign of life, after a third of its
        ``lease_ttl`` or ten seconds; this waits for that, for three of them at most. A pause holds for every owner until it is
        resumed, and may be sent where none lives. A trigger and a stop are for the owner of this moment alone: one
        that it has not heard is withdrawn, and no successor obeys it. Where this object is the owner it acts at once.
        """
        seconds = parse_command(command, table, grace)
        with in_context(self.name):
            wanted_tables(self._config.tables, None if table is None else [table])
            if self._busy and self._runner.lease.fence is not None:
                return self._runner.obey(command, table, seconds)
            async with self._looking():
                return await send(self._store, self.name, command, table, grace=seconds)

    # What is remembered -----------------------------------------------------

    async def status(self, *, check: bool = False) -> PipelineStatus:
        """The snapshot, with what the state store knows if it answers in time; ``check`` raises its error instead."""
        async with self._looking():
            return await pipeline_status(self._config, self._runner, check=check)

    async def reset(self, table: str | None = None) -> int:
        """Forget the checkpoint of a table, or of all: the next scan reads everything. Returns how many there were.

        Raises ``TargetBusy`` where another process runs the pipeline.
        """
        with self._running() as grace:
            try:
                await self._runner.take_lease()
                await self._store.release_claims(self.name, table)
                return await self._store.forget(self.name, table)
            finally:
                await self._let_go(grace)

    async def adopt(self, table: str | None = None) -> list[str]:
        """Take over the target tables of a table, or of all, from other pipelines; returns the names of those.

        For a pipeline that was renamed, or that takes the place of another: a table that one of
        two pipelines replaces is refused to the second. Raises ``TargetBusy`` where another
        process runs this pipeline.
        """
        with self._running() as grace, in_context(self.name):
            try:
                fence = await self._runner.take_lease()
                return sorted(await adopted(self._config, fence, table))
            finally:
                await self._let_go(grace)


def _with_documents(source: Source, target: Target, tables: Iterable[Table]) -> tuple[Source, Target]:
    """The source and the target as the tables need them; what no table asks for is left as it is."""
    if any(getattr(table, "chunks", None) is not None for table in tables):
        source = ChunkedSource(source)
    if any(getattr(table, "embeddings", None) is not None for table in tables):
        target = EmbeddingTarget(target)
    return source, target
