"""Every metric: its name in Prometheus and in OpenTelemetry, its labels and what it means."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]

PIPELINE = ("pipeline",)
TABLE = ("pipeline", "table")


class Metric(NamedTuple):
    """One metric. Its labels have as many values as there are pipelines and tables."""

    name: str
    """Its name in Prometheus."""
    otel: str
    """Its name in OpenTelemetry."""
    kind: Kind
    unit: str
    """As OpenTelemetry writes units (UCUM)."""
    labels: tuple[str, ...]
    meaning: str

    def attribute(self, label: str) -> str:
        """What a label is called in OpenTelemetry."""
        return f"retl.{label}"


ROWS = Metric(
    "retl_rows_written_total",
    "retl.rows.written",
    "counter",
    "{row}",
    TABLE,
    "Rows handed to the target in committed slices, with those that it held already or rejected.",
)
CHANGED = Metric(
    "retl_rows_changed_total",
    "retl.rows.changed",
    "counter",
    "{row}",
    TABLE,
    "Rows inserted or changed in the target, where it tells.",
)
REJECTS = Metric(
    "retl_rows_rejected_total",
    "retl.rows.rejected",
    "counter",
    "{row}",
    TABLE,
    "Rows that the target rejected.",
)
BYTES = Metric(
    "retl_written_bytes_total",
    "retl.written",
    "counter",
    "By",
    TABLE,
    "The bytes of these rows, as they are in memory.",
)
SCANS = Metric(
    "retl_scans_total",
    "retl.scans",
    "counter",
    "{scan}",
    (*TABLE, "status"),
    "Scans that have ended, as `done`, `failed` or `stopped`.",
)
DURATION = Metric(
    "retl_scan_duration_seconds",
    "retl.scan.duration",
    "histogram",
    "s",
    TABLE,
    "How long the scans took that have ended.",
)
READ_WAIT = Metric(
    "retl_read_wait_seconds_total",
    "retl.read.wait",
    "counter",
    "s",
    TABLE,
    "How long reading waited for the target.",
)
WRITE_WAIT = Metric(
    "retl_write_wait_seconds_total",
    "retl.write.wait",
    "counter",
    "s",
    TABLE,
    "How long writing waited for the source.",
)
RETRIES = Metric(
    "retl_scan_retries_total",
    "retl.scan.retries",
    "counter",
    "{retry}",
    TABLE,
    "Scans begun again after an error that may pass.",
)
STALLS = Metric(
    "retl_scan_stalls_total",
    "retl.scan.stalls",
    "counter",
    "{stall}",
    TABLE,
    "How often nothing came and nothing answered for a minute, or for half of `stall_timeout`.",
)
WARNINGS = Metric(
    "retl_warnings_total",
    "retl.warnings",
    "counter",
    "{warning}",
    TABLE,
    "Warnings: what people should know, and what stopped nothing.",
)
LAG = Metric(
    "retl_lag_seconds",
    "retl.lag",
    "gauge",
    "s",
    TABLE,
    "From the watermark to the newest value that the source had at the last plan, where the cursor is a time.",
)
LAST_SUCCESS = Metric(
    "retl_last_success_timestamp_seconds",
    "retl.last_success",
    "gauge",
    "s",
    TABLE,
    "When this process last scanned the table without an error, in seconds since 1970.",
)
FAILURES = Metric(
    "retl_consecutive_failures",
    "retl.consecutive_failures",
    "gauge",
    "{failure}",
    TABLE,
    "Scans that have failed since the last success.",
)
OWNER = Metric(
    "retl_lease_owner",
    "retl.lease.owner",
    "gauge",
    "1",
    PIPELINE,
    "1 in the process that owns the pipeline, 0 in those that stand by.",
)
STATE = Metric(
    "retl_pipeline_state",
    "retl.pipeline.state",
    "gauge",
    "1",
    (*PIPELINE, "state"),
    "1 for the state that the pipeline is in: `stopped`, `idle`, `scanning`, `paused` or `standby`.",
)
HEALTHY = Metric(
    "retl_healthy",
    "retl.healthy",
    "gauge",
    "1",
    PIPELINE,
    "1 while nothing fails, no table and no run.",
)
STORE = Metric(
    "retl_store_reachable",
    "retl.store.reachable",
    "gauge",
    "1",
    PIPELINE,
    "1 if the state store has answered the last time.",
)
RUN_FAILURES = Metric(
    "retl_run_failures_total",
    "retl.run.failures",
    "counter",
    "{failure}",
    PIPELINE,
    "Runs that could not begin, and tables that were not found.",
)
MISSED = Metric(
    "retl_ticks_missed_total",
    "retl.ticks.missed",
    "counter",
    "{tick}",
    PIPELINE,
    "Runs left out because the one before took longer than the interval.",
)
LEASES = Metric(
    "retl_lease_takes_total",
    "retl.lease.takes",
    "counter",
    "{take}",
    PIPELINE,
    "How often this process has become the owner.",
)
LOST = Metric(
    "retl_lease_losses_total",
    "retl.lease.losses",
    "counter",
    "{loss}",
    PIPELINE,
    "How often another process took the pipeline over while this one held it.",
)

METRICS = (
    ROWS,
    CHANGED,
    REJECTS,
    BYTES,
    SCANS,
    DURATION,
    READ_WAIT,
    WRITE_WAIT,
    RETRIES,
    STALLS,
    WARNINGS,
    LAG,
    LAST_SUCCESS,
    FAILURES,
    OWNER,
    STATE,
    HEALTHY,
    STORE,
    RUN_FAILURES,
    MISSED,
    LEASES,
    LOST,
)
"""All of them."""

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0)
"""The bounds of ``DURATION``: an idle scan takes milliseconds, a first load hours."""
