"""Keys that repeat within one slice, and where that is nobody's business."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from retl.connectors.rows.keys import KeyWatch
from retl.model.plan import WriteSpec
from retl.testing import table_spec

ROWS = pa.record_batch({"id": [1, 2, 1], "name": ["a", "b", "c"]})


def watched(*, unique_key: bool = False, **words: Any) -> bool:
    table = table_spec("people", key="id", **words)
    keys = KeyWatch(WriteSpec("p", table, ROWS.schema, ("id",), "s", unique_key=unique_key))
    keys.add(ROWS)
    return keys.has_duplicates()


def test_an_upsert_hears_of_a_repeated_key() -> None:
    assert watched()


def test_batches_of_text_and_typed_ones_are_held_against_each_other() -> None:
    keys = KeyWatch(WriteSpec("p", table_spec("people", key="id"), ROWS.schema, ("id",), "s"))
    keys.add(ROWS.slice(0, 2))
    keys.add(pa.record_batch({"id": ["3", "4"], "name": ["c", "d"]}))
    assert not keys.has_duplicates()
    keys.add(pa.record_batch({"id": ["2"], "name": ["b"]}))
    assert keys.has_duplicates()


@pytest.mark.parametrize("words", [{"write": "append"}, {"pre_action": "swap"}, {"unique_key": True}], ids=str)
def test_where_rows_are_taken_as_they_are_nothing_is_watched(words: dict[str, Any]) -> None:
    assert not watched(**words)
