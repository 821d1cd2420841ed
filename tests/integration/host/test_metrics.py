"""The numbers of pipelines, as Prometheus and OpenTelemetry read them."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

import retl
from retl import events
from retl.connectors import IteratorSource, SQLite
from retl.model.cursor import lag
from retl.observe.metrics import METRICS, OpenTelemetryMetrics, PrometheusMetrics
from tests.support import Database, Recorder, running

ROWS = [{"id": number, "at": f"2024-01-01 00:00:0{number}"} for number in range(5)]
Samples = dict[tuple[str, ...], float]


def job(path: Path, read: Any = lambda: ROWS, name: str = "orders", **words: Any) -> retl.Pipeline:
    given: dict[str, Any] = {
        "source": IteratorSource(read, key="id"),
        "target": SQLite(str(path)),
        "tables": [retl.Table("people")],
        "interval": 3600,
    }
    return retl.Pipeline(name, **given | words)


def parsed(text: bytes) -> dict[str, Samples]:
    """The samples by their names, each by the values of its labels: pipeline, table, and the others."""
    found: dict[str, Samples] = {}
    order = ["pipeline", "table", "status", "state", "le"]
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = tuple(sample.labels[name] for name in order if name in sample.labels)
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


async def test_prometheus_reads_what_a_pipeline_did_and_how_it_stands(tmp_path: Path) -> None:
    fails = False

    def read() -> Iterator[dict[str, Any]]:
        yield from ROWS
        if fails:
            raise RuntimeError("broken")

    pipeline = job(tmp_path / "app.db", read)
    metrics = PrometheusMetrics(pipeline)
    assert parsed(metrics.text())["retl_lease_owner"] == {("orders",): 0}
    await pipeline.run_once()
    fails = True
    await pipeline.run_once(check=False)
    found, table = parsed(metrics.text()), ("orders", "people")
    assert found["retl_rows_written_total"] == {table: 5}
    assert found["retl_rows_changed_total"] == {table: 5}
    assert found["retl_rows_rejected_total"] == {table: 0}
    assert found["retl_written_bytes_total"][table] > 5 * 8
    assert found["retl_scans_total"] == {(*table, "done"): 1, (*table, "failed"): 1}
    assert found["retl_consecutive_failures"] == {table: 1}
    assert found["retl_healthy"] == {("orders",): 0}
    assert found["retl_scan_duration_seconds_count"] == {table: 2}
    assert found["retl_scan_duration_seconds_bucket"][*table, "+Inf"] == 2
    assert 0 < found["retl_scan_duration_seconds_sum"][table] < 60
    last = pipeline.snapshot().tables[0].last_success
    assert last is not None
    assert found["retl_last_success_timestamp_seconds"] == {table: pytest.approx(last.timestamp())}
    assert found["retl_lease_takes_total"] == {("orders",): 2}
    assert found["retl_pipeline_state"] == {
        ("orders", state): state == "stopped" for state in ("stopped", "idle", "scanning", "paused", "standby")
    }
    metrics.close()
    await pipeline.run_once(check=False)
    assert parsed(metrics.text()) == {}


async def test_rows_count_while_a_long_scan_is_under_way_and_none_counts_twice(tmp_path: Path) -> None:
    seen: list[tuple[float, float, float]] = []

    def look(event: events.Event) -> None:
        found = parsed(metrics.text())
        rows = found["retl_rows_written_total"]["orders", "people"]
        seen.append((rows, found["retl_lag_seconds"]["orders", "people"], found["retl_lease_owner"]["orders",]))

    warehouse = SQLite(str(tmp_path / "warehouse.db"))
    await job(tmp_path / "warehouse.db").run_once()
    table = retl.Table("people", cursor="at", slice_rows=2)
    pipeline = job(tmp_path / "app.db", source=warehouse, tables=[table])
    metrics = PrometheusMetrics(pipeline)
    Recorder(pipeline).when(events.SliceCommitted, look, once=False)
    assert (await pipeline.run_once()).rows == 5
    assert seen == [(2, 3, 1), (4, 1, 1), (5, 0, 1)]
    await pipeline.run_once()
    # The row that ties with the watermark was read again.
    assert parsed(metrics.text())["retl_rows_written_total"] == {("orders", "people"): 6}
    assert parsed(metrics.text())["retl_rows_changed_total"] == {("orders", "people"): 5}


async def test_a_backfill_counts_once_however_often_it_gives_way_and_its_failures_are_none_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retl.engine.turns.LONG_SECONDS", 0.0)
    rows = [{"id": number, "at": f"2024-01-{number + 1:02d} 00:00:00"} for number in range(30)]
    await job(tmp_path / "warehouse.db", lambda: rows).run_once()
    tables = [retl.Table("people", cursor="at", slice_rows=1)]
    source = SQLite(str(tmp_path / "warehouse.db"))
    pipeline = job(tmp_path / "app.db", source=source, tables=tables, interval="20ms")
    heard = Recorder(pipeline)
    async with running(pipeline) as after:
        await after(events.ScanFinished)
        metrics = PrometheusMetrics(pipeline)
        heard.events.clear()
        report = await pipeline.backfill("people", until="2024-01-26")
    assert (report.ok, report.rows) == (True, 25)
    (of_backfill,) = [event.report for event in heard.of(events.ScanFinished) if event.report.mode == "backfill"]
    others = [event.report.rows for event in heard.of(events.ScanFinished) if event.report.mode != "backfill"]
    assert of_backfill.rows == 25 and len(heard.of(events.ScanStarted)) > len(others) + 1  # it gave way
    table = ("orders", "people")
    assert parsed(metrics.text())["retl_rows_written_total"] == {table: 25 + sum(others)}
    Database(tmp_path / "app.db").run("DROP TABLE people")
    before = parsed(metrics.text())
    with pytest.raises(retl.GuardStopped):
        await pipeline.backfill("people", until="2024-01-26")
    found = parsed(metrics.text())
    assert found["retl_scans_total"][*table, "failed"] == 1
    assert found["retl_consecutive_failures"] == {table: 0}
    assert found["retl_last_success_timestamp_seconds"] == before["retl_last_success_timestamp_seconds"]
    await pipeline.aclose()


async def test_only_the_owner_says_that_it_owns(tmp_path: Path) -> None:
    one, two = job(tmp_path / "app.db"), job(tmp_path / "app.db")
    two._runner.lease._owner = "elsewhere/1//1/x"  # as another process would be
    metrics = [PrometheusMetrics(pipeline) for pipeline in (one, two)]
    waits = anyio.Event()
    two.subscribe(lambda event: waits.set() if isinstance(event, events.LeaseHeld) else None)
    async with retl.running(one), retl.running(two):
        with anyio.fail_after(20):
            await waits.wait()
        found = [parsed(one.text()) for one in metrics]
        assert [one["retl_lease_owner"]["orders",] for one in found] == [1, 0]
        assert [one["retl_pipeline_state"]["orders", "standby"] for one in found] == [0, 1]
        assert [one["retl_store_reachable"]["orders",] for one in found] == [1, 1]


async def test_a_registry_of_the_host_shows_both_and_takes_retl_once(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    Gauge("of_the_host", "its own", registry=registry).set(7)
    metrics = PrometheusMetrics(job(tmp_path / "app.db"), registry=registry)
    found = parsed(metrics.text())
    assert found["of_the_host"] == {(): 7}
    assert found["retl_lease_owner"] == {("orders",): 0}
    with pytest.raises(retl.ConfigError, match="holds retl's metrics already"):
        PrometheusMetrics(job(tmp_path / "app.db"), registry=registry)
    metrics.close()
    PrometheusMetrics(job(tmp_path / "app.db"), registry=registry).close()


def points(reader: InMemoryMetricReader) -> dict[str, Any]:
    """The points of each instrument, by the values of their attributes; of the histogram, its count."""
    data = reader.get_metrics_data()
    found: dict[str, Any] = {}
    for of_resource in data.resource_metrics if data else ():
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                for point in metric.data.data_points:
                    value = getattr(point, "value", None)
                    labels = tuple((point.attributes or {}).items())
                    found.setdefault(metric.name, {})[labels] = point.count if value is None else value  # type: ignore[union-attr]
    return found


async def test_opentelemetry_reads_the_same_numbers(tmp_path: Path) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    pipeline = job(tmp_path / "app.db")
    metrics = OpenTelemetryMetrics(pipeline, meter_provider=provider)
    await pipeline.run_once()
    found = points(reader)
    table = (("retl.pipeline", "orders"), ("retl.table", "people"))
    assert found["retl.rows.written"] == {table: 5}
    assert found["retl.scan.duration"] == {table: 1}
    assert found["retl.scans"] == {(*table, ("retl.status", "done")): 1}
    assert found["retl.healthy"] == {(("retl.pipeline", "orders"),): 1}
    assert set(found) == {metric.otel for metric in METRICS} - {"retl.lag"}  # the table has no cursor
    metrics.close()
    assert "retl.rows.written" not in points(reader)
    provider.shutdown()


async def test_a_retry_is_counted_and_is_no_scan_of_its_own(tmp_path: Path) -> None:
    calls = 0

    def read() -> Iterator[dict[str, Any]]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise retl.TransientError("not now")
        yield from ROWS

    pipeline = job(tmp_path / "app.db", read)
    metrics = PrometheusMetrics(pipeline)
    await pipeline.run_once()
    found, table = parsed(metrics.text()), ("orders", "people")
    assert found["retl_scan_retries_total"] == {table: 1}
    assert found["retl_scans_total"] == {(*table, "done"): 1}
    assert found["retl_rows_written_total"] == {table: 5}


async def test_another_thread_may_read_while_tables_come(tmp_path: Path) -> None:
    """As Prometheus' own server does."""
    tables = [f"t{number}" for number in range(6)]
    pipeline = job(tmp_path / "app.db", tables=tables)
    metrics = PrometheusMetrics(pipeline)
    errors: list[BaseException] = []
    ended = threading.Event()

    def read() -> None:
        try:
            while not ended.wait(0.002):
                metrics.text()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        await pipeline.run_once()
    finally:
        ended.set()
        await anyio.to_thread.run_sync(thread.join)
    assert errors == []
    assert len(parsed(metrics.text())["retl_rows_written_total"]) == 6


@pytest.mark.parametrize(
    ("upper", "watermark", "seconds"),
    [
        ("2024-01-01 00:00:10", "2024-01-01 00:00:00", 10.0),
        ("2024-01-01T00:00:10.5+00:00", "2024-01-01T02:00:00+02:00", 10.5),
        ("2024-01-02", "2024-01-01", 86_400.0),
        ("2024-01-01", "2024-01-02", 0.0),
        ("17", "3", None),
        (None, "2024-01-01", None),
        ("2024-01-01", None, None),
    ],
)
def test_lag_is_what_the_source_had_beyond_the_watermark(
    upper: str | None, watermark: str | None, seconds: float | None
) -> None:
    assert lag(watermark, upper) == (pytest.approx(seconds) if seconds is not None else None)


def test_names_follow_the_conventions_of_each() -> None:
    units = {"s": "seconds", "By": "bytes"}
    for metric in METRICS:
        words = re.sub(r"_total$", "", metric.name).split("_")
        assert (metric.name.endswith("_total")) == (metric.kind == "counter"), metric.name
        if metric.unit in units:
            assert words.pop() == units[metric.unit], metric.name
            if words[-1] == "timestamp":
                words.pop()
        assert re.split(r"[._]", metric.otel) == words, metric.name
        assert set(metric.labels) <= {"pipeline", "table", "status", "state"}
    assert len({metric.name for metric in METRICS}) == len({metric.otel for metric in METRICS}) == len(METRICS)


_WITHOUT = """
import sys
sys.modules["prometheus_client"] = sys.modules["opentelemetry"] = None
from retl.observe import metrics
for name in ("PrometheusMetrics", "OpenTelemetryMetrics"):
    try:
        getattr(metrics, name)
    except ModuleNotFoundError as error:
        print(error)
"""


def test_a_missing_package_names_its_extra() -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT], capture_output=True, text=True, check=False)
    told = done.stdout.splitlines()
    assert [line.split(":", 1)[1] for line in told] == [" pip install 'retl[prometheus]'", " pip install 'retl[otel]'"]
