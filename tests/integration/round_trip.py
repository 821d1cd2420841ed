"""Carry a table from one real system to another, and look at both around retl."""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import msgspec

import retl
from retl.connectors import DuckDB, Elasticsearch, MySQL, PostgreSQL, SQLite
from retl.connectors.base import Connector, Source
from retl.state.sql import STATE_TABLES
from tests.integration.every_type import Columns, Rows, same
from tests.servers.database import Server
from tests.servers.postgres import PostgresServer, rows
from tests.servers.search import SearchServer
from tests.support import Database, Warehouse

# Systems --------------------------------------------------------------------------


class AServer:
    """A database of a MySQL or MariaDB."""

    arrived = "arrived"

    forms: Mapping[str, str] = {
        "bits": "CAST({} AS UNSIGNED)",
        "single": "CAST({} AS DOUBLE)",
        "moment": "CAST({} AS CHAR)",
        "clock": "CAST({} AS CHAR)",
    }

    def __init__(self, server: Server, database: str) -> None:
        self._server, self._database = server, database

    def connector(self) -> Connector:
        return MySQL(self._server.url(self._database))

    def run(self, *statements: str, values: Sequence[Sequence[Any]] = ()) -> list[Any]:
        begin = "SET time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE'"
        with (
            closing(self._server.connect(self._database, init_command=begin)) as connection,
            connection.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)
            for row in values:
                cursor.execute(f"INSERT INTO origin VALUES ({', '.join(['%s'] * len(row))})", row)
            return list(cursor.fetchall()) if not values else []

    def make(self, columns: Columns, rows: Sequence[Mapping[str, Any]]) -> None:
        names = ", ".join(f"`{name}` {column.declared} NULL" for name, column in columns.items())
        self.run(
            "DROP TABLE IF EXISTS origin",
            f"CREATE TABLE origin (id INT UNSIGNED PRIMARY KEY, {names}) ROW_FORMAT=DYNAMIC",
            values=with_numbers(columns, rows),
        )

    def clear(self) -> None:
        self.run(f"DROP TABLE IF EXISTS {', '.join(('arrived', *STATE_TABLES))}")

    def read(self, table: str, columns: Columns) -> Rows:
        chosen = [self.forms.get(column.kind, "{}").format(f"`{name}`") for name, column in columns.items()]
        return by_key(columns, self.run(f"SELECT id, {', '.join(chosen)} FROM `{table}`"))

    def types(self, table: str) -> dict[str, str]:
        """The columns but for the key, with their types as the server spells them."""
        found = self.run(
            "SELECT column_name, column_type FROM information_schema.columns "
            f"WHERE table_schema = DATABASE() AND table_name = '{table}' AND column_name <> 'id'"
        )
        # MariaDB shows a width of numbers that says nothing.
        return {name: re.sub(r"^((?:small|big)?int)\(\d+\)", r"\1", kind) for name, kind in found}


class ADuckDB:
    """A DuckDB file."""

    arrived = "arrived"

    forms: Mapping[str, str] = {
        "moment": "CAST({} AS VARCHAR)",
        "clock": "CAST({} AS VARCHAR)",
        "json": "CAST({} AS VARCHAR)",
    }

    def __init__(self, folder: Path) -> None:
        self._file = Warehouse(folder / "w.duckdb")

    def connector(self) -> Connector:
        return DuckDB(str(self._file.path))

    def run(self, *statements: str) -> list[Any]:
        return self._file.run(*statements)

    def make(self, columns: Columns, rows: Sequence[Mapping[str, Any]]) -> None:
        with closing(duckdb.connect(str(self._file.path))) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            declared = ", ".join(f'"{name}" {column.declared}' for name, column in columns.items())
            connection.execute(f"CREATE OR REPLACE TABLE origin (id INTEGER PRIMARY KEY, {declared})")
            taken = ", ".join(f"CAST(? AS {column.declared})" for column in columns.values())
            for row in with_numbers(columns, rows):
                connection.execute(f"INSERT INTO origin VALUES (?, {taken})", row)

    def clear(self) -> None:
        for companion in ("", ".wal"):
            Path(f"{self._file.path}{companion}").unlink(missing_ok=True)

    def read(self, table: str, columns: Columns) -> Rows:
        chosen = [self.forms.get(column.kind, "{}").format(f'"{name}"') for name, column in columns.items()]
        return by_key(columns, self._file.run("SET TimeZone = 'UTC'", f"SELECT id, {', '.join(chosen)} FROM {table}"))

    def types(self, table: str) -> dict[str, str]:
        """The columns but for the key, with their types as DuckDB spells them."""
        names = "column_name, data_type FROM duckdb_columns()"
        return dict(self.run(f"SELECT {names} WHERE table_name = '{table}' AND column_name <> 'id'"))


class ASQLite:
    """A SQLite file."""

    arrived = "arrived"

    def __init__(self, folder: Path) -> None:
        self._file = Database(folder / "app.db")

    def connector(self) -> Connector:
        return SQLite(str(self._file.path))

    def make(self, columns: Columns, rows: Sequence[Mapping[str, Any]]) -> None:
        declared = ", ".join(f'"{name}" {column.declared}' for name, column in columns.items())
        self._file.run("DROP TABLE IF EXISTS origin", f"CREATE TABLE origin (id INTEGER PRIMARY KEY, {declared})")
        for row in with_numbers(columns, rows):
            self._file.run(f"INSERT INTO origin VALUES ({', '.join('?' * len(row))})", values=row)

    def clear(self) -> None:
        for companion in ("", "-wal", "-shm", "-journal"):
            Path(f"{self._file.path}{companion}").unlink(missing_ok=True)

    def read(self, table: str, columns: Columns) -> Rows:
        names = ", ".join(f'"{name}"' for name in columns)
        return by_key(columns, self._file.run(f"SELECT id, {names} FROM {table}"))

    def types(self, table: str) -> dict[str, str]:
        """The columns but for the key, with the types that they are declared with."""
        found = self._file.run(f"SELECT name, type FROM pragma_table_info('{table}') WHERE name <> 'id'")
        return dict(found)


class APostgres:
    """A database of a PostgreSQL, and a user with the rights that the docs ask for."""

    arrived = "arrived"

    forms: Mapping[str, str] = {
        "single": "CAST({} AS double precision)",
        "moment": "CAST({} AS text)",
        "clock": "CAST({} AS text)",
        "json": "CAST({} AS text)",
        "money": "CAST(CAST({} AS numeric) AS text)",
        "decimal": "CAST({} AS text)",
        "native": "CAST({} AS text)",
    }

    def __init__(self, server: PostgresServer, database: str) -> None:
        self._database = database
        self._user = server.as_documented(database)

    def connector(self) -> Connector:
        return PostgreSQL(self._user.url(self._database))

    def run(self, *statements: str, values: Sequence[Sequence[Any]] = (), types: Sequence[str] = ()) -> list[Any]:
        found: list[Any] = []
        with closing(self._user.connect(self._database, options="-c TimeZone=UTC")) as connection:
            for statement in statements:
                found = rows(connection, statement)
            taken = ", ".join(f"CAST(%s AS {kind})" for kind in types)
            for row in values:
                connection.execute(f"INSERT INTO origin VALUES ({taken})".encode(), row)
        return found

    def make(self, columns: Columns, rows: Sequence[Mapping[str, Any]]) -> None:
        declared = ", ".join(f'"{name}" {column.declared}' for name, column in columns.items())
        types = ["integer", *(column.declared for column in columns.values())]
        create = f"CREATE TABLE origin (id integer PRIMARY KEY, {declared})"
        self.run("DROP TABLE IF EXISTS origin", create, values=with_numbers(columns, rows), types=types)

    def clear(self) -> None:
        self.run(f"DROP TABLE IF EXISTS arrived, {', '.join(STATE_TABLES)}")

    def read(self, table: str, columns: Columns) -> Rows:
        chosen = [self.forms.get(column.kind, "{}").format(f'"{name}"') for name, column in columns.items()]
        return by_key(columns, self.run(f"SELECT id, {', '.join(chosen)} FROM {table}"))

    def types(self, table: str) -> dict[str, str]:
        """The columns but for the key, with their types as the server spells them."""
        return dict(
            self.run(
                "SELECT CAST(attname AS text), format_type(atttypid, atttypmod) FROM pg_attribute "
                f"WHERE attrelid = '{table}'::regclass AND attnum > 0 AND attname <> 'id' ORDER BY attnum"
            )
        )


class AnIndex:
    """The indices of an Elasticsearch whose names have a prefix."""

    def __init__(self, server: SearchServer, prefix: str) -> None:
        self._server, self._prefix = server, prefix
        self.arrived = f"{prefix}-arrived"

    def connector(self) -> Connector:
        return Elasticsearch(self._server.url, state_index=f".{self._prefix}-state", times="date")

    def clear(self) -> None:
        self._server.ask("DELETE", f"/{self.arrived}", allow=(404,))

    def types(self, index: str) -> dict[str, str]:
        """The mapped fields but for the key."""
        mapped = self._server.ask("GET", f"/{index}")[index]["mappings"]["properties"]
        return {name: spec["type"] for name, spec in mapped.items() if name != "id"}

    def read(self, index: str, columns: Columns) -> Rows:
        found = [msgspec.json.decode(text, type=dict[str, msgspec.Raw]) for text in self._server.texts(index).values()]
        kinds = {"id": "whole", **{name: column.kind for name, column in columns.items()}}
        rows = [[_from_json(kind, row.get(name)) for name, kind in kinds.items()] for row in found]
        return by_key(columns, [[int(key), *values] for key, *values in rows])


def _from_json(kind: str, text: msgspec.Raw | None) -> Any:
    """A value of a document, whose numbers are their text; to a document NULL is what null is."""
    value = None if text is None else json.loads(bytes(text), parse_float=str, parse_int=str)
    if value is None:
        return None
    if kind == "json":
        return bytes(text or b"").decode()
    if kind == "single":
        # The field is a float: the shortest text that stands for one is that number.
        return struct.unpack("f", struct.pack("f", float(value)))[0]
    return base64.b64decode(value) if kind == "bytes" else value


System = AnIndex | AServer | ADuckDB | ASQLite | APostgres


def with_numbers(columns: Columns, rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    return [[number, *(row[name] for name in columns)] for number, row in enumerate(rows)]


def by_key(columns: Columns, rows: Sequence[Sequence[Any]]) -> Rows:
    return {
        row[0]: {name: same(column.kind, value) for (name, column), value in zip(columns.items(), row[1:], strict=True)}
        for row in rows
    }


@dataclass
class Outcome:
    """What became of the rows of a scan."""

    rows: Rows
    refused: dict[int, set[str]] = field(default_factory=dict)
    """The columns that each refused row is refused for."""

    def holds(self, expected: Rows) -> None:
        """Every row has arrived as it was, or is refused; none twice, none of its own."""
        assert self.rows.keys() | self.refused.keys() == expected.keys()
        assert not self.rows.keys() & self.refused.keys()
        for key, row in self.rows.items():
            different = {
                name: (expected[key][name], value) for name, value in row.items() if value != expected[key][name]
            }
            assert different == {}


async def carry(
    source: Connector | Source, target: System, columns: Columns, /, *, table_name: str = "origin", **words: Any
) -> Outcome:
    """Scan a table into a target that holds nothing yet."""
    target.clear()
    table = retl.Table(table_name, to=target.arrived, max_rejects=1000, **words)
    job = retl.Pipeline("trip", source=source, target=target.connector(), tables=[table])
    try:
        await job.run_once()
        refused: dict[int, set[str]] = {}
        for reject in await job.rejects():
            assert reject.reason
            refused.setdefault(int(json.loads(reject.key)["id"]), set()).add(reject.column)
    finally:
        await job.aclose()
    return Outcome(target.read(target.arrived, columns), refused)
