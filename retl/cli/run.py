"""``retl run``: pipelines side by side, until they are done or a signal comes."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import anyio
import structlog
from anyio.abc import TaskStatus

from retl.cli.exit_codes import FAILED, INTERRUPTED, USAGE, exit_code, worst
from retl.cli.fan_out import having, selected
from retl.cli.listen import Address, listening, parse_address
from retl.cli.output import Output, make_output
from retl.model import events
from retl.model.duration import parse_duration
from retl.model.errors import ConfigError, RetlError
from retl.pipeline import Pipeline


def run(arguments: argparse.Namespace) -> int:
    """Run the selected pipelines; returns the exit code."""
    if arguments.table and not arguments.once:
        raise ConfigError("--table is for a single run.", remedy="add --once, or give the table a pipeline of its own.")
    pipelines = having(selected(arguments), arguments.table)
    grace = parse_duration(arguments.grace, what="--grace").total_seconds()
    address = parse_address(arguments.listen) if arguments.listen else None
    with _bugs_on_stderr(), make_output(arguments.log_format) as output:
        runner = _Runner(pipelines, output, once=arguments.once, tables=arguments.table, grace=grace)
        return anyio.run(runner.run, address)


@contextmanager
def _bugs_on_stderr() -> Iterator[None]:
    """Send the library's own log (bugs, and listeners that fail) to stderr, apart from the output."""
    if structlog.is_configured():
        yield
        return
    # A traceback without the values of variables: one of them may be a password.
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[*structlog.get_config()["processors"][:-1], renderer],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        yield
    finally:
        structlog.reset_defaults()


class _Runner:
    """Runs pipelines in one task group; a failure of one does not end the others."""

    def __init__(
        self, pipelines: Sequence[Pipeline], output: Output, *, once: bool, tables: Sequence[str], grace: float
    ) -> None:
        self._pipelines = pipelines
        self._output = output
        self._once = once
        self._tables = tables
        self._grace = grace
        self._signals = 0
        self._codes: set[int] = set()

    async def run(self, address: Address | None) -> int:
        async with listening(address, self._pipelines, self._output.info):
            return await self._run()

    async def _run(self) -> int:
        async with anyio.create_task_group() as outer:
            await outer.start(self._heed_signals)
            async with anyio.create_task_group() as inner:
                for pipeline in self._pipelines:
                    pipeline.subscribe(self._listen, logs=True)
                    inner.start_soon(self._run_one, pipeline)
            outer.cancel_scope.cancel()
        # A schedule ends well when a signal ends it; a single run that ends early was interrupted.
        if self._signals > 1 or (self._signals and self._once):
            return INTERRUPTED
        return worst(self._codes)

    async def _run_one(self, pipeline: Pipeline) -> None:
        if self._signals:
            return
        try:
            if self._once:
                own = [name for name in self._tables if pipeline.declares(name)]
                await pipeline.run_once(tables=own or None, check=False)
            else:
                await pipeline.run_forever()
        except RetlError as error:
            self._codes.add(exit_code(error))
            self._output.error(error)

    def _listen(self, event: events.Event) -> None:
        self._output.show(event)
        if not self._once:
            return  # a schedule that goes on has not failed
        if isinstance(event, events.ScanFailed):
            self._codes.add(FAILED)
        elif isinstance(event, events.RunFailed):
            self._codes.add(USAGE if event.error_type in ("ConfigError", "UnsupportedError") else FAILED)

    async def _heed_signals(self, *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                self._signals += 1
                if self._signals == 1:
                    self._output.info("stopping after the slice under way; once more abandons it")
                for pipeline in self._pipelines:
                    pipeline.stop(grace=0 if self._signals > 1 else self._grace)
