"""``check``, ``tables`` and ``plan``: they only read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from retl.cli.exit_codes import FAILED, exit_code, worst
from retl.cli.fan_out import fan_out, selected
from retl.cli.render import grid, plural, print_error, print_json, say, without_place
from retl.engine.hooks import planned
from retl.engine.targets import check_claims
from retl.model.errors import ConfigError, RetlError
from retl.pipeline import Finding, Pipeline, TablePlan

_SIGNS = {"ok": "ok", "warning": "warning", "error": "ERROR"}


def check(arguments: argparse.Namespace) -> int:
    """Test both connections of every pipeline and look at every table."""
    answers, code = fan_out(selected(arguments), Pipeline.check)
    found = [(answer.pipeline.name, finding) for answer in answers for finding in answer.value]
    found += _clashes(found)
    if arguments.json:
        print_json(
            [
                {"pipeline": name, "level": finding.level, "subject": finding.subject, "message": finding.message}
                for name, finding in found
            ]
        )
    elif found:
        rows = [
            (_SIGNS[finding.level], name, finding.subject, without_place(finding.message, name, finding.subject))
            for name, finding in found
        ]
        say("\n".join(grid(("", "PIPELINE", "SUBJECT", "FOUND"), rows)))
    failed = any(finding.level == "error" for _, finding in found)
    return worst((code, FAILED if failed else code))


def _clashes(found: Sequence[tuple[str, Finding]]) -> list[tuple[str, Finding]]:
    """Pipelines of one file that would write the same table, even before one of them has run."""
    claims = [finding.claim for _, finding in found if finding.claim is not None]
    clashes = []
    for name, finding in found:
        try:
            if finding.claim is not None:
                check_claims(finding.claim, [claim for claim in claims if claim.target == finding.claim.target])
        except ConfigError as error:
            text = str(error.with_context(pipeline=name, table=finding.subject))
            clashes.append((name, Finding("error", finding.subject, text)))
    return clashes


def tables(arguments: argparse.Namespace) -> int:
    """List what the sources offer."""
    answers, code = fan_out(selected(arguments), Pipeline.tables)
    if arguments.json:
        print_json([{"pipeline": answer.pipeline.name, "tables": answer.value} for answer in answers])
        return code
    for answer in answers:
        say(f"{answer.pipeline.name}: {plural(len(answer.value), 'table')} in the source")
        for name in answer.value:
            say(f"  {name}")
    return code


def plan(arguments: argparse.Namespace) -> int:
    """Show what the next scans would do."""
    answers, code = fan_out(selected(arguments), _plans)
    errors = [error for answer in answers for error in answer.value[1]]
    if arguments.json:
        print_json([_plan_values(answer.pipeline, item) for answer in answers for item in answer.value[0]])
    else:
        for answer in answers:
            say(f"{answer.pipeline.name}: {answer.pipeline.schedule.describe()}")
            for line in _run_lines(planned(answer.pipeline.hooks), answer.value[0]):
                say(line)
    sys.stdout.flush()  # the errors, which go to stderr, come last
    for error in errors:
        print_error(error)
    return worst((code, *map(exit_code, errors)))


async def _plans(pipeline: Pipeline) -> tuple[list[TablePlan], list[RetlError]]:
    """The plans of the tables that can be planned, and the errors of the others."""
    errors: list[Exception] = []
    plans = await pipeline.plan(errors=errors)
    return plans, [error for error in errors if isinstance(error, RetlError)]


def _plan_values(pipeline: Pipeline, item: TablePlan) -> dict[str, Any]:
    return {
        "pipeline": pipeline.name,
        "table": item.table.name,
        "to": item.table.to,
        "mode": "full" if item.table.full else "incremental",
        "pre_action": str(item.table.pre_action),
        "cursor": item.table.cursor,
        "window": item.source.window,
        "rows": item.source.rows,
        "slices": len(item.source.slices),
        "key": item.source.key,
        "source": item.source.statements,
        "target": item.target.statements,
        "casts": item.target.casts,
        "preview": item.preview,
        "hooks": item.hooks,
        "warnings": item.warnings,
    }


def _run_lines(hooks: Mapping[str, Sequence[str]], plans: Sequence[TablePlan]) -> Iterator[str]:
    """What the next run would do: the hooks of the run, and between them its scans."""
    yield from (f"  before the run, on the {text}" for text in hooks.get("before_run", ()))
    for item in plans:
        yield from plan_lines(item)
    yield from (f"  after the run, on the {text}" for text in hooks.get("after_run", ()))


def plan_lines(item: TablePlan) -> list[str]:
    """What a scan would do, as text."""
    table, source = item.table, item.source
    how = "full scan" if table.full else f"incremental by {table.cursor}"
    if table.range is not None:
        how = f"backfill by {table.cursor} {table.range}, the watermark stays"
    if table.replaces:
        how += f", pre_action {table.pre_action}"
    rows = "an unknown number of rows" if source.rows is None else plural(source.rows, "row")
    lines = [f"  {table.name} -> {table.to}: {how}"]
    reads = f"{rows} in {plural(len(source.slices), 'slice')}" if source.slices else "nothing: no new rows"
    facts = [("before", text) for text in item.hooks.get("before_scan", ())]
    facts += [] if source.by_manifest else [("reads", reads)]
    facts += [("finds", text) for text in item.preview]
    window = source.window
    if window is not None:
        lower = "" if window.lower is None else f"{window.lower} {'<' if window.lower_exclusive else '<='} "
        facts.append(("window", f"{lower}{window.cursor} <= {window.upper}"))
    if source.key:
        facts.append(("key", ", ".join(source.key)))
    facts += [("source", text) for text in source.statements]
    facts += [("target", text) for text in item.target.statements]
    facts += [("after", text) for text in item.hooks.get("after_scan", ())]
    facts += [("cast", text) for text in item.target.casts]
    facts += [("warning", text) for text in item.warnings]
    before = ""
    for what, text in facts:
        first, *rest = text.splitlines() or [""]
        lines.append(f"    {what if what != before else '':<8}{first}")
        lines += [f"    {'':<8}{line}" for line in rest]
        before = what
    return lines
