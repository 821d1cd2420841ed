"""What users get of a pipeline: times that are aware, and dicts that every JSON library takes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, get_args, get_origin

import msgspec
import pytest
from fastapi.encoders import jsonable_encoder
from pydantic import TypeAdapter

import retl
from retl import events
from retl.model.plain import EPOCH, Plain, time_of, time_text

NOON = datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
PROGRESS = retl.Progress(rows=1, rows_planned=None, bytes=2, slices=3, slices_planned=4, seconds=5.5)
SCAN = retl.ScanReport(
    pipeline="p",
    table="t",
    to="t",
    scan_id="s",
    status="done",
    mode="full",
    started_at=NOON,
    seconds=1.5,
    next_run=NOON + timedelta(hours=1),
    warnings=("mind the gap",),
)
TOLD: list[Plain] = [
    SCAN,
    retl.RunReport("p", (SCAN,)),
    events.ScanFinished(pipeline="p", at=NOON, report=SCAN),
    events.Recovered(pipeline="p", at=NOON, table="t", since=NOON, failures=2),
    retl.Reject(table="t", key="1", reason="r", content="{}", at=NOON),
    retl.Snapshot(
        pipeline="p",
        state="idle",
        healthy=True,
        next_run=NOON,
        tables=(retl.TableSnapshot(table="t", last_success=NOON, progress=PROGRESS),),
    ),
    retl.PipelineStatus(
        pipeline="p",
        state="idle",
        schedule="every 5m",
        last_run=NOON,
        tables=(retl.TableStatus(table="t", to="t", scheduled_scan=True, last=SCAN),),
    ),
]
TIMES = {
    "at",
    "since",
    "started_at",
    "next_run",
    "last_run",
    "last_success",
    "progress_at",
    "failing_since",
    "paused_since",
    "sent_at",
    "ended_at",
}
"""Fields that say a time of day."""
OF_RANGES = (retl.ScanReport, retl.BackfillStatus, events.BackfillStarted)
"""Where ``since`` is a value of the cursor."""


@pytest.mark.parametrize("value", TOLD, ids=lambda value: type(value).__name__)
def test_fastapi_and_pydantic_take_the_dict_of_every_answer_as_it_is(value: Plain) -> None:
    told = value.to_dict()
    text = json.loads(json.dumps(told))
    assert jsonable_encoder(told) == text
    assert json.loads(TypeAdapter(dict[str, Any]).dump_json(told)) == text
    assert msgspec.convert(text, type(value)) == value


def public() -> list[type[Plain]]:
    found: list[type[Plain]] = []
    waiting: list[type[Plain]] = [Plain]
    while waiting:
        kinds = waiting.pop().__subclasses__()
        found += kinds
        waiting += kinds
    return [kind for kind in found if kind.__module__.startswith("retl.")]


def test_no_answer_tells_a_time_as_text() -> None:
    kinds = public()
    assert {retl.ScanReport, retl.RunReport, retl.Snapshot, retl.PipelineStatus, retl.TableStatus} <= set(kinds)
    assert {retl.TableSnapshot, retl.Progress, retl.Reject, events.ScanFinished} <= set(kinds)
    wrong = []
    for kind in kinds:
        for field in msgspec.structs.fields(kind):
            types = {field.type, *get_args(field.type)} if get_origin(field.type) else {field.type}
            says_time = field.name in TIMES and not (kind in OF_RANGES and field.name == "since")
            if (datetime in types) != says_time:
                wrong.append(f"{kind.__name__}.{field.name}")
    assert wrong == []


def test_a_time_of_the_store_comes_back_as_it_was() -> None:
    assert time_of(time_text(NOON)) == NOON
    assert time_text(NOON) < time_text(NOON + timedelta(microseconds=1)) < time_text(NOON.replace(second=10))
    assert time_of("2024-05-01T12:00:00") == datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert time_of("yesterday") == EPOCH
