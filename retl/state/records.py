"""The steps for what a store keeps for people: rejects, and the reports of past scans."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, get_args

from retl.model.alerts import AlertState
from retl.model.checkpoint import Reject
from retl.model.errors import StateError
from retl.model.plain import time_of, time_text
from retl.model.report import ScanReport, ScanStatus
from retl.state.base import KEPT_REPORTS, unreadable_report
from retl.state.statement import Statement, Step, decode, encode, narrowed, short_key


def add_rejects(pipeline: str, rejects: Sequence[Reject]) -> Step[None]:
    for reject in rejects:
        identity = (pipeline, reject.table, short_key(reject.key))
        yield Statement("DELETE FROM retl_rejects WHERE pipeline = ? AND table_name = ? AND row_key = ?", identity)
        yield Statement(
            "INSERT INTO retl_rejects (pipeline, table_name, row_key, rejected_at, reason, body) VALUES (?, ?, ?, ?, ?, ?)",
            (*identity, time_text(reject.at), reject.reason, encode(reject)),
        )


def rejects(pipeline: str, table: str | None, limit: int) -> Step[list[Reject]]:
    rows = yield narrowed(
        "SELECT body FROM retl_rejects",
        pipeline,
        table,
        f" ORDER BY rejected_at DESC, row_key LIMIT {int(limit)}",
        rows=True,
    )
    remedy = "run `retl rejects --clear` to forget the rejects."
    return [decode(body, Reject, "a reject", remedy) for (body,) in rows]


def count_rejects(pipeline: str) -> Step[dict[str, int]]:
    rows = yield Statement(
        "SELECT table_name, COUNT(*) FROM retl_rejects WHERE pipeline = ? GROUP BY table_name", (pipeline,), rows=True
    )
    return {table: int(count) for table, count in rows}


def clear_rejects(pipeline: str, table: str | None) -> Step[int]:
    count = yield narrowed("DELETE FROM retl_rejects", pipeline, table)
    return int(count)


def prune_rejects(pipeline: str, before: datetime, most: int) -> Step[None]:
    yield Statement("DELETE FROM retl_rejects WHERE pipeline = ? AND rejected_at < ?", (pipeline, time_text(before)))
    counts = yield from count_rejects(pipeline)
    for table in (table for table, count in counts.items() if count > most):
        rows = yield narrowed(
            "SELECT rejected_at FROM retl_rejects",
            pipeline,
            table,
            f" ORDER BY rejected_at DESC, row_key LIMIT 1 OFFSET {int(most)}",
            rows=True,
        )
        if rows:
            yield Statement(
                "DELETE FROM retl_rejects WHERE pipeline = ? AND table_name = ? AND rejected_at <= ?",
                (pipeline, table, rows[0][0]),
            )


def read_alerts(pipeline: str) -> Step[AlertState]:
    rows = yield Statement("SELECT body FROM retl_alerts WHERE pipeline = ?", (pipeline,), rows=True)
    name = pipeline.replace("'", "''")
    remedy = f"run in its database: DELETE FROM retl_alerts WHERE pipeline = '{name}'. An alert may be told again then."
    return decode(rows[0][0], AlertState, f"what is told of {pipeline!r}", remedy) if rows else AlertState()


def save_alerts(pipeline: str, state: AlertState) -> Step[None]:
    yield Statement("DELETE FROM retl_alerts WHERE pipeline = ?", (pipeline,))
    yield Statement("INSERT INTO retl_alerts (pipeline, body) VALUES (?, ?)", (pipeline, encode(state)))


_REPORT = "s.pipeline, s.table_name, s.scan_id, s.started_at, s.status, s.body"


def add_report(report: ScanReport) -> Step[None]:
    yield from insert_report(report)
    yield from prune_reports(report.pipeline, report.table)


def insert_report(report: ScanReport) -> Step[None]:
    yield Statement(
        "INSERT INTO retl_scans (pipeline, table_name, scan_id, started_at, status, body) VALUES (?, ?, ?, ?, ?, ?)",
        (report.pipeline, report.table, report.scan_id, time_text(report.started_at), report.status, encode(report)),
    )


def prune_reports(pipeline: str, table: str) -> Step[None]:
    rows = yield Statement(
        f"SELECT scan_id FROM retl_scans WHERE pipeline = ? AND table_name = ? ORDER BY scan_id DESC LIMIT 1 OFFSET {KEPT_REPORTS}",
        (pipeline, table),
        rows=True,
    )
    if rows:
        yield Statement(
            "DELETE FROM retl_scans WHERE pipeline = ? AND table_name = ? AND scan_id <= ?",
            (pipeline, table, rows[0][0]),
        )


def reports(pipeline: str | None, table: str | None, limit: int) -> Step[list[ScanReport]]:
    wanted = {name: value for name, value in (("pipeline", pipeline), ("table_name", table)) if value is not None}
    where = " WHERE " + " AND ".join(f"{name} = ?" for name in wanted) if wanted else ""
    rows = yield Statement(
        f"SELECT {_REPORT} FROM retl_scans AS s{where} ORDER BY scan_id DESC LIMIT {int(limit)}",
        tuple(wanted.values()),
        rows=True,
    )
    return [_report(*row) for row in rows]


def last_reports(pipeline: str) -> Step[dict[str, ScanReport]]:
    newest = "SELECT table_name, MAX(scan_id) AS scan_id FROM retl_scans WHERE pipeline = ? GROUP BY table_name"
    rows = yield Statement(
        f"SELECT {_REPORT} FROM retl_scans AS s JOIN ({newest}) AS n ON n.table_name = s.table_name "
        "AND n.scan_id = s.scan_id WHERE s.pipeline = ? ORDER BY s.scan_id",
        (pipeline, pipeline),
        rows=True,
    )
    return {table: _report(name, table, *rest) for name, table, *rest in rows}


def _report(pipeline: str, table: str, scan_id: str, started_at: str, status: str, body: Any) -> ScanReport:
    try:
        return decode(body, ScanReport, "a scan report", "")
    except StateError as error:
        known: ScanStatus = next((one for one in get_args(ScanStatus) if one == status), "failed")
        return unreadable_report(pipeline, table, scan_id, time_of(started_at), known, error.message)
