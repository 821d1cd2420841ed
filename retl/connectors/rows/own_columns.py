"""What a target may be asked of a table before a scan, and of the columns that retl itself adds: the vectors of its texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa

from retl.model.answers import TargetTable
from retl.model.errors import UnsupportedError
from retl.model.table import TableSpec


class OwnColumns:
    """This part of ``Target``. A target that cannot be asked knows of nothing."""

    system: ClassVar[str]

    async def inspect(self, table: str) -> TargetTable | None:
        """Whether the table is there and holds rows, cheaply; ``None`` where this target cannot tell.

        The engine asks before every scan that has a checkpoint: a table that was lost while
        its checkpoint stayed is never passed over.
        """
        return None

    async def inspect_column(self, table: str, column: str) -> TargetTable | None:
        """The same with the ``extremes`` of a column, if it has any; as one question, where the target can."""
        found = await self.inspect(table)
        if found is None or not found.exists:
            return found
        return dataclasses.replace(found, extremes=await self.extremes(table, column))

    async def look(self, table: TableSpec) -> TargetTable | None:
        """The same before a scan of a table, with what makes it ``outdated``.

        Raises ``SchemaDrift`` where the table was written in a way that its declaration no longer allows.
        """
        return await self.inspect(table.to)

    async def lookup(self, table: str, column: str, values: Sequence[str], wanted: Sequence[str]) -> pa.Table:
        """The committed rows in which a column of text has one of some values: that column and others, all as canonical text.

        Nothing where the table or a column is missing, or where this target cannot look; a column of another kind may be
        left out likewise. Several rows may have one value.
        """
        return pa.table({name: pa.array([], pa.string()) for name in (column, *wanted)})

    async def extremes(self, table: str, column: str) -> tuple[str, str] | None:
        """The lowest and the highest text of a column; ``None`` if it has none, is missing, or cannot be asked."""
        return None

    async def drop_columns(self, table: str, columns: Sequence[str]) -> None:
        """Drop columns that retl itself has added, as far as they are there, with their indexes."""
        raise UnsupportedError(
            f"a {self.system} target cannot drop columns.",
            remedy="write into another table, or under other names of columns.",
            system=self.system,
        )
