"""``history``, ``reset``, ``adopt`` and ``rejects``: what the state store remembers."""

from __future__ import annotations

import argparse
import sys

from retl.cli.exit_codes import FAILED, INTERRUPTED, OK, worst
from retl.cli.fan_out import fan_out, selected
from retl.cli.render import (
    grid,
    local_date,
    mode,
    not_written,
    one_line,
    plural,
    print_error,
    print_json,
    say,
    short_error,
)
from retl.model.checkpoint import Reject
from retl.model.duration import format_duration
from retl.model.errors import ConfigError, StateError
from retl.model.report import ScanReport
from retl.model.typed import did_you_mean
from retl.pipeline import Pipeline

_NUMBERS = frozenset({3, 4, 5})


def history(arguments: argparse.Namespace) -> int:
    """Past scans, newest first."""
    pipelines = _selected(arguments)
    answers, code = fan_out(pipelines, lambda pipeline: _history(pipeline, arguments.table, arguments.limit))
    found = sorted((report for answer in answers for report in answer.value[0]), key=lambda report: report.started_at)
    newest = found[::-1][: arguments.limit]
    if arguments.json:
        print_json(newest)
    if not newest:
        unknown = [answer.pipeline.name for answer in answers if not answer.value[1]]
        for name in unknown:
            print_error(_never_run(name))
        if code == OK and not unknown and not arguments.json:
            say("No scans yet.")
        return worst((code, FAILED)) if unknown else code
    if arguments.json:
        return code
    rows = [
        (
            local_date(report.started_at),
            _place(report),
            report.status,
            f"{report.rows:,}",
            "" if report.changed is None else f"{report.changed:,}",
            not_written(report),
            format_duration(report.seconds),
            "" if report.is_of_run else mode(report),
            report.watermark or "",
        )
        for report in newest
    ]
    head = ("TIME", "TABLE", "SCAN", "ROWS", "CHANGED", "NOT WRITTEN", "TOOK", "MODE", "WATERMARK")
    say("\n".join(grid(head, rows, right=_NUMBERS)))
    shown: set[tuple[str, str]] = set()
    for report in newest:
        place = _place(report)
        if report.error is not None:
            say(f"{local_date(report.started_at)} {place} failed: {short_error(report)}")
        if report.embeddings is not None:
            say(f"{local_date(report.started_at)} {place} vectors: {report.embeddings}")
        for warning in report.warnings:
            if (place, warning) not in shown:  # most are repeated by every scan
                shown.add((place, warning))
                say(f"{local_date(report.started_at)} {place} warning: {one_line(warning, 500)}")
    return code


def _place(report: ScanReport) -> str:
    return report.pipeline if report.is_of_run else f"{report.pipeline}.{report.table}"


async def _history(pipeline: Pipeline, table: str | None, limit: int) -> tuple[list[ScanReport], bool]:
    """The newest reports; and, where there are none, whether the store knows the pipeline at all."""
    reports = await pipeline.history(table, limit)
    return reports, bool(reports) or (await pipeline.status(check=True)).epoch > 0


def _never_run(pipeline: str) -> StateError:
    return StateError(
        "its state store does not exist yet, or has never heard of this pipeline.",
        remedy="run `retl run`; if it has run, check that the job file names the right target, and the right store in [state] "
        "(one in memory ends with its process).",
        pipeline=pipeline,
    )


def reset(arguments: argparse.Namespace) -> int:
    """Forget checkpoints; asks first on a terminal."""
    pipelines = _selected(arguments)
    table: str | None = arguments.table
    names = ", ".join(pipeline.name for pipeline in pipelines)
    what = f"table {table!r} of {names}" if table is not None else f"all tables of {names}"
    if not arguments.yes and sys.stdin.isatty():
        say(f"The next scan will read everything of {what}. Nothing is deleted in the target.")
        try:
            typed = input("Reset? [y/N] ")
        except EOFError:
            print()
            return INTERRUPTED
        if typed.strip().lower() not in ("y", "yes"):
            say("Nothing was reset.")
            return OK
    answers, code = fan_out(pipelines, lambda pipeline: pipeline.reset(table))
    for answer in answers:
        say(f"{answer.pipeline.name}: {plural(answer.value, 'checkpoint')} forgotten")
    return code


def adopt(arguments: argparse.Namespace) -> int:
    """Take target tables over from other pipelines."""
    pipelines = _selected(arguments)
    answers, code = fan_out(pipelines, lambda pipeline: pipeline.adopt(arguments.table))
    for answer in answers:
        say(
            f"{answer.pipeline.name}: {'took over from ' + ', '.join(answer.value) if answer.value else 'no other pipeline had its tables'}"
        )
    return code


def rejects(arguments: argparse.Namespace) -> int:
    """The rows that a target rejected."""
    pipelines = _selected(arguments)
    if arguments.clear:
        cleared, code = fan_out(pipelines, lambda pipeline: pipeline.clear_rejects(arguments.table))
        if arguments.json:
            print_json([{"pipeline": answer.pipeline.name, "cleared": answer.value} for answer in cleared])
        else:
            for count in cleared:
                say(f"{count.pipeline.name}: {plural(count.value, 'reject')} forgotten")
        return code
    answers, code = fan_out(pipelines, lambda pipeline: _rejects(pipeline, arguments.table, arguments.limit))
    found = [(answer.pipeline.name, reject) for answer in answers for reject in answer.value[0]]
    if arguments.json:
        print_json([{"pipeline": name, "reject": reject} for name, reject in found])
        return code
    if not found and code == OK:
        say("No rejects.")
    for name, reject in found:
        column = f", column {reject.column}" if reject.column else ""
        say(f"{name}.{reject.table}  key {one_line(reject.key)}{column}")
        say(f"  reason   {one_line(reject.reason, 500)}")
        say(f"  content  {one_line(reject.content, 500)}")
    for answer in answers:
        shown, kept = answer.value
        if kept > len(shown):
            say(f"{answer.pipeline.name}: {kept - len(shown):,} more; --limit {kept} shows them all")
    return code


async def _rejects(pipeline: Pipeline, table: str | None, limit: int) -> tuple[list[Reject], int]:
    """The newest rejects, and how many there are."""
    return await pipeline.rejects(table, limit), await pipeline.count_rejects(table)


async def _tables(pipeline: Pipeline) -> list[str] | None:
    """The tables of a pipeline; ``None`` if its state is damaged, for ``reset`` must still mend it."""
    try:
        return [found.table for found in (await pipeline.status(check=True)).tables]
    except StateError:
        return None


def _selected(arguments: argparse.Namespace) -> list[Pipeline]:
    """The selected pipelines, of which ``--table`` leaves those that have it. Raises ``ConfigError`` if none has."""
    pipelines, table = selected(arguments), arguments.table
    if table is None:
        return pipelines
    answers, code = fan_out(pipelines, _tables)
    if code != OK:
        raise SystemExit(code)  # the reason has been printed
    known = {answer.pipeline.name: answer.value for answer in answers}
    having = [pipeline for pipeline in pipelines if table in (known[pipeline.name] or (table,))]
    if not having:
        every = sorted({name for names in known.values() for name in names or ()})
        raise ConfigError(
            f"no pipeline has a table {table!r}{did_you_mean(table, every)}",
            remedy=f"there are {', '.join(every)}." if every else "nothing has been scanned yet.",
        )
    return having
