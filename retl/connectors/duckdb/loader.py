"""Stage the rows of a slice in a temporary table with the types of the target's columns.

It belongs to the connection, so a crash leaves nothing of it, and DuckDB moves it to disk
when memory is short.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from retl.connectors.duckdb.dialect import DIALECT
from retl.connectors.duckdb.session import DuckDBSession
from retl.connectors.duckdb.types import cast_expression, invalid_values, to_duckdb
from retl.connectors.rows.rejects import RejectCollector
from retl.connectors.rows.text import not_a_number, not_utf8
from retl.connectors.sql.loader import BulkLoader
from retl.connectors.sql.merge import PreparedLoad
from retl.connectors.sql.session import Session
from retl.connectors.sql.statement import Statement, Step, query
from retl.model.schema import native_type

_STAGE = "temp.retl_stage"
_BATCH = "retl_batch"


class DuckDBLoader(BulkLoader):
    """Its columns are ``c0``, ``c1`` ..., which clash with no column of a target."""

    typed = True
    table = _STAGE

    def __init__(self, load: PreparedLoad) -> None:
        self._key = frozenset(load.spec.key)
        self._fields = [load.existing.columns.field(own) for own in load.columns.values()]
        self._natives = [native_type(column) for column in self._fields]
        self._columns = list(load.columns)
        self.names = {name: f"c{number}" for number, name in enumerate(load.columns)}

    def create(self) -> Step[None]:
        columns = ", ".join(f"{name} {native}" for name, native in zip(self.names.values(), self._natives, strict=True))
        yield Statement(f"CREATE OR REPLACE TEMP TABLE retl_stage ({columns})")

    def clear(self) -> Step[None]:
        yield from self.create()  # recreated, since a DELETE would not free memory

    def drop(self) -> Step[None]:
        yield Statement(f"DROP TABLE IF EXISTS {_STAGE}")

    def rows(self, where: str) -> Step[list[dict[str, Any]]]:
        shown = ", ".join(
            f"{DIALECT.select_expression(field, name)} AS {name}"
            for field, name in zip(self._fields, self.names.values(), strict=True)
        )
        found = yield query(f"SELECT {shown} FROM {_STAGE} WHERE {where}")
        return [dict(zip(self._columns, row, strict=True)) for row in found]

    async def stage(self, session: Session, batch: pa.RecordBatch, rejects: RejectCollector) -> pa.RecordBatch:
        assert isinstance(session, DuckDBSession)
        return await session.call(self._stage, batch, rejects)

    def _stage(
        self, connection: duckdb.DuckDBPyConnection, batch: pa.RecordBatch, rejects: RejectCollector
    ) -> pa.RecordBatch:
        batch = rejects.leave_out(batch, self._invalid_values(batch))
        try:
            return self._insert(connection, batch)
        except (duckdb.DataError, duckdb.InvalidInputException):  # error() in our own SQL raises the latter
            kept = rejects.leave_out(batch, self._uncastable(connection, batch))
            if kept.num_rows == batch.num_rows:
                raise
        return self._insert(connection, kept)

    def _invalid_values(self, batch: pa.RecordBatch) -> list[tuple[pa.Array, str, str]]:
        """Rows that lack a required value, and rows with a time that DuckDB cannot hold."""
        found: list[tuple[pa.Array, str, str]] = []
        for name, field, native in zip(self._columns, self._fields, self._natives, strict=True):
            column = batch.column(name)
            if column.null_count and name in self._key:
                found.append((column.is_null(), "the key is NULL", name))
            elif column.null_count and not field.nullable:
                found.append((column.is_null(), "the target's column is NOT NULL", name))
            found.extend((mask, reason, name) for mask, reason in invalid_values(column, native))
            found.extend((mask, reason, name) for mask, reason in _unwritable(column) if mask is not None)
        return found

    def _insert(self, connection: duckdb.DuckDBPyConnection, batch: pa.RecordBatch) -> pa.RecordBatch:
        wired = self._wired(batch)
        values = ", ".join(self._values(wired, attempt=False))
        with _registered(connection, wired):
            connection.execute(f"INSERT INTO {_STAGE} SELECT {values} FROM {_BATCH}")
        return batch

    def _wired(self, batch: pa.RecordBatch) -> pa.Table:
        pairs = zip(self._columns, self._natives, strict=True)
        return pa.Table.from_arrays(
            [to_duckdb(batch.column(name), native) for name, native in pairs], names=list(self.names.values())
        )

    def _values(self, wired: pa.Table, *, attempt: bool) -> list[str]:
        pairs = zip(wired.schema, self._natives, strict=True)
        return [cast_expression(column.type, native, column.name, attempt=attempt) for column, native in pairs]

    def _uncastable(
        self, connection: duckdb.DuckDBPyConnection, batch: pa.RecordBatch
    ) -> list[tuple[pa.Array, str, str]]:
        """The rows with a value that the target's type cannot hold unchanged."""
        wired, names = self._wired(batch), list(self.names.values())
        tests = ", ".join(
            f"{name} IS NOT NULL AND ({value}) IS NULL AS {name}"
            for name, value in zip(names, self._values(wired, attempt=True), strict=True)
        )
        with _registered(connection, wired):
            bad: dict[str, Any] = connection.execute(f"SELECT {tests} FROM {_BATCH}").fetchnumpy()
        return [
            (pa.array(np.asarray(bad[name], dtype=bool)), f"the value does not fit exactly into {native}", column)
            for name, native, column in zip(names, self._natives, self._columns, strict=True)
        ]


def _unwritable(column: pa.Array) -> list[tuple[pa.Array | None, str]]:
    """Values that DuckDB cannot express: text that is not UTF-8, and NaN inside JSON."""
    nested = not_a_number(column) if pa.types.is_nested(column.type) else None
    return [(not_utf8(column), "the text is not valid UTF-8"), (nested, "JSON has neither NaN nor infinity")]


@contextmanager
def _registered(connection: duckdb.DuckDBPyConnection, table: pa.Table) -> Iterator[None]:
    """An Arrow table that SQL sees as ``retl_batch``."""
    connection.register(_BATCH, table)
    try:
        yield
    finally:
        connection.unregister(_BATCH)
