"""Scans of StarRocks and Doris: a full scan is one slice for each partition, so that unchanged ones can be left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from retl.connectors.olap.dialect import is_nested
from retl.connectors.olap.reader import OlapReader
from retl.connectors.sql.scan import SqlScan
from retl.connectors.sql.selection import Relation, Selection
from retl.model.actions import PreAction, Write
from retl.model.plan import SourcePlan
from retl.model.window import Slice

_PARTITION = "partition:"


class OlapScan(SqlScan[OlapReader]):
    """A scan that may read partition by partition."""

    def __init__(self, *facts: Any) -> None:
        super().__init__(*facts)
        self._partitions: Sequence[str] = ()
        """That of each slice, where it reads partition by partition."""

    def selection(self, slice_: Slice) -> Selection:
        if not self._partitions:
            return self._chosen
        name = self._reader.dialect.identifier(self._partitions[slice_.index])
        relation = self._chosen.relation
        divided = Relation(f"{relation.sql} PARTITION ({name})", relation.schema)
        return dataclasses.replace(self._chosen, relation=divided)

    async def _plan_full(self) -> SourcePlan:
        plan = await super()._plan_full()
        if self._table.query is not None or not plan.slices:
            return self._warned(plan)
        skip = (
            self._reader.reading.skip_unchanged
            and self._table.pre_action is PreAction.NONE
            and self._table.write is Write.UPSERT
        )
        versions = await self._reader.partitions(self._table.name)
        if not versions or (len(versions) == 1 and not skip):
            return self._warned(plan)
        # The selection is remembered for each partition, since a scan that ends halfway leaves the others as they were.
        states = {name: f"{version} {self._fingerprint()}" for name, version in versions.items()}
        read_before = self._checkpoint.detail
        wanted = [name for name in states if not (skip and read_before.get(_PARTITION + name) == states[name])]
        return self._warned(self._by_partition(plan, wanted, len(states), states if skip else {}))

    def _by_partition(self, plan: SourcePlan, wanted: Sequence[str], of: int, states: dict[str, str]) -> SourcePlan:
        self._partitions = wanted
        slices = tuple(
            Slice(index=index, divisible=True, detail={_PARTITION + name: states[name]} if states else {})
            for index, name in enumerate(wanted)
        )
        rows = plan.rows if len(wanted) == of else None if wanted else 0
        statements = tuple(map(self.statement, slices[:1]))
        return dataclasses.replace(plan, slices=slices, rows=rows, statements=statements)

    def _fingerprint(self) -> str:
        return sha256(f"{self._chosen.raw()} {self._schema}".encode()).hexdigest()[:16]

    def _warned(self, plan: SourcePlan) -> SourcePlan:
        """Warn how nested columns arrive."""
        nested = [column for column in self._schema if is_nested(column)]
        if not nested:
            return plan
        advice = ", ".join(f'{column.name} = "{self._reader.dialect.to_json(column)}"' for column in nested)
        warning = (
            f"{', '.join(column.name for column in nested)}: arrays, maps and structs arrive as the server writes them, "
            f"which is not always JSON; for JSON use expressions = {{ {advice} }}."
        )
        return dataclasses.replace(plan, warnings=(*plan.warnings, warning))
