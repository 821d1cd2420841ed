"""``retl status``: how every pipeline stands, for people and for probes."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from retl.cli.conditions import Condition, parse_condition
from retl.cli.exit_codes import FAILED, OK, USAGE, worst
from retl.cli.fan_out import fan_out, selected
from retl.cli.render import (
    ago,
    backfill_text,
    clock,
    grid,
    local_date,
    one_line,
    plural,
    print_json,
    say,
    short_error,
    without_place,
)
from retl.model.backfills import BackfillStatus
from retl.model.duration import format_duration
from retl.model.errors import ConfigError
from retl.model.status import PipelineStatus, TableStatus
from retl.model.typed import did_you_mean

_MOST_LINES = 20
"""Tables beyond which a summary takes the place of a line for each."""
_WORST = 10
_NEWS = timedelta(days=1)
"""How long a backfill that has ended is shown."""
_NUMBERS = frozenset({3, 5, 6})
_HEAD = ("", "TABLE", "LAST SCAN", "ROWS", "LAST SUCCESS", "LAG", "REJECTS", "WATERMARK")
_STATES = ("failed", "running", "never scanned", "stopped", "done", "no longer declared")


def status(arguments: argparse.Namespace) -> int:
    """Every pipeline as it stands; with ``--fail-if`` the exit code of a probe."""
    conditions = [parse_condition(text) for text in arguments.fail_if]
    answers, code = fan_out(selected(arguments), lambda pipeline: pipeline.status(check=True))
    found = [_of_table(answer.value, arguments.table) for answer in answers]
    if arguments.table is not None and code == OK:
        _check_known(arguments.table, found, [answer.value for answer in answers])
    shown = [_failing_of(one) for one in found if not one.healthy] if arguments.failed else found
    _print(shown, arguments, code)
    if not conditions:
        return code if all(one.healthy for one in found) else worst((code, FAILED))
    return _probe(conditions, found, code)


def _probe(conditions: Sequence[Condition], found: Sequence[PipelineStatus], code: int) -> int:
    """1 where a condition holds; 2 where nobody can tell, for a store does not answer."""
    sys.stdout.flush()
    met = False
    for condition in conditions:
        for place in (place for one in found for place in condition.met(one)):
            met = True
            say(f"retl: {place} ({condition.text})", error=True)
    return FAILED if met else USAGE if code != OK else OK


def _of_table(found: PipelineStatus, table: str | None) -> PipelineStatus:
    """A status that tells of one table alone, or of all."""
    if table is None:
        return found
    tables = tuple(one for one in found.tables if one.table == table)
    backfills = tuple(one for one in found.backfills if one.table == table)
    healthy = not any(one.failures for one in tables)
    return msgspec.structs.replace(
        found, tables=tables, backfills=backfills, healthy=healthy, failures=0, since=None, failure=None
    )


def _failing_of(found: PipelineStatus) -> PipelineStatus:
    return msgspec.structs.replace(found, tables=tuple(one for one in found.tables if one.failures and one.declared))


def _check_known(table: str, found: Sequence[PipelineStatus], all_of_them: Sequence[PipelineStatus]) -> None:
    if not any(one.tables for one in found):
        every = sorted({one.table for status in all_of_them for one in status.tables})
        raise ConfigError(
            f"no pipeline has a table {table!r}{did_you_mean(table, every)}",
            remedy=f"there are {', '.join(every)}." if every else "nothing has been scanned yet.",
        )


def _print(shown: Sequence[PipelineStatus], arguments: argparse.Namespace, code: int) -> None:
    if arguments.table is not None:
        shown = [one for one in shown if one.tables]
    if arguments.json:
        print_json(shown)
    elif not shown:
        if arguments.failed and code == OK:
            say("Nothing fails.")
    elif arguments.all or sum(len(one.tables) for one in shown) <= _MOST_LINES:
        say("\n\n".join(show_status(one) for one in shown))
    else:
        say(show_summary(shown))


# Each table ---------------------------------------------------------------------


def show_status(found: PipelineStatus) -> str:
    """A pipeline and its tables as text."""
    parts = [found.schedule, f"run by {found.owner}" if found.owner else found.state]
    if found.paused_since is not None:
        parts.append(f"paused since {local_date(found.paused_since)}")
    parts.append(f"last run {ago(found.last_run)}")
    if found.next_run is not None and found.paused_since is None:
        parts.append(f"next run {ago(found.next_run)}")
    sign = clock()
    rows = [(sign if table.scheduled_scan else "", *_table_row(table, table.table)) for table in found.tables]
    lines = [f"{found.pipeline}: {', '.join(parts)}"]
    if rows:
        lines += ["  " + line for line in grid(_HEAD, rows, right=_NUMBERS)]
    lines += _failed_run(found)
    lines += _backfills(found)
    for table in found.tables:
        if table.last is not None:
            if table.last.error is not None:
                lines.append(f"  {table.table} failed: {short_error(table.last)}")
            lines += [f"  {table.table} warning: {one_line(warning, 500)}" for warning in table.last.warnings]
    return "\n".join(lines)


def _lag(seconds: float | None) -> str:
    whole = None if seconds is None else round(seconds)
    return "" if whole is None else format_duration(whole) if whole else "none"


def _table_row(table: TableStatus, name: str) -> tuple[str, ...]:
    last = table.last
    return (
        name if table.table == table.to else f"{name} -> {table.to}",
        _scan(table),
        f"{last.rows:,}" if last is not None else "",
        ago(table.last_success),
        _lag(table.lag),
        f"{table.rejects:,}",
        table.watermark or "",
    )


def _scan(table: TableStatus) -> str:
    """The scan under way, or what the last one came to."""
    last = table.last
    if table.progress is not None:
        seen = table.progress_at or datetime.now(UTC)
        late = f", {ago(seen)}" if (datetime.now(UTC) - seen).total_seconds() >= 1 else ""
        return f"running, {plural(table.progress.rows, 'row')}{late}"
    if last is None:
        return "never"
    again = f" ({table.failures:,} in a row)" if table.failures > 1 else ""
    return f"{last.status} {ago(last.started_at)}{again}"


def _backfills(found: PipelineStatus) -> list[str]:
    """Those that have not ended, and those that have of late."""
    ended = datetime.now(UTC) - _NEWS
    shown = [one for one in found.backfills if one.pending or (one.ended_at is not None and one.ended_at > ended)]
    return [f"  backfill of {one.table} {_backfill(one)}" for one in shown]


def _backfill(one: BackfillStatus) -> str:
    """``since 2024-05-01: running, 12,000 of 50,000 rows, up to 2024-05-03; sent 5m ago by process 12 on box``."""
    when = one.state if one.pending else f"{one.state} {ago(one.ended_at)}"
    return f"{one.ends}: {when}, {backfill_text(one)}; sent {ago(one.at)} by {one.by}"


def _failed_run(found: PipelineStatus) -> list[str]:
    if found.failure is None:
        return []
    failure = one_line(without_place(found.failure, found.pipeline), 500)
    return [f"  {plural(found.failures, 'run')} failed since {ago(found.since)}: {failure}"]


# Many tables --------------------------------------------------------------------


def show_summary(found: Sequence[PipelineStatus]) -> str:
    """How many tables stand how, and the worst of them."""
    tables = [(one, table) for one in found for table in one.tables]
    kinds, states = Counter(_kind(table) for _, table in tables), Counter(one.state for one in found)
    counts = ", ".join(f"{kinds[kind]:,} {kind}" for kind in _STATES if kinds[kind])
    lines = [f"{plural(len(tables), 'table')}: {counts}"]
    lines.append(
        f"{plural(len(found), 'pipeline')}: {', '.join(f'{count:,} {state}' for state, count in states.items())}"
    )
    worst_first = sorted((pair for pair in tables if _matters(pair[1])), key=lambda pair: _badness(pair[1]))
    rows = [("", *_table_row(table, f"{one.pipeline}.{table.table}")) for one, table in worst_first[:_WORST]]
    if rows:
        lines += ["", *("  " + line for line in grid(_HEAD, rows, right=_NUMBERS))]
    for one, table in worst_first[:_WORST]:
        if table.last is not None and table.last.error is not None:
            lines.append(f"  {one.pipeline}.{table.table} failed: {short_error(table.last)}")
    failed_runs = [f"  {one.pipeline}: {line.strip()}" for one in found for line in _failed_run(one)]
    lines += failed_runs[:_WORST]
    lines += [f"  {one.pipeline}: {line.strip()}" for one in found for line in _backfills(one)]
    left = len(worst_first) - len(rows) + len(failed_runs[_WORST:])
    more = f"{left:,} more of these, and the rest" if left else "the rest"
    lines += ["", f"--all shows {more}; --failed what fails; --only and --table a part of it."]
    return "\n".join(lines)


def _kind(table: TableStatus) -> str:
    if not table.declared:
        return "no longer declared"
    if table.progress is not None:
        return "running"
    if table.failures:
        return "failed"
    return "never scanned" if table.last is None else table.last.status


def _matters(table: TableStatus) -> bool:
    """Whether it is worth a line among hundreds."""
    return table.declared and bool(table.failures or table.lag or table.rejects or _kind(table) != "done")


def _badness(table: TableStatus) -> tuple[int, int, float, float]:
    """Sorts the worst first: what fails most often, then what is furthest behind, then the longest without success."""
    success = table.last_success.timestamp() if table.last_success else 0.0
    return -min(table.failures, 1), -table.failures, -(table.lag or 0.0), success
