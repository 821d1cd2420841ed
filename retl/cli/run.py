"""``retl run``: pipelines side by side, until they are done or a signal comes."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import anyio
import structlog
from anyio.abc import TaskStatus

from retl.cli.changes import Changes
from retl.cli.exit_codes import FAILED, INTERRUPTED, OK, USAGE, exit_code, worst
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
    if arguments.watch and arguments.once:
        raise ConfigError("--watch is for pipelines that go on.", remedy="leave out --once.")
    changes = None if arguments.once else Changes(arguments.jobs, arguments.only, watch=arguments.watch)
    pipelines = having(selected(arguments), arguments.table) if changes is None else changes.selected()
    address = parse_address(arguments.listen) if arguments.listen else None
    tables: list[str] = arguments.table

    async def once(pipeline: Pipeline) -> None:
        own = [name for name in tables if pipeline.declares(name)]
        await pipeline.run_once(tables=own or None, check=False)

    return run_pipelines(pipelines, arguments, once if arguments.once else None, changes, address)


def run_pipelines(
    pipelines: Sequence[Pipeline],
    arguments: argparse.Namespace,
    once: Callable[[Pipeline], Awaitable[None]] | None,
    changes: Changes | None = None,
    address: Address | None = None,
) -> int:
    """Do something with each of them once, or run them on schedule; signals stop it. Returns the exit code."""
    grace = parse_duration(arguments.grace, what="--grace").total_seconds()
    with _bugs_on_stderr(), make_output(arguments.log_format) as output:
        return anyio.run(_Runner(pipelines, output, once, grace=grace).run, changes, address)


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
        self,
        pipelines: Sequence[Pipeline],
        output: Output,
        once: Callable[[Pipeline], Awaitable[None]] | None,
        *,
        grace: float,
    ) -> None:
        self._output = output
        self._once = once
        self._grace = grace
        self._signals = 0
        self._codes: dict[str, int] = {}
        self._wanted = {pipeline.name: pipeline for pipeline in pipelines}
        self._running: dict[str, tuple[Pipeline, anyio.Event]] = {}
        """What runs, and what is told when it has ended. A pipeline that was changed may still finish its slice."""

    async def run(self, changes: Changes | None, address: Address | None) -> int:
        async with listening(address, self._wanted, self._output.info) as self._counted:
            return await self._run(changes)

    async def _run(self, changes: Changes | None) -> int:
        async with anyio.create_task_group() as outer:
            await outer.start(self._heed_signals)
            async with anyio.create_task_group() as self._group:
                if changes is not None:
                    await outer.start(changes.follow, self._take_up, self._stop)
                for pipeline in self._wanted.values():
                    self._start(pipeline)
            outer.cancel_scope.cancel()
        # A schedule ends well when a signal ends it; a single run that ends early was interrupted.
        if self._signals > 1 or (self._signals and self._once):
            return INTERRUPTED
        return worst(self._codes.values())

    def _start(self, pipeline: Pipeline) -> None:
        self._codes.pop(pipeline.name, None)
        self._running[pipeline.name] = pipeline, anyio.Event()
        self._group.start_soon(self._run_one, pipeline)

    async def _run_one(self, pipeline: Pipeline) -> None:
        unsubscribe = pipeline.subscribe(self._listen, logs=True)
        try:
            if self._signals:
                return
            if self._once is not None:
                await self._once(pipeline)
            else:
                await pipeline.run_forever()
        except RetlError as error:
            self._count(pipeline.name, exit_code(error))
            self._output.error(error)
        finally:
            unsubscribe()
            self._running.pop(pipeline.name)[1].set()

    def _count(self, name: str, code: int) -> None:
        self._codes[name] = worst((self._codes.get(name, OK), code))

    def _listen(self, event: events.Event) -> None:
        self._output.show(event)
        if not self._once:
            return  # a schedule that goes on has not failed
        if isinstance(event, events.ScanFailed):
            self._count(event.pipeline, FAILED)
        elif isinstance(event, events.RunFailed):
            self._count(event.pipeline, USAGE if event.error_type in ("ConfigError", "UnsupportedError") else FAILED)

    async def _heed_signals(self, *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                self._stop()

    def _stop(self) -> None:
        self._signals += 1
        if self._signals == 1:
            self._output.info("stopping after the slice under way; once more abandons it")
        for pipeline, _ in self._running.values():
            pipeline.stop(grace=0 if self._signals > 1 else self._grace)

    # Another job file --------------------------------

    async def _take_up(self, name: str, found: Sequence[Pipeline] | ConfigError) -> None:
        if isinstance(found, ConfigError):
            self._output.warn(f"{name} is not taken up, and everything runs on as before:\n{found}")
        elif not self._signals:
            await self._run_instead(name, found)

    async def _run_instead(self, file: str, found: Sequence[Pipeline]) -> None:
        """Run these from now on: what is declared as before is not touched, and tried again only if it had failed."""
        before = dict(self._wanted)
        self._wanted.clear()
        self._wanted.update({pipeline.name: pipeline for pipeline in found})
        gone = [name for name in before if name not in self._wanted]
        new = [name for name in self._wanted if name not in before]
        changed = [name for name in self._wanted if name in before and self._wanted[name] is not before[name]]
        failed = [name for name in self._codes if self._wanted.get(name) is before.get(name)]
        told = {"changed": changed, "new": new, "gone": gone, "tried again": failed}
        text = "; ".join(f"{what}: {', '.join(names)}" for what, names in told.items() if names)
        self._output.info(f"{file} was read again; {text or 'nothing has changed'}")
        ending = [pipeline for pipeline, _ in self._running.values()]
        self._counted([*ending, *found])
        held = anyio.Event()
        self._group.start_soon(held.wait)  # else all would be over once the only pipeline has ended
        try:
            async with anyio.create_task_group() as tasks:
                for each in (*changed, *new, *gone, *failed):
                    tasks.start_soon(self._replace, each)
        finally:
            held.set()
        self._counted(found)

    async def _replace(self, name: str) -> None:
        if name in self._running:
            old, ended = self._running[name]
            old.stop(grace=self._grace)
            await ended.wait()
        if name in self._wanted and not self._signals:
            self._start(self._wanted[name])
