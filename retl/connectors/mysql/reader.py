"""Read over MySQL's protocol: the catalog of a table, and its rows as they come."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, ClassVar

import pyarrow as pa

from retl.connectors.mysql.connection import MySQLConnection, location
from retl.connectors.mysql.dialect import MySQLDialect, described_field, logical_field, wire_kind
from retl.connectors.mysql.errors import SourceRefused
from retl.connectors.mysql.settings import SESSION_MARK
from retl.connectors.mysql.wire import WireField
from retl.connectors.rows.rejects import without_broken_text
from retl.connectors.sql.dialect import split_name
from retl.connectors.sql.reader import SqlReader, catalog_schema
from retl.connectors.sql.selection import Relation, Selection
from retl.connectors.sql.zones import dst_shift, local_clock
from retl.model.errors import ConfigError, ConnectionFailed
from retl.model.schema import TableSchema
from retl.model.table import TableSpec
from retl.state.sql import STATE_TABLES

_BROKEN_VIEW = 1356
_TRUSTED_SECONDS = 1.0
"""Seconds after which an idle connection is checked before use: it may have been cut, or handed on by a pooler."""


Connect = Callable[[], Awaitable[MySQLConnection]]


class WireReader(SqlReader):
    """Reads over one connection; ``connect`` gives it, and another one if it was lost or used up."""

    dialect: MySQLDialect
    how_named: ClassVar[str] = "write table or database.table."
    system_databases: ClassVar[Sequence[str]]

    def __init__(self, connect: Connect, database: str | None, timezone: tzinfo | None) -> None:
        self._connect = connect
        self._database = database
        self._zone = timezone
        self._answered = time.monotonic()

    async def connection(self) -> MySQLConnection:
        """The connection, ready for a statement."""
        connection = await self._connect()
        if time.monotonic() - self._answered > _TRUSTED_SECONDS:
            try:
                await connection.prove()
            except ConnectionFailed:
                connection = await self._connect()
        self._answered = time.monotonic()
        return connection

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        rows = await (await self.connection()).query(sql)
        self._answered = time.monotonic()
        return rows

    async def stream(self, sql: str, schema: pa.Schema) -> AsyncGenerator[pa.RecordBatch, None]:
        connection = await self.connection()
        kinds = [wire_kind(column) for column in schema]
        async with aclosing(connection.stream(sql, kinds, schema.names)) as batches:
            async for batch in batches:
                yield without_broken_text(batch)
        self._answered = time.monotonic()

    async def columns(self, sql: str) -> pa.Schema:
        described = await (await self.connection()).describe(f"{sql} LIMIT 0")
        return pa.schema([self.described_field(column) for column in described])

    def described_field(self, column: WireField) -> pa.Field:
        """The Arrow field of a result's column."""
        return described_field(column)

    async def chosen_schema(self, chosen: Selection) -> pa.Schema:
        return await catalog_schema(self, chosen)

    def clock(self, now: str, cursor: pa.Field, settle: timedelta) -> str:
        return local_clock(now, cursor, self._zone, settle)

    async def list_tables(self) -> list[str]:
        mine, string = self._database, self.dialect.string
        others = ", ".join(map(string, self.system_databases))
        where = f"= {string(mine)}" if mine else f"NOT IN ({others})"
        rows = await self.query(
            f"SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.tables WHERE TABLE_SCHEMA {where}"
        )
        return sorted(
            self._spelled(name) if mine else f"{self._spelled(schema)}.{self._spelled(name)}"
            for schema, name in rows
            if name not in STATE_TABLES and not name.startswith("_retl_")
        )

    def _spelled(self, name: str) -> str:
        """A name as it must be written to be read as one part."""
        return self.dialect.identifier(name) if set(name) & set('."`') else name

    def locate(self, table: str) -> tuple[str, str]:
        """Database and name of a table."""
        parts = split_name(table)
        if len(parts) > 2:
            raise ConfigError(f"{table!r} has too many parts.", remedy=self.how_named)
        database = parts[0] if len(parts) > 1 else self._database
        if database is None:
            raise ConfigError(
                f"no database is named for {table!r}.",
                remedy="name the database in url, or write database.table.",
            )
        return database, parts[-1]

    def here(self, table: str) -> str:
        """The condition that finds a table in a catalog."""
        database, name = self.locate(table)
        return f"TABLE_SCHEMA = {self.dialect.string(database)} AND TABLE_NAME = {self.dialect.string(name)}"


class MySQLReader(WireReader):
    """Reads MySQL or MariaDB."""

    dialect = MySQLDialect()
    system_databases: ClassVar[Sequence[str]] = ("information_schema", "mysql", "performance_schema", "sys")

    async def location(self, table: str) -> str | None:
        return await location(await self.connection(), *self.locate(table))

    def __init__(
        self, connect: Connect, database: str | None, timezone: tzinfo | None, known_shift: list[timedelta]
    ) -> None:
        super().__init__(connect, database, timezone)
        self._known_shift = known_shift
        """Of the server, once it was asked; kept by the source for all scans."""

    async def dst_shift(self) -> timedelta:
        if self._zone is not None:
            return dst_shift(self._zone, datetime.now(UTC).year)
        if not self._known_shift:
            self._known_shift.append(await self._server_shift())
        return self._known_shift[0]

    async def _server_shift(self) -> timedelta:
        """By how much the server's own zone differs between winter and summer; it may have no name."""
        year = datetime.now(UTC).year
        winter, summer = (
            f"CONVERT_TZ('{year}-{month}-15 12:00:00', '+00:00', @@GLOBAL.time_zone)" for month in ("01", "07")
        )
        days = (datetime(year, 7, 15, tzinfo=UTC) - datetime(year, 1, 15, tzinfo=UTC)).days
        ((seconds,),) = await self.query(f"SELECT TIMESTAMPDIFF(SECOND, {winter}, {summer})")
        return timedelta() if seconds is None else abs(timedelta(seconds=int(seconds)) - timedelta(days=days))

    async def describe(self, table: str) -> TableSchema | None:
        connection = await self.connection()
        found: dict[str, list[tuple[Any, ...]]] = {"session": [], "column": [], "key": [], "check": []}
        for kind, *facts in await self.query(self._catalog(table, connection.server.mariadb)):
            found[kind].append(tuple(facts))
        connection.check_session(found["session"][0][0])
        if not found["column"]:
            return None
        json = {name for clause, *_ in found["check"] if (name := _json_column(clause))}
        fields = [
            logical_field(name, native, nullable == "YES", json=name in json, collation=collation)
            for name, native, nullable, _, collation, _ in sorted(found["column"], key=lambda facts: int(facts[5]))
        ]
        hidden = frozenset(name for name, _, _, extra, *_ in found["column"] if "INVISIBLE" in str(extra).upper())
        shown = pa.schema([column for column in fields if column.name not in hidden])
        return TableSchema(table, pa.schema(fields), _key(found["key"], shown), hidden)

    def _catalog(self, table: str, mariadb: bool) -> str:
        """One statement for the session's mark, columns, unique keys, and the checks by which MariaDB marks JSON."""
        here = self.here(table)
        parts = [
            _part("session", (SESSION_MARK,), "0"),
            _part(
                "column", ("column_name", "column_type", "is_nullable", "extra", "collation_name"), "ordinal_position"
            )
            + f" FROM information_schema.columns WHERE {here}",
            _part("key", ("index_name", "column_name", "sub_part"), "seq_in_index")
            + f" FROM information_schema.statistics WHERE {here} AND non_unique = 0",
        ]
        if mariadb:
            here = here.replace("TABLE_SCHEMA", "CONSTRAINT_SCHEMA", 1)
            parts.append(
                _part("check", ("check_clause",), "0") + f" FROM information_schema.check_constraints WHERE {here}"
            )
        return " UNION ALL ".join(parts)

    async def relation(self, table: TableSpec) -> Relation:
        if table.query is not None:
            await (await self.connection()).prove()
        return await super().relation(table)

    async def no_such_table(self, name: str) -> ConfigError:
        try:
            await self.columns(f"SELECT * FROM {self.from_clause(name)}")
        except SourceRefused as error:
            if error.code == _BROKEN_VIEW:
                return ConfigError(
                    f"{name!r} is a view that the source itself cannot read: {error.message}",
                    remedy="repair the view there, or the rights of its definer; or leave it out of tables.",
                )
        except ConfigError:
            pass  # reported below
        return await super().no_such_table(name)


def _part(kind: str, texts: Sequence[str], place: str) -> str:
    """One part of a catalog's answer: five texts, in one character set, and a place."""
    values = [f"CONVERT({column} USING utf8mb4)" for column in texts] + ["NULL"] * (5 - len(texts))
    return f"SELECT '{kind}', {', '.join(values)}, {place}"


def _json_column(clause: str) -> str | None:
    """The column that a check makes JSON of: in MariaDB it is LONGTEXT with one."""
    begin, end = "json_valid(`", "`)"
    is_json = clause.startswith(begin) and clause.endswith(end)
    return clause[len(begin) : -len(end)].replace("``", "`") if is_json else None


def _key(rows: Sequence[tuple[Any, ...]], columns: pa.Schema) -> tuple[str, ...]:
    """The primary key, else the shortest unique one without NULLs; of whole columns."""
    keys: dict[str, list[str]] = {}
    partial = {index for index, column, prefix, *_ in rows if prefix is not None or column is None}
    for index, column, *_ in sorted(rows, key=lambda facts: (facts[0], int(facts[-1]))):
        keys.setdefault(index, []).append(column)
    usable = {
        index: names
        for index, names in keys.items()
        if index not in partial and all(name in columns.names and not columns.field(name).nullable for name in names)
    }
    if "PRIMARY" in usable:
        return tuple(usable["PRIMARY"])
    shortest = sorted(usable.values(), key=len)
    return tuple(shortest[0]) if shortest else ()
