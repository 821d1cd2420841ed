"""The small tools of ``retl.testing``."""

from __future__ import annotations

import subprocess
import sys

import pytest

import retl
from retl.connectors import IteratorSource
from retl.testing import CrashingSource, Oracle, collect, table_spec

ROWS = [{"id": number, "name": f"row {number}"} for number in range(1, 201)]


def source() -> IteratorSource:
    return IteratorSource(lambda: ROWS, tables="orders")


async def test_collect_reads_a_whole_table() -> None:
    assert (await collect(source(), "orders")).to_pylist() == ROWS
    assert (await collect(source(), table_spec("orders", columns=["id"]))).column_names == ["id"]


async def test_a_crashing_source_fails_as_often_as_it_is_told() -> None:
    crashing = CrashingSource(source(), at_batch=2, times=2, error=retl.SourceError("gone"))
    for _ in range(2):
        with pytest.raises(retl.SourceError, match="gone"):
            await collect(crashing, "orders")
    assert (await collect(crashing, "orders")).num_rows == 200
    assert crashing.crashes == 2
    assert (await crashing.ping()).product == "function"
    assert await crashing.list_tables() == ["orders"]
    assert await crashing.describe("nothing") is None
    await crashing.aclose()


def test_an_oracle_knows_the_plain_meaning_of_each_mode() -> None:
    oracle = Oracle()
    oracle.upsert([{"id": 1, "a": "x", "b": 1}, {"id": 2, "a": "y", "b": 2}])
    oracle.upsert([{"id": 1, "a": "w"}])
    assert oracle.rows == [{"id": 1, "a": "w", "b": 1}, {"id": 2, "a": "y", "b": 2}]
    oracle.delete(2)
    oracle.append([{"id": 1, "a": "w", "b": 1}])
    assert len(oracle.rows) == 2
    oracle.replace([{"id": 9}])
    assert oracle.rows == [{"id": 9}]


def test_pytest_is_not_loaded_before_a_suite_is_used() -> None:
    code = "import sys, retl, retl.testing; assert 'pytest' not in sys.modules; retl.testing.SourceContract; assert 'pytest' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
