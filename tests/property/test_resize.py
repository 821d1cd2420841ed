"""Batches cut and joined: order and content never change."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from retl.engine.resize import Resizer
from retl.model.plan import BatchSize


@given(
    sizes=st.lists(st.integers(0, 70), max_size=25),
    rows=st.integers(1, 50),
    limit=st.integers(8, 4_000),
    widths=st.lists(st.integers(0, 40), min_size=1, max_size=5),
)
def test_resizing_keeps_order_and_content_and_bounds(
    sizes: list[int], rows: int, limit: int, widths: list[int]
) -> None:
    resizer = Resizer(BatchSize(rows=rows, bytes=limit))
    sent: list[tuple[int, str]] = []
    out: list[tuple[pa.RecordBatch, int]] = []
    for size in sizes:
        numbers = range(len(sent), len(sent) + size)
        texts = ["x" * widths[number % len(widths)] for number in numbers]
        sent.extend(zip(numbers, texts, strict=True))
        out.extend(
            resizer.push(pa.record_batch({"n": pa.array(numbers, pa.int64()), "t": pa.array(texts, pa.string())}))
        )
    out.extend(resizer.flush())
    got = [(row["n"], row["t"]) for batch, _ in out for row in batch.to_pylist()]
    assert got == sent
    assert all(0 < batch.num_rows <= rows for batch, _ in out)
    assert list(resizer.flush()) == []
    assert all(size <= limit or batch.num_rows == 1 for batch, size in out)


@given(st.lists(st.integers(1, 30), max_size=20))
def test_a_batch_that_fits_is_passed_on_as_it_is(sizes: list[int]) -> None:
    resizer = Resizer(BatchSize(rows=30, bytes=1_000_000))
    for size in sizes:
        batch = pa.record_batch({"n": pa.array(range(size), pa.int64())})
        passed = list(resizer.push(batch))
        if passed and passed[-1][0].num_rows == size:
            assert passed[-1][0] is batch
        resizer.clear()


def test_a_change_of_shape_is_a_border() -> None:
    resizer = Resizer(BatchSize(rows=100))
    first, second = pa.record_batch({"a": pa.array([1])}), pa.record_batch({"a": pa.array(["1"])})
    out = [*resizer.push(first), *resizer.push(second), *resizer.flush()]
    assert [batch.to_pylist() for batch, _ in out] == [[{"a": 1}], [{"a": "1"}]]
