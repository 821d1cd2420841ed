"""A user's callable, held to the contract of a target: once with batches, once with rows."""

from __future__ import annotations

from typing import Any, ClassVar

import pyarrow as pa
import pytest

from retl.connectors import FunctionTarget
from retl.connectors.base import Target
from retl.connectors.function import BatchContext
from retl.model.actions import PreAction
from retl.testing import TargetContract

_BAD = "what this service does not take"


class Service(TargetContract):
    """A service without transactions, which upserts by key where it is told one."""

    transactional: ClassVar[bool] = False
    has_tables: ClassVar[bool] = False
    keyed: ClassVar[bool] = False
    pre_actions: ClassVar[frozenset[PreAction]] = frozenset({PreAction.NONE})
    rejected: ClassVar[dict[str, Any]] = {"id": 77, "name": _BAD, "updated_at": None}

    @pytest.fixture(autouse=True)
    def _service(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {}

    def take(self, rows: list[dict[str, Any]], context: BatchContext) -> list[tuple[int, str]]:
        held = self.rows.setdefault(context.table, [])
        for row in rows:
            if row["name"] == _BAD:
                continue
            same = [other for other in held if context.key and other["id"] == row["id"]]
            for other in same:
                held.remove(other)
            held.append(row)
        return [(number, "not taken") for number, row in enumerate(rows) if row["name"] == _BAD]

    async def contents(self, table: str) -> list[dict[str, Any]]:
        return self.rows.get(table, [])

    async def tables(self) -> list[str]:
        return sorted(self.rows)


class TestCallableOfBatches(Service):
    def target(self) -> Target:
        async def write(batch: pa.RecordBatch, context: BatchContext) -> list[tuple[int, str]]:
            return self.take(batch.to_pylist(), context)

        return FunctionTarget(write)


class TestCallableOfRowsInAThread(Service):
    def target(self) -> Target:
        def write(rows: list[dict[str, Any]], context: BatchContext) -> list[tuple[int, str]]:
            return self.take(rows, context)

        return FunctionTarget(write, rows=True, batch_rows=100)
