"""Images of a SQLite database: whatever the sizes of its rows, SQLite finds it sound and reads the same rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retl.connectors.sqlite.pages import PAGE, Image

CELL = 8 + 2 + 4
"""Bytes of a cell with one value, the value aside: length, rowid, and the record's header."""
ROOM = PAGE - 8
"""Bytes of a leaf for cells and their pointers, of two bytes each."""


def read(batches: Sequence[pa.RecordBatch]) -> tuple[list[bytes | None], list[pa.RecordBatch]]:
    """What SQLite reads from an image of batches with one column, and the rows that were too large."""
    image = Image(1)
    large = [left for batch in batches if (left := image.add(batch)) is not None]
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("ATTACH ':memory:' AS m")
        image.load(connection, "m")
        assert connection.execute("PRAGMA m.integrity_check").fetchall() == [("ok",)]
        rows = connection.execute("SELECT rowid, c0 FROM m.b ORDER BY rowid").fetchall()
    assert [rowid for rowid, _ in rows] == list(range(1, image.rows + 1))
    return [value for _, value in rows], large


def batch_of(sizes: Sequence[int]) -> pa.RecordBatch:
    values = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    return pa.RecordBatch.from_arrays([pa.array(values, pa.binary())], names=["c0"])


def filling(rows: int, slack: int) -> list[int]:
    """Sizes of so many values that a page has ``slack`` bytes left; it has too few where that is negative."""
    total = ROOM - slack - rows * (CELL + 2)
    sizes = [total // rows] * rows
    sizes[-1] += total - sum(sizes)
    return sizes


@pytest.mark.parametrize("rows", [2, 3, 17, 4_095])
@pytest.mark.parametrize("slack", range(-4, 5))
def test_a_page_is_filled_to_its_last_byte_and_no_further(rows: int, slack: int) -> None:
    batch = batch_of([*filling(rows, slack), *filling(rows, slack), 1])
    values, large = read([batch])
    assert values == batch.column(0).to_pylist()
    assert not large


@given(
    st.lists(st.lists(st.integers(0, 3_000), min_size=1, max_size=60), min_size=1, max_size=4),
    st.integers(-4, 4),
    st.integers(0, 80_000),
)
def test_rows_of_any_size_are_read_as_they_were(sizes: list[list[int]], slack: int, big: int) -> None:
    used = sum(size + CELL + 2 for size in sizes[0])
    sizes[0].append(max(0, ROOM - slack - used % ROOM - CELL - 2))  # up to the edge of a page
    batches = [batch_of(part) for part in (*sizes, [big])]
    values, large = read(batches)
    told = [value for batch in batches for value in batch.column(0).to_pylist()]
    left = [value for batch in large for value in batch.column(0).to_pylist()]
    assert [value for value in told if value not in left] == [value for value in values if value not in left]
    assert sorted([*values, *left]) == sorted(told)
    assert all(len(value) > PAGE - 200 for value in left)


def test_values_of_every_kind_are_read_as_they_were() -> None:
    kinds = {
        pa.int64(): [0, -(2**63), 2**63 - 1, None],
        pa.float64(): [0.5, float("inf"), -1e300, None],
        pa.string(): ["", "🙂", "a\0b", None],
        pa.binary(): [b"", b"\0\xff", None],
    }
    for kind, values in kinds.items():
        found, _ = read([pa.RecordBatch.from_arrays([pa.array(values, kind)], names=["c0"])])
        assert found == values
