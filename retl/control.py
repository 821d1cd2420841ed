"""What a service asks of a pipeline besides running it: steer it, listen to it, and look up what is remembered."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress

from retl.engine.arguments import in_context
from retl.engine.asking import Asking
from retl.engine.preflight import Preflight, TablePlan
from retl.engine.status import snapshot_of
from retl.engine.wanted import wanted_range, wanted_tables
from retl.lifetime import Lifetime
from retl.model import events as event_types
from retl.model.backfills import BackfillStatus
from retl.model.checkpoint import Reject
from retl.model.duration import Duration, parse_duration
from retl.model.errors import TransientError
from retl.model.range import Bound, CursorRange
from retl.model.report import ScanReport
from retl.model.status import Snapshot
from retl.state.base import StateStore


class Control(Lifetime):
    """The part of a ``Pipeline`` that may be used while it runs."""

    _store: StateStore
    _stop_waits: bool

    # While it runs ----------------------------------------------------------

    @property
    def declared(self) -> list[str]:
        """The tables and patterns that the pipeline was declared with."""
        return [table.name or table.match or "" for table in self._config.tables.declared]

    def declares(self, table: str) -> bool:
        """Whether the pipeline has a table of this name in the source, declared by its name or by a pattern."""
        return self._config.tables.declares(table)

    def trigger(self, *tables: str) -> None:
        """Scan every table now, or those of these names (in the source); also while paused.

        During a run: once more after it; several triggers are one. Raises ``ConfigError`` for a name that
        the pipeline does not have.
        """
        with in_context(self.name):
            self._runner.trigger(wanted_tables(self._config.tables, tables or None))

    def pause(self) -> None:
        """Start no further run on schedule. A run that is under way is finished."""
        self._runner.pause()

    def resume(self) -> None:
        """Go on with the schedule; missed ticks count as one."""
        self._runner.resume()

    def stop(self, *, grace: Duration | None = None) -> None:
        """End ``run_forever`` or ``run_once`` soon.

        The slice under way is committed first. With ``grace`` it has that long; then it is
        abandoned, and read again by the next run: whatever hangs, the run ends within a second
        of that. ``grace=0`` abandons it at once, and takes up to five to clean up. Nothing is lost.

        While nothing runs it is kept for the next ``run_forever``, which then ends at once:
        a task that has been started, but has not begun yet, ends too.
        """
        seconds = None if grace is None else parse_duration(grace, what="grace").total_seconds()
        if self._busy:
            self._runner.stop(grace=seconds)
        else:
            self._stop_waits = True
            self._bus.end()

    def subscribe(
        self, listener: Callable[[event_types.Event], Awaitable[None] | None], *, logs: bool = False
    ) -> Callable[[], None]:
        """Call ``listener`` with every event, in the event loop; call the result to unsubscribe.

        A plain function must not block. An async one gets the events one after the other, and misses the oldest beyond
        1,000. What a listener raises is logged. ``logs`` says that it logs the events, so that retl need not.
        """
        return self._bus.subscribe(listener, logs=logs)

    def events(self) -> AsyncIterator[event_types.Event]:
        """The events from this call on, until ``run_forever`` ends, or ``stop`` or ``aclose`` is called while nothing runs.

        A slow reader misses the oldest beyond 1,000. ``run_once`` does not end it: leave the loop by yourself.
        """
        return self._bus.stream()

    def end_events(self) -> None:
        """End every stream of ``events`` that is open; the pipeline goes on. For a service that begins its shutdown.

        ``retl.running`` does it at the signal that ends the service.
        """
        self._bus.end()

    def after_fork(self) -> None:
        """Called in a forked process: nothing runs there."""
        self._busy, self._looks = False, 0
        self._runner.after_fork()

    def snapshot(self) -> Snapshot:
        """The pipeline as this process knows it: from memory, at once, never failing. For probes and metrics."""
        return snapshot_of(self._config, self._runner)

    # Backfills, in whichever process owns it -----------------------------------

    @property
    def _asking(self) -> Asking:
        return Asking(self._store, self.name, sent=self._runner.hear_soon)

    async def plan_backfill(self, table: str, *, since: Bound | None = None, until: Bound | None = None) -> TablePlan:
        """What ``backfill`` would do: the window, the slices, the SQL. Writes nothing. Raises the error that it would end in."""
        async with self._looking():
            return await Preflight(self._config).backfill(wanted_range(self._config.tables, table, since, until))

    async def send_backfill(
        self, table: str, *, since: Bound | None = None, until: Bound | None = None
    ) -> BackfillStatus:
        """Have the owner of the pipeline, whichever process that is, read a range of a table's cursor again; returns at once.

        The range is that of ``backfill``. It lies beside the lease in the state store until it has ended: the owner begins
        it with its next sign of life, beside its schedule and also while it is paused, and its successors go on behind the
        last slice that was committed. Where no process owns the pipeline, the next one that runs its schedule begins it.
        ``follow_backfill`` waits for its end; ``backfills`` and ``status`` tell how far it is.
        What may pass is tried again, until it was begun eight times and got no further; any other error ends it as failed.

        Raises ``ConfigError`` for what the plan shows to be impossible, before anything is sent, and ``TargetBusy``
        where another range of the table was sent and has not ended. The same range is not sent twice: its status is returned.
        """
        async with self._looking():
            wanted = wanted_range(self._config.tables, table, since, until)
            with suppress(TransientError):  # the owner may reach what this process does not
                await Preflight(self._config).backfill(wanted)
            return await self._asking.send(table, wanted.range or CursorRange())

    async def cancel_backfill(self, table: str) -> BackfillStatus:
        """End the backfill of a table that was sent and has not ended. The slices that were committed stay.

        Waits until the process that runs it has heard; where none does, it is cancelled at once. The same range, sent again, goes on behind
        the last slice that was committed. Raises ``ConfigError`` where there is none.
        """
        async with self._looking():
            wanted_tables(self._config.tables, [table])
            return await self._asking.cancel(table)

    async def follow_backfill(self, sent: BackfillStatus) -> AsyncGenerator[BackfillStatus, None]:
        """How a backfill stands that was sent: now, and with each change, until it has ended."""
        async with self._looking(), aclosing(self._asking.follow(sent)) as further:
            async for found in further:
                yield found

    async def backfills(self) -> list[BackfillStatus]:
        """The backfills that were sent to the owner, in their order: all that have not ended, and the last ones that have."""
        async with self._looking():
            return await self._asking.all()

    # What is remembered -----------------------------------------------------

    async def history(self, table: str | None = None, limit: int = 20) -> list[ScanReport]:
        """The reports of past scans, newest first."""
        async with self._looking():
            return await self._store.reports(self.name, table, limit)

    async def rejects(self, table: str | None = None, limit: int = 1000) -> list[Reject]:
        """The rows that the target rejected, newest first."""
        async with self._looking():
            return await self._store.rejects(self.name, table, limit)

    async def count_rejects(self, table: str | None = None) -> int:
        """How many rejects are kept."""
        async with self._looking():
            counts = await self._store.count_rejects(self.name)
        return sum(counts.values()) if table is None else counts.get(table, 0)

    async def clear_rejects(self, table: str | None = None) -> int:
        """Forget rejects; returns how many there were."""
        async with self._looking():
            return await self._store.clear_rejects(self.name, table)
