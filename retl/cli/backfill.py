"""``retl backfill``: read a range of one table's cursor again, here or in the process that runs the pipeline."""

from __future__ import annotations

import argparse
import signal
import time
from contextlib import aclosing

import anyio
from anyio.abc import TaskStatus

from retl.cli.exit_codes import FAILED, INTERRUPTED, OK
from retl.cli.fan_out import fan_out
from retl.cli.inspect_commands import plan_lines
from retl.cli.output import Output, make_output
from retl.cli.render import backfill_text, say
from retl.cli.run import run_pipelines
from retl.config import load_jobs
from retl.model import events
from retl.model.backfills import BackfillState, BackfillStatus
from retl.model.errors import ConfigError, RetlError
from retl.pipeline import Pipeline

_LINE_SECONDS = 5.0
"""At most so often its progress is told."""

_WORDS: dict[BackfillState, str] = {
    "waiting": "waits",
    "running": "is under way",
    "done": "is done",
    "failed": "FAILED",
    "cancelled": "is cancelled",
}


def backfill(arguments: argparse.Namespace) -> int:
    """Read the range again; returns the exit code."""
    (pipeline,) = load_jobs(arguments.jobs).select([arguments.pipeline])
    if arguments.cancel:
        return _cancel(pipeline, arguments)
    if arguments.plan:
        return _plan(pipeline, arguments)
    answers, code = fan_out([pipeline], lambda one: _send(one, arguments))
    sent = answers[0].value if answers else None
    if sent is None:
        return code or _run_here(pipeline, arguments)
    with make_output(arguments.log_format) as output:
        following = _Following(pipeline, sent, output)
        following.line(f"is sent to {sent.owner or 'its next owner'}; `retl status` shows how far it is")
        ended = OK if arguments.no_wait else anyio.run(following.run)
    # An owner that ended before it heard of it has left it to this process.
    return _run_here(pipeline, arguments) if ended is None else ended


def _plan(pipeline: Pipeline, arguments: argparse.Namespace) -> int:
    ends = {"since": arguments.since, "until": arguments.until}
    answers, code = fan_out([pipeline], lambda one: one.plan_backfill(arguments.table, **ends))
    for answer in answers:
        say("\n".join(plan_lines(answer.value)))
    return code


def _cancel(pipeline: Pipeline, arguments: argparse.Namespace) -> int:
    if arguments.since or arguments.until:
        raise ConfigError(
            "--cancel takes no range.", remedy="leave out --since and --until: a table has one at a time."
        )
    answers, code = fan_out([pipeline], lambda one: one.cancel_backfill(arguments.table))
    for answer in answers:
        found = answer.value
        say(f"{_place(pipeline, found)}: backfill {found.ends} {_told(found)}")
        if found.pending:
            say(f"      {found.owner or 'its owner'} has not heard it yet, and ends it as soon as it does")
    return code


def _place(pipeline: Pipeline, found: BackfillStatus) -> str:
    return f"{pipeline.name}.{found.table}"


async def _send(pipeline: Pipeline, arguments: argparse.Namespace) -> BackfillStatus | None:
    """Send it to the owner; ``None`` where no process owns the pipeline."""
    if (await pipeline.status(check=True)).owner is None:
        return None
    return await pipeline.send_backfill(arguments.table, since=arguments.since, until=arguments.until)


def _run_here(pipeline: Pipeline, arguments: argparse.Namespace) -> int:
    failed: list[events.Event] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.ScanFailed):
            failed.append(event)

    async def once(pipeline: Pipeline) -> None:
        pipeline.subscribe(listen)
        try:
            await pipeline.backfill(arguments.table, since=arguments.since, until=arguments.until)
        except RetlError:
            if not failed:  # a scan that failed has been shown
                raise

    return run_pipelines([pipeline], arguments, once)


def _told(found: BackfillStatus) -> str:
    """How it stands, in words."""
    return f"{_WORDS[found.state]}, {backfill_text(found)}"


class _Following:
    """Shows how a backfill goes on elsewhere, until it has ended or a signal comes."""

    def __init__(self, pipeline: Pipeline, sent: BackfillStatus, output: Output) -> None:
        self._pipeline = pipeline
        self._sent = sent
        self._output = output
        self._code: int | None = FAILED
        self._next_line = 0.0
        self._alone = False

    async def run(self) -> int | None:
        """The exit code; ``None`` where no process has taken it up, and none is there to do so."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._heed_signals, tasks.cancel_scope)
            await self._follow()
            tasks.cancel_scope.cancel()
        return self._code

    async def _heed_signals(self, scope: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                self._code = INTERRUPTED
                again = f"`retl backfill --cancel {self._pipeline.name} {self._sent.table}` ends it"
                self.line(f"goes on in {self._sent.owner}; `retl status` shows how far it is, and {again}")
                scope.cancel()

    async def _follow(self) -> None:
        try:
            async with aclosing(self._pipeline.follow_backfill(self._sent)) as further:
                async for found in further:
                    if found.state == "waiting" and found.owner is None:
                        self._code = None
                        return
                    self._show(found)
                    self._code = OK if found.state == "done" else FAILED
                    if not found.pending:
                        return
        except RetlError as error:
            self._output.error(error.with_context(pipeline=self._pipeline.name))
        else:
            self.line(
                "is no longer known: a process of an older version, which knows no backfills, may run the pipeline"
            )

    def _show(self, found: BackfillStatus) -> None:
        self._sent = found if found.owner is not None else self._sent
        alone, self._alone = self._alone, found.pending and found.owner is None
        if self._alone and not alone:
            self.line("waits: no process runs the pipeline now, and the next one goes on with it")
        elif not found.pending or (found.state == "running" and time.monotonic() >= self._next_line):
            self._next_line = time.monotonic() + _LINE_SECONDS
            self.line(_told(found))

    def line(self, text: str) -> None:
        """A line about it."""
        self._output.info(f"{_place(self._pipeline, self._sent)}: backfill {self._sent.ends} {text}")
