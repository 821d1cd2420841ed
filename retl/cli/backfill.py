"""``retl backfill``: read a range of one table's cursor again, or show what that would do."""

from __future__ import annotations

import argparse

from retl.cli.fan_out import fan_out
from retl.cli.inspect_commands import plan_lines
from retl.cli.render import say
from retl.cli.run import run_pipelines
from retl.config import load_jobs
from retl.model import events
from retl.model.errors import RetlError
from retl.pipeline import Pipeline


def backfill(arguments: argparse.Namespace) -> int:
    """Read the range again; returns the exit code."""
    (pipeline,) = load_jobs(arguments.jobs).select([arguments.pipeline])
    table: str = arguments.table
    if arguments.plan:
        answers, code = fan_out(
            [pipeline], lambda one: one.plan_backfill(table, since=arguments.since, until=arguments.until)
        )
        for answer in answers:
            say("\n".join(plan_lines(answer.value)))
        return code
    failed: list[events.Event] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.ScanFailed):
            failed.append(event)

    async def once(pipeline: Pipeline) -> None:
        pipeline.subscribe(listen)
        try:
            await pipeline.backfill(table, since=arguments.since, until=arguments.until)
        except RetlError:
            if not failed:  # a scan that failed has been shown
                raise

    return run_pipelines([pipeline], arguments, once)
