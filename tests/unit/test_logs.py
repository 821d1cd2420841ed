"""Events as structlog lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog
from structlog.testing import CapturingLogger, capture_logs

from retl.connectors.duckdb import DuckDB
from retl.connectors.sqlite import SQLite
from retl.model import events
from retl.model.report import Progress
from retl.observe.logs import event_words, log_event, log_events
from retl.pipeline import Pipeline


def logged(event: events.Event) -> tuple[str, str, dict[str, Any]]:
    logger = CapturingLogger()
    log_event(event, logger)
    (call,) = logger.calls
    return call.method_name, call.args[0], dict(call.kwargs)


def test_every_event_has_words() -> None:
    words = [event_words(kind(**dict.fromkeys(kind.__struct_fields__, ""))) for kind in events.Event.__subclasses__()]
    assert "scan finished" in words and "rows rejected" in words
    assert len(words) == len(set(words))


def test_levels_and_fields() -> None:
    assert logged(events.Warned(pipeline="p", at="now", table="t", message="m")) == (
        "warning",
        "warned",
        {"pipeline": "p", "at": "now", "table": "t", "message": "m"},
    )
    progress = Progress(rows=1, rows_planned=None, bytes=2, slices=3, slices_planned=4, seconds=5.0)
    level, words, fields = logged(events.RowsMoved(pipeline="p", table="t", scan_id="s", progress=progress))
    assert (level, words) == ("debug", "rows moved")
    assert fields["rows"] == 1 and "rows_planned" not in fields and "progress" not in fields


async def test_a_pipeline_is_logged_until_that_is_ended(tmp_path: Path) -> None:
    pipeline = Pipeline("p", source=DuckDB(), target=SQLite(str(tmp_path / "app.db")), tables=["nothing"])
    with capture_logs() as lines:
        end = log_events(pipeline, structlog.get_logger())
        await pipeline.run_once(check=False)
        end()
        count = len(lines)
        await pipeline.run_once(check=False)
    told = [(line["log_level"], line["event"]) for line in lines[:count]]
    assert ("error", "scan failed") in told and ("info", "scan started") in told
    failed = next(line for line in lines if line["event"] == "scan failed")
    assert (failed["pipeline"], failed["table"], failed["error_type"]) == ("p", "nothing", "ConfigError")
    assert [line["event"] for line in lines[count:] if line["event"] == "scan started"] == []
