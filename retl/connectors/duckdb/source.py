"""DuckDB as a source: Arrow batches, streamed from a worker thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from retl.connectors.duckdb.dialect import DIALECT, full_name, logical_field
from retl.connectors.duckdb.errors import streamed
from retl.connectors.duckdb.file import DuckDBFile, single
from retl.connectors.duckdb.files import is_file, reading
from retl.connectors.duckdb.session import OwnSession
from retl.connectors.sql.dialect import split_name
from retl.connectors.sql.embedded import EmbeddedReader, EmbeddedSource, Result
from retl.connectors.sql.session import Session
from retl.model.errors import ConfigError
from retl.model.schema import TableSchema
from retl.state.sql import STATE_TABLES

if TYPE_CHECKING:
    import duckdb

    from retl.connectors.duckdb import DuckDB

_TABLES = (
    "SELECT schema_name, table_name FROM duckdb_tables() WHERE NOT internal AND database_name = current_database() "
    "UNION ALL SELECT schema_name, view_name FROM duckdb_views() WHERE NOT internal AND database_name = current_database()"
)
_BATCH_ROWS = 16_384
_HOP_BYTES = 1 * 1024 * 1024


class DuckDBSource(EmbeddedSource):
    """Reads a database file, or files that DuckDB can read. See ``retl.connectors.DuckDB``."""

    system: ClassVar[str] = "duckdb"
    dialect = DIALECT

    def __init__(self, options: DuckDB) -> None:
        self._options = options
        self._writes: DuckDBFile | None = None
        """Set, and never opened, where hooks write: then all handles of this process are opened alike."""

    def reader(self) -> DuckDBReader:
        # The handles of one process share an instance, and the last one frees the file's lock.
        return DuckDBReader(DuckDBFile(self._options, read_only=True), self._options.files)

    def statement(self, sql: str, facts: Mapping[str, str | int]) -> str:
        if self._options.path is None:
            raise ConfigError(
                "a DuckDB source without a path has no database that a statement could change.",
                remedy="name the database in path, or run the statement elsewhere.",
                system=self.system,
            )
        self._writes = self._writes or self._writable()
        return super().statement(sql, facts)

    def writing(self) -> Session:
        return OwnSession(self._writable())

    def _writable(self) -> DuckDBFile:
        return DuckDBFile(self._options, read_only=False, creates=False)


class DuckDBReader(EmbeddedReader[DuckDBFile]):
    """Reads over one connection, in a thread of its own."""

    dialect = DIALECT

    def __init__(self, file: DuckDBFile, folder: str | None) -> None:
        super().__init__(file)
        self._folder = folder
        self._clauses: dict[str, str] = {}
        """The FROM clause of each table and file that was described."""

    def hash_version(self) -> str:
        import duckdb

        return str(duckdb.__version__)

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        return await self._file.run(_fetch, sql)

    async def columns(self, sql: str) -> pa.Schema:
        rows = await self._file.run(_fetch, f"DESCRIBE {sql}")
        return pa.schema([logical_field(row[0], row[1]) for row in rows])

    async def list_tables(self) -> list[str]:
        rows = await self.query(_TABLES)
        return sorted(_spelled(schema, name) for schema, name in rows if not _is_ours(name))

    def from_clause(self, name: str) -> str:
        return self._clauses.get(name) or self.dialect.table(name)

    async def describe(self, table: str) -> TableSchema | None:
        place = await self._file.run(find, table)
        if place is not None:
            self._clauses[table] = DIALECT.identifier(place[1]) if place[0] == "main" else full_name(*place)
            return await self._file.run(describe, table, *place)
        if not is_file(table):
            return None
        if table not in self._clauses:
            self._clauses[table] = await self._file.run(reading, table, self._folder)
        return TableSchema(table, await self.columns(f"SELECT * FROM {self._clauses[table]}"))

    async def location(self, table: str) -> str | None:
        place = await self._file.run(find, table)
        if place is None or await self._file.run(is_view, *place):
            return None
        return await self._file.location(*place)

    def result(self, sql: str, schema: pa.Schema) -> Result:
        return _Result(sql)


def _is_ours(name: str) -> bool:
    return name in STATE_TABLES or name.startswith("_retl_")


def _spelled(schema: str, name: str) -> str:
    """The name by which a table can be read: quoted where it could be taken for a qualified name or for a file's."""
    parts = (name,) if schema == "main" else (schema, name)
    spelled = ".".join(DIALECT.identifier(part) if set(part) & set('."`') else part for part in parts)
    return ".".join(map(DIALECT.identifier, parts)) if is_file(spelled) else spelled


def _fetch(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    return connection.execute(single(connection, sql)).fetchall()


def find(connection: duckdb.DuckDBPyConnection, table: str) -> tuple[str, str] | None:
    """Schema and name of the table or view that a user means: the very name that is listed, before one that it could stand for."""
    rows = connection.execute(_TABLES).fetchall()
    exact = {
        **{name: (schema, name) for schema, name in rows if schema == "main"},
        **{_spelled(*row): row for row in rows},
    }
    if table in exact:
        return exact[table]
    if is_file(table):
        return None
    parts = [DIALECT.fold(part) for part in split_name(table)]
    wanted = (parts[-2] if len(parts) > 1 else "main", parts[-1])
    return next(((schema, name) for schema, name in rows if (DIALECT.fold(schema), DIALECT.fold(name)) == wanted), None)


def is_view(connection: duckdb.DuckDBPyConnection, schema: str, name: str) -> bool:
    return bool(
        connection.execute(
            "SELECT 1 FROM duckdb_views() WHERE schema_name = ? AND view_name = ? AND database_name = current_database()",
            [schema, name],
        ).fetchall()
    )


def describe(connection: duckdb.DuckDBPyConnection, table: str, schema: str, name: str) -> TableSchema | None:
    """Columns and key of a table or view."""
    columns = connection.execute(
        "SELECT column_name, data_type, is_nullable FROM duckdb_columns() "
        "WHERE schema_name = ? AND table_name = ? AND database_name = current_database() ORDER BY column_index",
        [schema, name],
    ).fetchall()
    if not columns:
        return None
    fields = [logical_field(column, native, bool(nullable)) for column, native, nullable in columns]
    strict = {column.name for column in fields if not column.nullable}
    constraints = connection.execute(
        "SELECT constraint_type, constraint_column_names FROM duckdb_constraints() WHERE schema_name = ? AND table_name = ? "
        "AND database_name = current_database() AND constraint_type IN ('PRIMARY KEY', 'UNIQUE') "
        "ORDER BY constraint_type, len(constraint_column_names)",
        [schema, name],
    ).fetchall()
    keys = [tuple(names) for kind, names in constraints if kind == "PRIMARY KEY" or strict.issuperset(names)]
    return TableSchema(table, pa.schema(fields), keys[0] if keys else ())


class _Result:
    """A streamed result. Used in the worker's thread."""

    def __init__(self, sql: str) -> None:
        self._sql = sql
        self._reader: pa.RecordBatchReader | None = None

    def next(self, connection: duckdb.DuckDBPyConnection) -> list[pa.RecordBatch]:
        """Some megabytes at once, so that the hop between threads is paid rarely."""
        if self._reader is None:
            self._reader = self._open(connection)
        batches: list[pa.RecordBatch] = []
        size = 0
        while size < _HOP_BYTES:
            try:
                batch = self._reader.read_next_batch()
            except StopIteration:
                break
            except (OSError, pa.ArrowException) as error:
                raise streamed(str(error)) from None
            batches.append(batch)
            size += batch.nbytes
        return batches

    def _open(self, connection: duckdb.DuckDBPyConnection) -> pa.RecordBatchReader:
        # A relation streams its result; ``execute`` would hold all of it in memory.
        relation: Any = connection.sql(single(connection, self._sql))
        open_reader = getattr(relation, "to_arrow_reader", None) or relation.fetch_arrow_reader
        return open_reader(_BATCH_ROWS)

    def close(self, connection: duckdb.DuckDBPyConnection) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
