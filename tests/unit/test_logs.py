"""Events as structlog lines."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import CapturingLogger, capture_logs

from retl.connectors.duckdb import DuckDB
from retl.connectors.sqlite import SQLite
from retl.engine.bus import EventBus
from retl.engine.event_log import EventLog
from retl.model import events
from retl.model.report import Progress, ScanReport
from retl.observe.logs import event_words, log_event, log_events
from retl.pipeline import Pipeline

NOW = datetime(2024, 2, 29, 12, tzinfo=UTC)


def logged(event: events.Event) -> tuple[str, str, dict[str, Any]]:
    logger = CapturingLogger()
    log_event(event, logger)
    (call,) = logger.calls
    return call.method_name, call.args[0], dict(call.kwargs)


def test_every_event_has_words() -> None:
    unset: dict[str, Any] = {}
    kinds = events.Event.__subclasses__()
    words = [event_words(kind(**unset | dict.fromkeys(kind.__struct_fields__, ""))) for kind in kinds]
    assert "scan finished" in words and "rows rejected" in words
    assert len(words) == len(set(words))


def test_levels_and_fields() -> None:
    assert logged(events.Warned(pipeline="p", at=NOW, table="t", message="m")) == (
        "warning",
        "warned",
        {"pipeline": "p", "at": "2024-02-29T12:00:00Z", "table": "t", "message": "m"},
    )
    progress = Progress(rows=1, rows_planned=None, bytes=2, slices=3, slices_planned=4, seconds=5.0)
    level, words, fields = logged(events.RowsMoved(pipeline="p", table="t", scan_id="s", progress=progress))
    assert (level, words) == ("debug", "rows moved")
    assert fields["rows"] == 1 and "rows_planned" not in fields and "progress" not in fields
    fields = logged(events.ScanFinished(pipeline="p", at=NOW, report=report("done")))[2]
    assert fields["at"] == fields["started_at"] == "2024-02-29T12:00:00Z"


async def test_a_pipeline_is_logged_until_that_is_ended(tmp_path: Path) -> None:
    pipeline = Pipeline("p", source=DuckDB(), target=SQLite(str(tmp_path / "app.db")), tables=["nothing"])
    with capture_logs() as lines:
        end = log_events(pipeline, structlog.get_logger())
        await pipeline.run_once(check=False)
        end()
        count = len(lines)
        await pipeline.run_once(check=False)
    told = [(line["log_level"], line["event"]) for line in lines[:count]]
    assert ("error", "scan failed") in told and ("debug", "scan started") in told
    failed = next(line for line in lines if line["event"] == "scan failed")
    assert (failed["pipeline"], failed["table"], failed["error_type"]) == ("p", "nothing", "ConfigError")
    again = [(line["log_level"], line["event"]) for line in lines[count:]]
    assert again.count(("error", "scan failed")) == 1, "then retl logs by itself"


# As libraries log --------------------------------------------------------------------


@pytest.fixture
def no_structlog() -> Iterator[None]:
    """The host has not configured structlog."""
    before = structlog.get_config() if structlog.is_configured() else None
    structlog.reset_defaults()
    yield
    if before is not None:
        structlog.configure(**before)


FAILED = events.RunFailed(pipeline="p", at=NOW, error="no route to host", error_type="ConnectionFailed")


def test_the_standard_librarys_logger_gets_words_and_fields(
    no_structlog: None, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "retl"):
        EventBus().emit(FAILED)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("retl", "ERROR")
    words = "run failed pipeline=p at=2024-02-29T12:00:00Z error='no route to host' error_type=ConnectionFailed"
    assert record.getMessage() == words
    assert record.retl["error_type"] == "ConnectionFailed"  # type: ignore[attr-defined]
    assert capsys.readouterr() == ("", "")


def test_a_host_that_wants_no_logs_gets_none(no_structlog: None) -> None:
    program = (
        "from retl.engine.bus import EventBus; from retl import events\n"
        "EventBus().emit(events.RunFailed(pipeline='p', error='gone', error_type='x'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("ways", ["standard library", "structlog"])
def test_a_log_that_fails_ends_nothing(no_structlog: None, ways: str) -> None:
    class Full(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError(28, "No space left on device")

    def closed(*_: Any) -> Any:
        raise BrokenPipeError

    heard: list[events.Event] = []
    bus = EventBus()
    bus.subscribe(heard.append)
    handler = Full()
    logging.getLogger("retl").addHandler(handler)
    try:
        if ways == "structlog":
            structlog.configure(processors=[closed])
        bus.emit(FAILED)
    finally:
        logging.getLogger("retl").removeHandler(handler)
        structlog.reset_defaults()
    assert heard == [FAILED]


def test_a_listeners_own_variables_are_in_no_log(no_structlog: None, caplog: pytest.LogCaptureFixture) -> None:
    class Pager:
        token = "".join(["s3cr3t-", "token"])

        def __call__(self, event: events.Event) -> None:
            token = self.token
            raise RuntimeError(f"the pager of {len(token)} letters does not answer")

        def __repr__(self) -> str:
            return self.token

    bus = EventBus()
    bus.subscribe(Pager(), logs=True)
    with caplog.at_level(logging.DEBUG, "retl"):
        bus.emit(FAILED)
    (record,) = caplog.records
    assert "RuntimeError: the pager of 12 letters does not answer" in record.getMessage()
    assert "s3cr3t-token" not in record.getMessage()
    assert record.exc_info is None


def test_an_outage_is_one_error_then_a_line_now_and_then_and_at_last_recovered() -> None:
    logger, now = CapturingLogger(), [0.0]
    log = EventLog(lambda: logger, clock=lambda: now[0])
    retry = events.RetryScheduled(pipeline="p", table="t", error="gone", attempt=1, delay=1.0)
    failed = events.ScanFailed(pipeline="p", at=NOW, report=report("failed", error="gone"))
    for second in range(0, 400, 10):
        now[0] = second
        log(retry)
        log(failed)
    log(events.Recovered(pipeline="p", table="t", since=NOW, failures=40))
    log(retry)
    loud = [(call.method_name, call.args[0]) for call in logger.calls if call.method_name != "debug"]
    assert loud == [
        ("warning", "retry scheduled"),
        ("error", "scan failed"),
        ("error", "still failing"),
        ("error", "still failing"),
        ("info", "recovered"),
        ("warning", "retry scheduled"),
    ]
    still = [call.kwargs for call in logger.calls if call.args[0] == "still failing"]
    assert [(line["since"], line["failures"]) for line in still] == [
        ("2024-02-29T12:00:00Z", 7),
        ("2024-02-29T12:00:00Z", 19),
    ]


@pytest.mark.parametrize(
    ("words", "level"),
    [({}, "debug"), ({"rows": 3, "changed": 0}, "debug"), ({"rows": 3, "changed": 1}, "info"), ({"rows": 3}, "info")],
)
def test_a_scan_that_finds_nothing_new_is_a_line_for_debugging(words: dict[str, Any], level: str) -> None:
    assert logged(events.ScanFinished(pipeline="p", report=report("done", **words)))[0] == level


def report(status: Any, **words: Any) -> ScanReport:
    return ScanReport(
        pipeline="p", table="t", to="t", scan_id="1", status=status, mode="full", started_at=NOW, seconds=0.0, **words
    )
