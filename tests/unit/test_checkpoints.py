"""What is true once a slice, or a whole scan, is committed."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from retl.engine.checkpoints import after_scan, after_slice, selection, with_rows
from retl.model.checkpoint import Checkpoint, Refresh
from retl.model.plan import SourcePlan
from retl.model.window import Position, Slice
from retl.testing import table_spec

TABLE = table_spec("t", cursor="at", key="id")
PLAN = SourcePlan(
    table=TABLE,
    schema=pa.schema([("id", pa.int64()), ("at", pa.timestamp("us"))]),
    key=("id",),
    slices=(),
    cursor_type="timestamp[us]",
)
BEFORE = Checkpoint(
    cursor="at",
    cursor_type="timestamp[us]",
    watermark="2024-01-01 00:00:05",
    position=Position("1", "2", 4, 1),
    refresh=Refresh("s0", "truncate"),
    detail={"a": 1, "b": 2},
    target="table 1",
    written=7,
)


def test_a_slice_adds_what_it_knows_and_keeps_the_rest() -> None:
    part = Slice(index=0, watermark="2024-01-01 00:00:09", position=Position("1", "2", 4, 2), detail={"b": 3})
    after = after_slice(BEFORE, PLAN, part, "s1", None)
    assert after.detail == {"a": 1, "b": 3}
    assert (after.watermark, after.position) == ("2024-01-01 00:00:09", Position("1", "2", 4, 2))
    assert (after.refresh, after.target, after.written) == (BEFORE.refresh, "table 1", 7)
    assert (after.scan_id, after.cursor, after.cursor_type) == ("s1", "at", "timestamp[us]")


def test_a_slice_without_a_watermark_leaves_it_where_it_is() -> None:
    assert after_slice(BEFORE, PLAN, Slice(index=0), "s1", None).watermark == BEFORE.watermark


@pytest.mark.parametrize(("second", "watermark"), [(4, "00:00:05"), (6, "00:00:06.000000")])
def test_a_stream_moves_the_watermark_on_and_never_back(second: int, watermark: str) -> None:
    highest = pa.scalar(f"2024-01-01 00:00:0{second}").cast(pa.timestamp("us"))
    after = after_slice(BEFORE, PLAN, Slice(index=0, ordered_by="at"), "s1", highest)
    assert after.watermark == f"2024-01-01 {watermark}"
    # What does not come in cursor order proves nothing of what lies below.
    assert after_slice(BEFORE, PLAN, Slice(index=0), "s1", highest).watermark == BEFORE.watermark


def test_a_scan_that_is_over_forgets_how_far_it_was_and_remembers_what_it_read() -> None:
    after = after_scan(BEFORE, PLAN, "s1")
    assert (after.refresh, after.position) == (None, None)
    assert after.columns == {"id": "int64", "at": "timestamp[us]"}
    assert after.selection == selection(TABLE)
    assert (after.watermark, after.detail, after.target, after.written) == (
        BEFORE.watermark,
        BEFORE.detail,
        "table 1",
        7,
    )
    assert with_rows(after, 3).written == 10


def test_a_selection_is_another_one_where_anything_of_it_changes() -> None:
    words: list[dict[str, Any]] = [
        {},
        {"columns": ["id"]},
        {"exclude": ["name"]},
        {"where": "id > 1"},
        {"expressions": {"a": "b"}},
        {"rename": {"a": "b"}},
        {"query": "SELECT 1"},
    ]
    assert len({selection(table_spec("t", **one)) for one in words}) == len(words)
