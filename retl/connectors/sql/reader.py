"""What a SQL system adds to the shared scan: how to ask it over one connection, and its peculiarities."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pyarrow as pa

from retl.connectors.sql.dialect import Dialect
from retl.connectors.sql.query import query_text
from retl.connectors.sql.selection import Relation, Selection
from retl.model.cursor import CursorFamily
from retl.model.errors import ConfigError
from retl.model.schema import TableSchema
from retl.model.table import TableSpec
from retl.model.window import Bounds


class SqlReader(ABC):
    """Reads a SQL system over one connection, for one scan or one question. Used by one task at a time."""

    dialect: Dialect

    @abstractmethod
    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a small result."""

    @abstractmethod
    def stream(self, sql: str, schema: pa.Schema) -> AsyncGenerator[pa.RecordBatch, None]:
        """The rows of a large result, in batches of bounded size: columns in the order of ``schema``."""

    @abstractmethod
    async def columns(self, sql: str) -> pa.Schema:
        """The result's columns with their logical types, without running the statement."""

    @abstractmethod
    async def list_tables(self) -> list[str]:
        """See ``Source.list_tables``."""

    @abstractmethod
    async def describe(self, table: str) -> TableSchema | None:
        """See ``Source.describe``."""

    @abstractmethod
    async def location(self, table: str) -> str | None:
        """See ``Source.location``."""

    def from_clause(self, name: str) -> str:
        """A table's name in FROM."""
        return self.dialect.table(name)

    def hash_version(self) -> str:
        """The system's version, if its hash may change from one to the next."""
        return ""

    def clock(self, now: str, cursor: pa.Field, settle: timedelta) -> str:
        """The source's clock as the dialect asks for it, in the frame of a cursor column.

        Where that was put forward within ``settle``, as it would show without: rows must be so old.
        """
        return now

    async def dst_shift(self) -> timedelta:
        """How far the clock by which times without a zone are written is put back in autumn; zero where unknown."""
        return timedelta()

    async def check_order(  # noqa: B027  # not abstract: most systems order every cursor by its meaning
        self, chosen: Selection, cursor: pa.Field, family: CursorFamily, watermark: str | None, bounds: Bounds
    ) -> None:
        """Refuse a cursor that the system does not sort by its meaning."""

    async def chosen_schema(self, chosen: Selection) -> pa.Schema:
        """The columns of a scan under the target's names; a NOT NULL column of the source is NOT NULL in the target too."""
        fields = []
        for name, column in zip(chosen.names, await self.columns(chosen.raw()), strict=True):
            strict = name not in chosen.table.expressions and not chosen.relation.schema.columns.field(name).nullable
            fields.append(column.with_nullable(not strict))
        return pa.schema(fields)

    async def relation(self, table: TableSpec) -> Relation:
        """The relation of a table's name or query. Raises ``ConfigError`` if it does not exist."""
        if table.query is not None:
            # On a line of its own: the query may end in a comment.
            query = query_text(table.query, table.params, self.dialect)
            sql = f"({query}\n) AS {self.dialect.identifier('q')}"
            return Relation(sql, TableSchema(table.name, await self.columns(f"SELECT * FROM {sql}")))
        schema = await self.describe(table.name)
        if schema is None:
            raise await self.no_such_table(table.name)
        return Relation(self.from_clause(table.name), schema)

    async def no_such_table(self, name: str) -> ConfigError:
        """The error of a name that ``describe`` does not know."""
        offered = await self.list_tables()
        if name in offered:
            return ConfigError(
                f"the source does not show the columns of {name!r}.",
                remedy="give the user the right to SELECT from it.",
            )
        close = difflib.get_close_matches(name, offered, n=1)
        some = ", ".join(offered[:10]) + (" ..." if len(offered) > 10 else "")
        return ConfigError(
            f"the source has no table {name!r}.",
            remedy=f"did you mean {close[0]!r}?" if close else f"it has {some}." if offered else "the source is empty.",
        )


async def catalog_schema(reader: SqlReader, chosen: Selection) -> pa.Schema:
    """The columns of a scan: the catalog overrides a result's own description, which lacks lengths, enumerations, JSON."""
    known = chosen.relation.schema.columns
    computed = [name for name in chosen.names if name in chosen.table.expressions]
    described = dict(zip(chosen.names, await reader.columns(chosen.raw()), strict=True)) if computed else {}
    fields = [described[name] if name in computed else known.field(name) for name in chosen.names]
    return pa.schema(
        [column.with_name(chosen.table.target_name(name)) for column, name in zip(fields, chosen.names, strict=True)]
    )
