"""What a target may be asked of the columns that retl itself adds to a table: the vectors of its texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa

from retl.model.errors import UnsupportedError
from retl.model.table import TableSpec


class OwnColumns:
    """The part of ``Target`` that is about such columns. A target that cannot be asked knows of nothing."""

    system: ClassVar[str]

    async def outdated(self, table: TableSpec) -> str | None:
        """Why the next scan must read everything, whatever its checkpoint says; ``None`` where it need not.

        Raises ``SchemaDrift`` where the table was written in a way that its declaration no longer allows.
        """
        return None

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
