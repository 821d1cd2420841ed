"""The systems: five that speak SQL, and those that hold documents."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import duckdb

from retl.connectors import DuckDB, Elasticsearch, MySQL, PostgreSQL, Redshift, SQLite
from tests.fake_redshift import Cluster
from tests.routes.route import End, Row, moment
from tests.servers import postgres, redshift
from tests.servers.database import Server
from tests.servers.search import SearchServer


class SqlEnd(End):
    """What systems with SQL share; ``run`` is theirs."""

    types: ClassVar[dict[str, str]]
    fails: ClassVar[str]
    """An expression that fails when it is computed."""

    def run(self, *statements: str) -> list[Row]:
        """Run statements one after another; the rows of the last one."""
        raise NotImplementedError

    def create(self, table: str, kinds: dict[str, str], *, key: bool = True) -> None:
        columns = [f"id {self.types.get('key', self.types['int'])}{' PRIMARY KEY' if key else ''}"]
        columns += [f"{name} {self.types[kind]}" for name, kind in kinds.items()]
        self.run(f"DROP TABLE IF EXISTS {table}", f"CREATE TABLE {table} ({', '.join(columns)})")

    def insert(self, table: str, *rows: Row) -> None:
        values = [f"({', '.join(map(_literal, row))})" for row in rows]
        if values:
            self.run(f"INSERT INTO {table} VALUES {', '.join(values)}")

    def update(self, table: str, key: int, **values: Any) -> None:
        changes = ", ".join(f"{name} = {_literal(value)}" for name, value in values.items())
        self.run(f"UPDATE {table} SET {changes} WHERE id = {key}")

    def delete(self, table: str, *keys: int) -> None:
        where = f" WHERE id IN ({', '.join(map(str, keys))})" if keys else ""
        self.run(f"DELETE FROM {table}{where}")

    def rows(self, table: str, *columns: str) -> list[Row]:
        columns = columns or ("id", "v", "ts")
        return _with_moments(columns, self.run(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {columns[0]}"))

    def drop(self, table: str) -> None:
        self.run(f"DROP TABLE {table}")

    def take_over(self) -> None:
        self.run("UPDATE retl_leases SET epoch = epoch + 1, owner = 'somebody else'")

    def add_column(self, table: str, name: str) -> None:
        self.run(f"ALTER TABLE {table} ADD COLUMN {name} {self.types['text']}")

    def drop_column(self, table: str, name: str) -> None:
        self.run(f"ALTER TABLE {table} DROP COLUMN {name}")

    def failing(self, key: int) -> dict[str, Any]:
        return {"expressions": {"v": f"CASE WHEN id = {key} THEN {self.fails} ELSE v END"}}


def _with_moments(columns: Sequence[str], rows: Sequence[Row]) -> list[Row]:
    times = [number for number, name in enumerate(columns) if name == "ts"]
    return [
        tuple(moment(value) if n in times and value is not None else value for n, value in enumerate(row))
        for row in rows
    ]


@contextmanager
def _old_reader(cursor: Any, begin: str, table: str, *, look: bool) -> Iterator[Callable[[], list[Row]]]:
    """``look`` where a snapshot is only taken by the first look."""

    def read() -> list[Row]:
        cursor.execute(f"SELECT id, v, ts FROM {table} ORDER BY id")
        return _with_moments(("id", "v", "ts"), cursor.fetchall())

    cursor.execute(begin)
    if look:
        read()
    yield read
    cursor.execute("ROLLBACK")


def _literal(value: Any) -> str:
    return "NULL" if value is None else str(value) if isinstance(value, int) else f"'{value}'"


class DuckDBEnd(SqlEnd):
    live = refuses = False
    types: ClassVar = {"int": "INTEGER", "text": "VARCHAR", "time": "TIMESTAMP"}
    fails = "error('line cut')"

    def __init__(self, path: Path) -> None:
        self.path = path

    def connector(self, **options: Any) -> DuckDB:
        return DuckDB(str(self.path), **options)

    def run(self, *statements: str) -> list[Row]:
        rows: list[Row] = []
        with closing(duckdb.connect(str(self.path))) as connection:
            for statement in statements:
                rows = connection.execute(statement).fetchall()
        return rows

    @contextmanager
    def old_reader(self, table: str) -> Iterator[Callable[[], list[Row]]]:
        with (
            closing(duckdb.connect(str(self.path))) as connection,
            _old_reader(connection, "BEGIN", table, look=True) as read,
        ):
            yield read

    def tables(self) -> list[str]:
        found = self.run("SELECT table_name FROM duckdb_tables() ORDER BY table_name")
        return [name for (name,) in found if not name.startswith("retl_")]


class SQLiteEnd(SqlEnd):
    streams = False
    types: ClassVar = {"int": "INTEGER", "text": "TEXT", "time": "TIMESTAMP"}
    fails = "json('line cut')"

    def __init__(self, path: Path) -> None:
        self.path = path

    def connector(self, **options: Any) -> SQLite:
        return SQLite(str(self.path), **options)

    def run(self, *statements: str) -> list[Row]:
        rows: list[Row] = []
        with closing(sqlite3.connect(self.path, timeout=5)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            for statement in statements:
                rows = connection.execute(statement).fetchall()
            connection.commit()
        return rows

    @contextmanager
    def old_reader(self, table: str) -> Iterator[Callable[[], list[Row]]]:
        with (
            closing(sqlite3.connect(self.path, isolation_level=None)) as connection,
            _old_reader(connection.cursor(), "BEGIN", table, look=True) as read,
        ):
            yield read

    def tables(self) -> list[str]:
        found = self.run("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        return [name for (name,) in found if not name.startswith(("retl_", "sqlite_"))]

    def refuse(self, table: str) -> None:
        for event in ("INSERT", "UPDATE"):
            raising = f"BEGIN SELECT RAISE(ABORT, 'no {table}'); END"
            self.run(f"CREATE TRIGGER refuse_{event} BEFORE {event} ON {table} {raising}")

    def allow(self, table: str) -> None:
        self.run("DROP TRIGGER refuse_INSERT", "DROP TRIGGER refuse_UPDATE")


class ServerEnd(SqlEnd):
    """A database of a MySQL or MariaDB, and a user with the rights that the docs ask for."""

    ends_readers: ClassVar[Sequence[str]] = ("truncate", "rename_and_create", "swap")
    types: ClassVar = {"int": "INT", "key": "BIGINT", "text": "VARCHAR(20)", "time": "DATETIME(6)"}
    fails = "(SELECT 1 UNION SELECT 2)"

    def __init__(self, server: Server, database: str) -> None:
        self.server = server
        self.database = database

    def connector(self, **options: Any) -> MySQL:
        return MySQL(self.server.as_documented(self.database).url(self.database), **options)

    def run(self, *statements: str) -> list[Row]:
        rows: list[Row] = []
        with closing(self.server.connect(self.database)) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
                rows = list(cursor.fetchall())
        return rows

    @contextmanager
    def old_reader(self, table: str) -> Iterator[Callable[[], list[Row]]]:
        # To look at the table now would keep others from changing its definition.
        begin = "START TRANSACTION WITH CONSISTENT SNAPSHOT"
        with (
            closing(self.server.connect(self.database)) as connection,
            connection.cursor() as cursor,
            _old_reader(cursor, begin, table, look=False) as read,
        ):
            yield read

    def tables(self) -> list[str]:
        return sorted(name for (name,) in self.run("SHOW TABLES") if not name.startswith("retl_"))

    def refuse(self, table: str) -> None:
        for event in ("INSERT", "UPDATE"):
            signal = f"SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no {table}'"
            self.run(f"CREATE TRIGGER refuse_{event} BEFORE {event} ON {table} FOR EACH ROW {signal}")

    def allow(self, table: str) -> None:
        self.run("DROP TRIGGER refuse_INSERT", "DROP TRIGGER refuse_UPDATE")


class PostgresEnd(SqlEnd):
    """A database of a PostgreSQL, and a user with the rights that the docs ask for, who owns its tables."""

    empties_readers: ClassVar[Sequence[str]] = ("truncate", "rename_and_create", "swap")
    types: ClassVar = {"int": "integer", "key": "bigint", "text": "varchar(20)", "time": "timestamp(6)"}
    fails = "(SELECT v FROM (VALUES (1), (2)) AS twice)"

    def __init__(self, server: postgres.PostgresServer, database: str) -> None:
        self.server = server.as_documented(database)
        self.database = database

    def connector(self, **options: Any) -> PostgreSQL:
        return PostgreSQL(self.server.url(self.database), **options)

    def run(self, *statements: str) -> list[Row]:
        rows: list[Row] = []
        with closing(self.server.connect(self.database)) as connection:
            for statement in statements:
                rows = postgres.rows(connection, statement)
        return rows

    @contextmanager
    def old_reader(self, table: str) -> Iterator[Callable[[], list[Row]]]:
        # To look at the table now would keep others from changing its definition.
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_snapshot()"
        with (
            closing(self.server.connect(self.database)) as connection,
            connection.cursor() as cursor,
            _old_reader(cursor, begin, table, look=False) as read,
        ):
            yield read

    def tables(self) -> list[str]:
        found = self.run("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        return [name for (name,) in found if not name.startswith("retl_")]

    def refuse(self, table: str) -> None:
        raising = f"BEGIN RAISE EXCEPTION 'no {table}'; END"
        self.run(
            f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {raising} $$",
            f"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()",
        )

    def allow(self, table: str) -> None:
        self.run("DROP FUNCTION refuse() CASCADE")


class RedshiftEnd(SqlEnd):
    """A schema of a Redshift, which is only a source."""

    refreshes: ClassVar[Sequence[str]] = ()
    refuses = False
    types: ClassVar = {"int": "INTEGER", "text": "VARCHAR(20)", "time": "TIMESTAMP"}
    fails = "CAST(1 / (id - id) AS VARCHAR(20))"

    def __init__(self, cluster: Cluster, schema: str) -> None:
        self.cluster = cluster
        self.schema = schema

    def connector(self, **options: Any) -> Redshift:
        return redshift.connector(self.cluster, schema=self.schema, **options)

    def run(self, *statements: str) -> list[Row]:
        rows: list[Row] = []
        with closing(self.cluster.connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(f"SET search_path TO {self.schema}")
            for statement in statements:
                cursor.execute(statement)
                rows = [tuple(row) for row in cursor.fetchall()] if cursor.description else []
        return rows

    def tables(self) -> list[str]:
        found = self.run(f"SELECT table_name FROM svv_all_tables WHERE schema_name = '{self.schema}' ORDER BY 1")
        return [name for (name,) in found]


class SearchEnd(End):
    """Indices whose names begin with a prefix."""

    columns = failing_rows = snapshots = atomic = False
    refreshes: ClassVar[Sequence[str]] = ("none", "truncate", "swap")
    types: ClassVar = {"int": "integer", "text": "keyword", "time": "date_nanos"}

    def __init__(self, server: SearchServer, prefix: str) -> None:
        self.server = server
        self.prefix = prefix
        self._kinds: dict[str, list[str]] = {}

    def called(self, table: str) -> str:
        return f"{self.prefix}-{table}"

    def connector(self, **options: Any) -> Elasticsearch:
        return Elasticsearch(self.server.url, state_index=f".{self.prefix}-state", **options)

    def create(self, table: str, kinds: dict[str, str], *, key: bool = True) -> None:
        self._kinds[table] = list(kinds)
        mapped = {name: {"type": self.types[kind]} for name, kind in kinds.items()}
        body = {"settings": {"number_of_replicas": 0}, "mappings": {"properties": mapped}}
        self.server.ask("PUT", f"/{self.called(table)}", body)

    def insert(self, table: str, *rows: Row) -> None:
        documents = {
            str(key): {name: _json(value) for name, value in zip(self._kinds[table], values, strict=True)}
            for key, *values in rows
        }
        self.server.put(self.called(table), documents)

    def update(self, table: str, key: int, **values: Any) -> None:
        body = {"doc": {name: _json(value) for name, value in values.items()}}
        self.server.ask("POST", f"/{self.called(table)}/_update/{key}?refresh=true", body)

    def delete(self, table: str, *keys: int) -> None:
        query = {"terms": {"_id": list(map(str, keys))}} if keys else {"match_all": {}}
        self.server.ask("POST", f"/{self.called(table)}/_delete_by_query?refresh=true", {"query": query})

    def rows(self, table: str, *columns: str) -> list[Row]:
        documents = self.server.documents(self.called(table))
        found = {int(key) if key.isdecimal() else key: value for key, value in documents.items()}
        rows = ({"id": key, **document} for key, document in sorted(found.items()))
        return [
            tuple(
                moment(row[name]) if name == "ts" and row.get(name) else row.get(name)
                for name in columns or ("id", "v", "ts")
            )
            for row in rows
        ]

    def tables(self) -> list[str]:
        found = self.server.ask("GET", f"/{self.prefix}*?expand_wildcards=open", allow=(404,))
        # An index that was switched in has an alias with the name of the table.
        names = (next(iter(found[name]["aliases"]), name) for name in found if name not in ("error", "status"))
        return sorted(name.removeprefix(f"{self.prefix}-") for name in names)

    def drop(self, table: str) -> None:
        found = self.server.ask("GET", f"/{self.called(table)}")
        for name in found:
            self.server.ask("DELETE", f"/{name}")

    def refuse(self, table: str) -> None:
        self._block(table, on=True)

    def allow(self, table: str) -> None:
        self._block(table, on=False)

    def _block(self, table: str, *, on: bool) -> None:
        self.server.ask("PUT", f"/{self.called(table)}/_settings", {"index.blocks.write": on})

    def take_over(self) -> None:
        state = f"/.{self.prefix}-state"
        self.server.ask("POST", f"{state}/_refresh")
        script = {"source": "ctx._source.epoch += 1; ctx._source.owner = 'somebody else'"}
        body = {"script": script, "query": {"term": {"kind": "pipeline"}}}
        assert self.server.ask("POST", f"{state}/_update_by_query?refresh=true", body)["updated"] == 1


def _json(value: Any) -> Any:
    return value if value is None or isinstance(value, int) else str(value).replace(" ", "T")
