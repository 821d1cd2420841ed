"""MySQL and MariaDB as a source, and what every source of their protocol shares."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from retl.connectors.base import SystemInfo
from retl.connectors.mysql.connection import Login, MySQLConnection, connected, held
from retl.connectors.mysql.dialect import MySQLDialect, described_field, logical_field, wire_kind
from retl.connectors.mysql.errors import SourceRefused
from retl.connectors.mysql.location import location
from retl.connectors.mysql.options import zone
from retl.connectors.mysql.questions import Questions
from retl.connectors.mysql.settings import reading
from retl.connectors.mysql.wire import WireField
from retl.connectors.rows.rejects import without_broken_text
from retl.connectors.sql.dialect import split_name
from retl.connectors.sql.select import Selection
from retl.connectors.sql.source import SqlSource, summer_shift
from retl.model.errors import ConfigError
from retl.model.plan import SourcePlan
from retl.model.schema import TableSchema
from retl.model.window import Slice
from retl.state.sql import STATE_TABLES

if TYPE_CHECKING:
    from retl.connectors.mysql import MySQL

_BROKEN_VIEW = 1356
SYSTEM_DATABASES = ("information_schema", "mysql", "performance_schema", "sys")


class WireSource(SqlSource):
    """A source that speaks MySQL's protocol. It keeps one connection for questions, and has one more for each stream."""

    dialect: MySQLDialect
    how_named: ClassVar[str] = "write table or database.table."

    def __init__(self, login: Login) -> None:
        self._login = login
        self.questions = Questions(self.connect)

    async def connect(self) -> MySQLConnection:
        """A new connection for questions."""
        return await MySQLConnection.open(self._login)

    async def connect_stream(self) -> MySQLConnection:
        """A new connection for one large result."""
        connection = await MySQLConnection.open(self._login)
        await connection.prove()
        return connection

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        async with self.questions.turn() as connection:
            return await connection.query(sql)

    async def stream(self, sql: str) -> AsyncIterator[pa.RecordBatch]:
        async with aclosing(self._rows(sql, None)) as batches:
            async for batch in batches:
                yield batch

    async def read(self, plan: SourcePlan, slice_: Slice) -> AsyncIterator[pa.RecordBatch]:
        sql = self.selection(plan, slice_).rows(plan.schema, slice_)
        async with aclosing(self._rows(sql, plan.schema)) as batches:
            async for batch in batches:
                yield batch

    async def _rows(self, sql: str, schema: pa.Schema | None) -> AsyncGenerator[pa.RecordBatch, None]:
        kinds = None if schema is None else [wire_kind(column) for column in schema]
        names = None if schema is None else schema.names
        async with (
            held(await self.connect_stream()) as connection,
            aclosing(connection.stream(sql, kinds, names)) as batches,
        ):
            async for batch in batches:
                yield without_broken_text(batch)

    async def columns(self, sql: str) -> pa.Schema:
        async with self.questions.turn() as connection:
            described = await connection.describe(f"{sql} LIMIT 0")
        return pa.schema([self.described_field(column) for column in described])

    def described_field(self, column: WireField) -> pa.Field:
        """The Arrow field of a result's column."""
        return described_field(column)

    async def chosen_schema(self, chosen: Selection) -> pa.Schema:
        """What the catalog says counts for more than what a result says of itself: lengths, enumerations, JSON."""
        known = chosen.relation.schema.columns
        computed = [name for name in chosen.names if name in chosen.table.expressions]
        described = dict(zip(chosen.names, await self.columns(chosen.raw()), strict=True)) if computed else {}
        return pa.schema(
            [
                (described[name] if name in computed else known.field(name)).with_name(chosen.table.target_name(name))
                for name in chosen.names
            ]
        )

    def spelled(self, name: str) -> str:
        """A name as it must be written to be read as one part."""
        return self.dialect.identifier(name) if set(name) & set('."`') else name

    def _locate(self, table: str) -> tuple[str, str]:
        """Database and name of a table."""
        parts = split_name(table)
        if len(parts) > 2:
            raise ConfigError(f"{table!r} has too many parts.", remedy=self.how_named)
        database = parts[0] if len(parts) > 1 else self._login.database
        if database is None:
            raise ConfigError(
                f"it is not said in which database {table!r} is.",
                remedy="name the database in url, or write database.table.",
            )
        return database, parts[-1]

    async def release(self) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self.questions.close()


class MySQLSource(WireSource):
    """Reads MySQL or MariaDB. See ``retl.connectors.MySQL``."""

    system: ClassVar[str] = "mysql"

    def __init__(self, options: MySQL) -> None:
        super().__init__(reading(options.login("source", ()), options.lock_seconds))
        self.dialect = MySQLDialect()
        self._zone = zone(options.timezone, self.system)
        self._shift: timedelta | None = None

    async def put_back(self) -> timedelta:
        if self._zone is not None:
            return summer_shift(self._zone, datetime.now(UTC).year)
        if self._shift is None:
            self._shift = await self._server_shift()
        return self._shift

    async def _server_shift(self) -> timedelta:
        """By how much the server's own zone differs between winter and summer; it may have no name."""
        year = datetime.now(UTC).year
        winter, summer = (
            f"CONVERT_TZ('{year}-{month}-15 12:00:00', '+00:00', @@GLOBAL.time_zone)" for month in ("01", "07")
        )
        days = (datetime(year, 7, 15, tzinfo=UTC) - datetime(year, 1, 15, tzinfo=UTC)).days
        ((seconds,),) = await self.query(f"SELECT TIMESTAMPDIFF(SECOND, {winter}, {summer})")
        return timedelta() if seconds is None else abs(timedelta(seconds=int(seconds)) - timedelta(days=days))

    def clock(self, now: str, cursor: pa.Field) -> str:
        if self._zone is None or not pa.types.is_timestamp(cursor.type) or cursor.type.tz:
            return now
        there = datetime.fromisoformat(now).replace(tzinfo=UTC).astimezone(self._zone)
        return there.replace(tzinfo=None).isoformat(" ")

    async def ping(self) -> SystemInfo:
        async with connected(self._login) as connection:
            await connection.query("SELECT 1")
            server = connection.server
            product = "MariaDB" if server.mariadb else "MySQL"
            return SystemInfo(product, ".".join(map(str, server.version)), warnings=connection.warnings)

    async def location(self, table: str) -> str | None:
        async with self.questions.turn() as connection:
            return await location(connection, *self._locate(table))

    async def list_tables(self) -> list[str]:
        mine = self._login.database
        where = (
            f"table_schema = {self.dialect.string(mine)}"
            if mine
            else f"table_schema NOT IN ({', '.join(map(self.dialect.string, SYSTEM_DATABASES))})"
        )
        rows = await self.query(f"SELECT table_schema, table_name FROM information_schema.tables WHERE {where}")
        return sorted(
            self.spelled(name) if mine else f"{self.spelled(schema)}.{self.spelled(name)}"
            for schema, name in rows
            if name not in STATE_TABLES and not name.startswith("_retl_")
        )

    async def describe(self, table: str) -> TableSchema | None:
        database, name = self._locate(table)
        here = f"table_schema = {self.dialect.string(database)} AND table_name = {self.dialect.string(name)}"
        columns = await self.query(
            "SELECT column_name, column_type, is_nullable, extra, collation_name FROM information_schema.columns "
            f"WHERE {here} ORDER BY ordinal_position"
        )
        if not columns:
            return None
        json = await self._json_columns(database, name)
        fields = [
            logical_field(column, native, nullable == "YES", json=column in json, collation=collation)
            for column, native, nullable, _, collation in columns
        ]
        hidden = frozenset(column for column, _, _, extra, _ in columns if "INVISIBLE" in str(extra).upper())
        shown = pa.schema([column for column in fields if column.name not in hidden])
        return TableSchema(table, pa.schema(fields), await self._key(here, shown), hidden)

    async def _no_such_table(self, name: str) -> None:
        try:
            await self.columns(f"SELECT * FROM {self.from_clause(name)}")
        except SourceRefused as error:
            if error.code == _BROKEN_VIEW:
                raise ConfigError(
                    f"{name!r} is a view that the source itself cannot read: {error.message}",
                    remedy="repair the view there, or the rights of its definer; or leave it out of tables.",
                ) from error
        except ConfigError:
            pass  # told below in our words
        await super()._no_such_table(name)

    async def _json_columns(self, database: str, name: str) -> set[str]:
        """MariaDB's JSON is LONGTEXT with a check."""
        async with self.questions.turn() as connection:
            if not connection.server.mariadb:
                return set()
        rows = await self.query(
            "SELECT check_clause FROM information_schema.check_constraints "
            f"WHERE constraint_schema = {self.dialect.string(database)} AND table_name = {self.dialect.string(name)}"
        )
        clauses = (str(clause) for (clause,) in rows)
        return {
            clause[len("json_valid(`") : -len("`)")].replace("``", "`")
            for clause in clauses
            if clause.startswith("json_valid(`") and clause.endswith("`)")
        }

    async def _key(self, here: str, columns: pa.Schema) -> tuple[str, ...]:
        """The primary key, else the shortest unique one without NULLs; of whole columns."""
        rows = await self.query(
            "SELECT index_name, column_name, sub_part FROM information_schema.statistics "
            f"WHERE {here} AND non_unique = 0 ORDER BY index_name, seq_in_index"
        )
        keys: dict[str, list[str]] = {}
        partial = {index for index, column, prefix in rows if prefix is not None or column is None}
        for index, column, _ in rows:
            keys.setdefault(index, []).append(column)
        usable = {
            index: names
            for index, names in keys.items()
            if index not in partial
            and all(name in columns.names and not columns.field(name).nullable for name in names)
        }
        if "PRIMARY" in usable:
            return tuple(usable["PRIMARY"])
        shortest = sorted(usable.values(), key=len)
        return tuple(shortest[0]) if shortest else ()
