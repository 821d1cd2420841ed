"""Events as lines for people."""

from __future__ import annotations

from retl.cli.render import local_date, local_time, mode, not_written, one_line, plural, without_place
from retl.model import events
from retl.model.duration import format_duration
from retl.model.range import CursorRange
from retl.model.report import ScanReport


def event_line(event: events.Event) -> str | None:
    """An event in a line for people; ``None`` for those that only progress bars show."""
    table = getattr(event, "table", None)
    place = f"{event.pipeline}.{table}" if table else event.pipeline
    text = _text(event)
    if isinstance(event, events.ScanFinished | events.ScanFailed):
        place = f"{event.pipeline}.{event.report.table}"
    return f"{local_time(event.at)}  {place}: {text}" if text is not None else None


def _text(event: events.Event) -> str | None:
    match event:
        case events.ScanFinished(report=report):
            return _scan_text(report)
        case events.ScanFailed(report=report):
            return f"FAILED {without_place(report.error or '', report.pipeline, report.table)}"
        case events.RunFailed(error=error):
            return f"FAILED {without_place(error, event.pipeline)}"
        case events.Warned(message=message):
            return f"warning: {message}"
        case events.RetryScheduled(error=error, delay=delay, table=table):
            return f"again in {format_duration(delay)}: {without_place(error, event.pipeline, table)}"
        case events.ScanStalled(seconds=seconds, limit=limit):
            return f"nothing has come for {format_duration(seconds)}; after {format_duration(limit)} it is tried again"
        case events.RowsRejected(rejects=rejects, first_reason=reason):
            return f"{plural(rejects, 'row')} rejected; the first: {one_line(reason)}"
        case events.PipelineStarted(schedule=schedule):
            return schedule
        case events.LeaseHeld(owner=owner):
            return f"standing by: {owner} runs this pipeline"
        case events.LeaseGone(reason=reason):
            return f"standing by: {reason}"
        case events.PipelinePaused(since=since, by=by):
            return f"paused since {local_date(since)} by {by}; `retl resume` lets it go on"
        case events.PipelineResumed(by=by):
            return f"resumed by {by}"
        case events.Triggered(by=by):
            return f"triggered by {by}"
        case events.BackfillStarted(since=since, until=until, by=by, resumed=resumed):
            return f"backfill {CursorRange(since, until)}, sent by {by}, {'goes on' if resumed else 'begins'}"
        case events.CommandDropped(command=command, by=by, sent_at=sent_at, reason=reason):
            return f"the {command} of {by} at {local_time(sent_at)} was dropped: {reason}"
        case events.TicksMissed(missed=missed):
            return f"{plural(missed, 'tick')} missed: the runs take longer than the interval"
        case _:
            return None


def _scan_text(report: ScanReport) -> str:
    """What a scan did: ``336,776 rows in 2.1s (incremental), up to 2013-12-31``."""
    status = "" if report.status == "done" else f"{report.status} after "
    changed = "" if report.changed in (None, report.rows) else f", {report.changed:,} changed"
    missing = not_written(report)
    upper = f", up to {report.watermark}" if report.watermark is not None and report.mode != "backfill" else ""
    vectors = f"; vectors: {report.embeddings}" if report.embeddings is not None else ""
    took = format_duration(report.seconds)
    return f"{status}{plural(report.rows, 'row')}{changed}{', ' if missing else ''}{missing} in {took} ({mode(report)}){upper}{vectors}"
