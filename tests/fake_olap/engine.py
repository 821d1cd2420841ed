"""The tables of a stand-in, in a DuckDB of its own, and the statements that change them.

Faithful: the key models (a PRIMARY or UNIQUE key replaces, an AGGREGATE key merges), partitions and their versions, one
snapshot for each query and none for two, defaults, generated columns, rounding of DATETIME(p) in Doris. Not shown: the
cost of anything, replicas, materialised views, transactions (BEGIN and COMMIT are taken and mean nothing).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import duckdb
import pyarrow as pa
from sqlglot import exp

from tests.fake_olap import catalog, functions
from tests.fake_olap.ddl import CreateTable, Reader
from tests.fake_olap.errors import Refusal
from tests.fake_olap.flavour import Flavour
from tests.fake_olap.query import SYSTEM, Plan, Session, Translator, tokens
from tests.fake_olap.tables import Column, Partition, Table, literal, quoted
from tests.fake_olap.types import Type, held, json_text

_MERGES = {"SUM": "sum", "MAX": "max", "MIN": "min"}
_MISSING = re.compile(r'(?:Referenced column|column named|Column) "([^"]+)"')


class Engine:
    """Thread-safe: changes come one after another, queries run on cursors of their own."""

    def __init__(self, flavour: Flavour) -> None:
        self._flavour = flavour
        self._errors = flavour.errors
        self._lock = threading.RLock()
        self._numbers = count(10_101)
        self.databases: dict[str, dict[str, Table]] = {}
        # What SET GLOBAL has said: with it new sessions begin.
        self.variables: dict[str, str] = {}
        # One thread: rows come out in the order in which they went in, so that a cut result is the same one each time.
        self._duckdb = duckdb.connect(config={"threads": 1})
        functions.install(self._duckdb)
        self._duckdb.create_function(
            "retl_json",
            lambda text: json_text(text, doris=flavour.doris),
            ["VARCHAR"],
            "VARCHAR",
        )
        self._duckdb.execute(f"CREATE SCHEMA {SYSTEM}")

    def close(self) -> None:
        self._duckdb.close()

    # What the translator asks

    def database(self, name: str) -> dict[str, Table]:
        if name not in self.databases:
            raise self._errors.unknown_database(name)
        return self.databases[name]

    def table(self, database: str, name: str) -> Table:
        if not database:
            raise self._errors.no_database()
        found = self.database(database).get(name)
        if found is None:
            raise self._errors.unknown_table(database, name)
        return found

    def system_table(self, name: str) -> Sequence[tuple[str, Type]] | None:
        return catalog.system_table(name, self._flavour)

    def number(self) -> int:
        return next(self._numbers)

    def rows_of(self, table: Table, part: Partition) -> int:
        with self._lock:
            return int(self._one(f"SELECT count(*) FROM {_where(table)} WHERE {part.predicate}"))

    def all_tables(self) -> list[Table]:
        return [table for tables in self.databases.values() for table in tables.values()]

    # Queries

    def start(self, sql: str, session: Session) -> tuple[duckdb.DuckDBPyConnection, Plan]:
        """Plan a query; the cursor that will run it."""
        plan = Translator(self._flavour, self, session).query(sql)
        with self._lock:
            # Whole or not at all: another session's query of the catalog may be running.
            if plan.system:
                with self._transaction():
                    for name in plan.system:
                        self._fill(name)
            return self._duckdb.cursor(), plan

    def execute(self, cursor: duckdb.DuckDBPyConnection, plan: Plan) -> list[str]:
        """Run a planned query; the types of its columns, in DuckDB's words."""
        with self._refusals():
            cursor.execute(plan.sql)
        return [str(column[1]) for column in cursor.description or []]

    def _fill(self, name: str) -> None:
        columns = catalog.system_table(name, self._flavour)
        assert columns
        for table in self.all_tables():
            table.rows = int(self._one(f"SELECT count(*) FROM {_where(table)}"))
        names = [*self.databases, "information_schema"]
        rows = catalog.system_rows(name, self._flavour, names, self.all_tables(), self.rows_of)
        where = f"{SYSTEM}.{quoted(name)}"
        declared = ", ".join(f"{quoted(column)} {held(kind)}" for column, kind in columns)
        self._duckdb.execute(f"CREATE OR REPLACE TABLE {where} ({declared})")
        if rows:
            marks = ", ".join("?" * len(columns))
            self._duckdb.executemany(f"INSERT INTO {where} VALUES ({marks})", rows)

    # Definitions

    def create_database(self, name: str, *, lenient: bool) -> None:
        with self._lock:
            if name in self.databases:
                if lenient:
                    return
                raise Refusal(1007, "HY000", f"Can't create database '{name}'; database exists")
            self._duckdb.execute(f"CREATE SCHEMA {quoted(name)}")
            self.databases[name] = {}

    def drop_database(self, name: str, *, lenient: bool) -> None:
        with self._lock:
            if name not in self.databases:
                if lenient:
                    return
                raise Refusal(1008, "HY000", f"Can't drop database '{name}'; database doesn't exist")
            self._duckdb.execute(f"DROP SCHEMA {quoted(name)} CASCADE")
            del self.databases[name]

    def create_table(self, reader: Reader, session: Session) -> None:
        read = CreateTable(reader, self._flavour.types, self.number, doris=self._flavour.doris)
        table, lenient = read.read(session.database)
        with self._lock:
            if not table.database:
                raise self._errors.no_database()
            tables = self.database(table.database)
            if table.name in tables:
                if lenient:
                    return
                raise self._errors.table_exists(table.name)
            columns = ", ".join(f"{quoted(column.name)} {held(column.type)}" for column in table.columns)
            self._duckdb.execute(f"CREATE TABLE {_where(table)} ({columns})")
            tables[table.name] = table

    def drop_table(self, database: str, name: str, *, lenient: bool) -> None:
        with self._lock:
            if lenient and name not in self.databases.get(database, {}):
                return
            self._duckdb.execute(f"DROP TABLE {_where(self.table(database, name))}")
            del self.databases[database][name]

    def truncate(self, table: Table) -> None:
        with self._lock:
            self._duckdb.execute(f"DELETE FROM {_where(table)}")
            for part in table.partitions:
                part.change()

    def add_column(self, table: Table, column: Column) -> None:
        with self._lock:
            default = f" DEFAULT {literal(column.default)}" if column.default is not None else ""
            self._duckdb.execute(
                f"ALTER TABLE {_where(table)} ADD COLUMN {quoted(column.name)} {held(column.type)}{default}"
            )
            table.columns.append(column)

    def drop_column(self, table: Table, name: str) -> None:
        with self._lock:
            column = table.column(name)
            if column is None:
                raise self._errors.unknown_column(name)
            self._duckdb.execute(f"ALTER TABLE {_where(table)} DROP COLUMN {quoted(column.name)}")
            table.columns.remove(column)

    def drop_partition(self, table: Table, name: str) -> None:
        with self._lock:
            part = table.partition(name)
            if part is None:
                raise self._errors.unknown_partition(name, table.name)
            self._duckdb.execute(f"DELETE FROM {_where(table)} WHERE {part.predicate}")
            table.partitions.remove(part)

    # Changes

    def insert(self, sql: str, session: Session) -> int:
        """INSERT INTO t [(columns)] VALUES or SELECT; the number of rows."""
        translator = Translator(self._flavour, self, session)
        tree = translator.parse(sql, exp.Insert)
        target = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
        assert isinstance(target, exp.Table)
        table = self.table(target.db or session.database, target.name)
        named = [name.name for name in tree.this.expressions] if isinstance(tree.this, exp.Schema) else []
        named = named or [column.name for column in table.columns if not column.generated]
        for name in named:
            if table.column(name) is None:
                raise self._errors.unknown_column(name)
        source = tree.expression
        if any(len(row.expressions) != len(named) for row in source.expressions if isinstance(source, exp.Values)):
            raise Refusal(5604, "42601", "Inserted target column count doesn't match select/value column count")
        if isinstance(source, exp.Values):
            _keep_digits(source, [table.column(name) for name in named])
        rows = translator.render(source)
        with self._lock, self._refusals():
            self._write(table, named, rows, session)
            return int(self._one("SELECT count(*) FROM incoming"))

    def load(self, table: Table, rows: Sequence[Sequence[Any]], session: Session) -> None:
        """INSERT of many rows of plain values, without the SQL in which a client would say them."""
        named = [column.name for column in table.columns if not column.generated]
        texts = [[None if value is None else str(value) for value in column] for column in zip(*rows, strict=True)]
        loaded = pa.table([pa.array(column, pa.string()) for column in texts], names=named)
        with self._lock, self._refusals():
            self._duckdb.register("loaded", loaded)
            self._write(table, named, "SELECT * FROM loaded", session)
            self._duckdb.unregister("loaded")

    def _write(self, table: Table, named: list[str], rows: str, session: Session) -> None:
        given = {name.lower() for name in named}
        selected = ", ".join(self._converted(column, given, table, session) for column in table.columns)
        names = ", ".join(map(quoted, named))
        self._duckdb.execute(
            f"CREATE OR REPLACE TEMP TABLE incoming AS SELECT {selected} FROM ({rows}) AS given({names})"
        )
        for column in table.columns:
            if not column.nullable and self._one(f"SELECT count(*) FROM incoming WHERE {quoted(column.name)} IS NULL"):
                raise self._errors.filtered(table.name)
        keys = ", ".join(map(quoted, table.keys))
        self._partition(table)
        if table.replaces:
            # Of equal keys the last one stays.
            last = f"SELECT max(rowid) FROM incoming GROUP BY {keys}"
            self._duckdb.execute(f"DELETE FROM incoming WHERE rowid NOT IN ({last})")
        touched = [
            part for part in table.partitions if self._one(f"SELECT count(*) FROM incoming WHERE {part.predicate}")
        ]
        with self._transaction():
            if table.replaces:
                same = " AND ".join(f"t.{quoted(key)} IS NOT DISTINCT FROM i.{quoted(key)}" for key in table.keys)
                self._duckdb.execute(f"DELETE FROM {_where(table)} AS t USING incoming AS i WHERE {same}")
            self._duckdb.execute(f"INSERT INTO {_where(table)} SELECT * FROM incoming")
            if table.model == "AGGREGATE":
                self._merge(table)
        for part in touched:
            part.change()

    def _converted(self, column: Column, given: set[str], table: Table, session: Session) -> str:
        """What goes into a column, as the system would convert it."""
        name = quoted(column.name)
        if column.generated:
            translator = Translator(self._flavour, self, session)
            value = translator.render(translator.parse(f"SELECT {column.generated}", exp.Select).expressions[0])
        elif column.name.lower() in given:
            value = f"given.{name}"
        else:
            default = column.default
            value = "now()" if default and default.upper() == "CURRENT_TIMESTAMP" else literal(default)
        kind = column.type
        if kind.name == "JSON" or kind.name == "VARIANT":
            value = f"retl_json(CAST({value} AS VARCHAR))"
        elif kind.name == "DATETIME" and self._flavour.doris and (kind.args or (0,))[0] < 6:
            value = f"retl_rounded(CAST({value} AS TIMESTAMP), {10 ** (6 - (kind.args or (0,))[0])})"
        return f"CAST({value} AS {held(kind)}) AS {name}"

    def _partition(self, table: Table) -> None:
        """Let partitions grow where they do; rows that no partition takes are refused."""
        if table.automatic is not None:
            names = [quoted(name) for name in table.partition_by]
            if table.automatic:
                names = [f"date_trunc('{table.automatic}', CAST({names[0]} AS TIMESTAMP))"]
            chosen = f"SELECT DISTINCT {', '.join(names)} FROM incoming ORDER BY ALL"
            for values in self._duckdb.execute(chosen).fetchall():
                table.grow(values, self.number)
        anywhere = " OR ".join(f"({part.predicate})" for part in table.partitions) or "false"
        if self._one(f"SELECT count(*) FROM incoming WHERE ({anywhere}) IS NOT TRUE"):
            raise self._errors.filtered(table.name)

    def _merge(self, table: Table) -> None:
        """One row for each key of an AGGREGATE table: the rows lie in the order in which they came."""
        chosen = []
        for column in table.columns:
            name = quoted(column.name)
            if column.key:
                chosen.append(name)
            elif column.aggregate == "REPLACE":
                chosen.append(f"arg_max_null({name}, rowid)")
            else:
                chosen.append(
                    f"{_MERGES[column.aggregate]}({name})" if column.aggregate in _MERGES else f"arg_max({name}, rowid)"
                )
        keys = ", ".join(map(quoted, table.keys))
        where = _where(table)
        self._duckdb.execute(
            f"CREATE OR REPLACE TEMP TABLE merged AS SELECT {', '.join(chosen)} FROM {where} GROUP BY {keys} ORDER BY max(rowid)"
        )
        self._duckdb.execute(f"DELETE FROM {where}")
        self._duckdb.execute(f"INSERT INTO {where} SELECT * FROM merged")

    def update(self, sql: str, session: Session) -> int:
        """UPDATE, where the key model has it: PRIMARY in StarRocks, UNIQUE in Doris."""
        translator = Translator(self._flavour, self, session)
        tree = translator.parse(sql, exp.Update)
        assert isinstance(tree.this, exp.Table)
        table = self.table(tree.this.db or session.database, tree.this.name)
        if table.model != ("UNIQUE" if self._flavour.doris else "PRIMARY"):
            raise self._errors.bad_value(f"table {table.name} does not support update")
        with self._lock, self._refusals():
            return self._change(table, translator.where(tree), translator.render(tree))

    def delete(self, sql: str, session: Session) -> int:
        translator = Translator(self._flavour, self, session)
        tree = translator.parse(sql, exp.Delete)
        assert isinstance(tree.this, exp.Table)
        table = self.table(tree.this.db or session.database, tree.this.name)
        if tree.args.get("where") is None:
            raise self._errors.bad_value("Delete must specify where clause to prevent full table delete")
        with self._lock, self._refusals():
            return self._change(table, translator.where(tree), translator.render(tree))

    def _change(self, table: Table, condition: str, sql: str) -> int:
        alias = quoted(table.name)
        counts = {
            part.id: self._one(
                f"SELECT count(*) FROM {_where(table)} AS {alias} WHERE ({part.predicate}) AND ({condition})"
            )
            for part in table.partitions
        }
        self._duckdb.execute(sql)
        for part in table.partitions:
            if counts[part.id]:
                part.change()
        return sum(map(int, counts.values()))

    def reader(self, sql: str) -> Reader:
        return Reader(sql, tokens(sql, self._flavour), self._errors)

    def _one(self, sql: str) -> int:
        row = self._duckdb.execute(sql).fetchone()
        assert row
        return int(row[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._duckdb.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._duckdb.execute("ROLLBACK")
            raise
        self._duckdb.execute("COMMIT")

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """DuckDB's errors in the words of the system."""
        try:
            yield
        except duckdb.InterruptException:
            raise self._errors.killed() from None
        except duckdb.BinderException as error:
            if found := _MISSING.search(str(error)):
                raise self._errors.unknown_column(found[1]) from error
            raise self._errors.bad_value(str(error)) from error
        except duckdb.Error as error:
            raise self._errors.bad_value(str(error)) from error


def _where(table: Table) -> str:
    return f"{quoted(table.database)}.{quoted(table.name)}"


def _keep_digits(values: exp.Values, columns: Sequence[Column | None]) -> None:
    """Exact numbers as text: DuckDB would make DOUBLE of those that have no DECIMAL in common."""
    exact = [at for at, column in enumerate(columns) if column and column.type.name in {"DECIMAL", "LARGEINT"}]
    for row in values.expressions:
        for at in exact:
            number = row.expressions[at]
            if isinstance(number.this if isinstance(number, exp.Neg) else number, exp.Literal):
                text = f"-{number.this.name}" if isinstance(number, exp.Neg) else number.name
                number.replace(exp.Literal.string(text))
