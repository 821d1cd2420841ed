"""The temporary table that the rows of a slice pile up in, typed as the target's columns.

It belongs to the connection, so a crash leaves nothing of it, and DuckDB moves it to disk
where memory ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from retl.connectors.duckdb.dialect import DIALECT
from retl.connectors.duckdb.types import take, unfit, wire
from retl.connectors.rows.rejects import RejectCollector, plain_rows
from retl.connectors.rows.text import not_a_number, not_utf8
from retl.model.schema import native_type

if TYPE_CHECKING:
    import duckdb

STAGE = "temp.retl_stage"
ROWID = "retl_stage.rowid"
_BATCH = "retl_batch"


class Stage:
    """Its columns are ``c0``, ``c1`` ..., which clash with no name of a target's."""

    def __init__(self, columns: Sequence[pa.Field], key: Sequence[str]) -> None:
        self._fields = list(columns)
        self._key = frozenset(key)
        self._natives = [native_type(column) for column in columns]
        self.columns = [column.name for column in columns]
        self.names = [f"c{number}" for number in range(len(columns))]

    @property
    def texts(self) -> frozenset[str]:
        """The columns that may have a collation of their own in the table."""
        return frozenset(name for name, native in zip(self.columns, self._natives, strict=True) if native == "VARCHAR")

    def create(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make it, or make it empty: anew, since a DELETE would give no memory back."""
        columns = ", ".join(f"{name} {native}" for name, native in zip(self.names, self._natives, strict=True))
        connection.execute(f"CREATE OR REPLACE TEMP TABLE retl_stage ({columns})")

    def drop(self, connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute(f"DROP TABLE IF EXISTS {STAGE}")

    def add(self, connection: duckdb.DuckDBPyConnection, batch: pa.RecordBatch, refusals: RejectCollector) -> int:
        """Stage a batch; a row with a value that the target's type does not hold as it is, is refused."""
        batch = refusals.leave_out(batch, self._unfit(batch))
        try:
            return self._insert(connection, batch)
        except Exception as error:
            if not _is_about_values(error):
                raise
            kept = refusals.leave_out(batch, self._uncastable(connection, batch))
            if kept.num_rows == batch.num_rows:
                raise
        return self._insert(connection, kept)

    def _unfit(self, batch: pa.RecordBatch) -> list[tuple[pa.Array, str, str]]:
        """Rows without a value that the table demands, and those with a time that DuckDB cannot hold."""
        found: list[tuple[pa.Array, str, str]] = []
        for field, native in zip(self._fields, self._natives, strict=True):
            column = batch.column(field.name)
            if column.null_count and field.name in self._key:
                found.append((column.is_null(), "the key is NULL", field.name))
            elif column.null_count and not field.nullable:
                found.append((column.is_null(), "the target's column is NOT NULL", field.name))
            found.extend((mask, reason, field.name) for mask, reason in unfit(column, native))
            found.extend((mask, reason, field.name) for mask, reason in _unwritable(column) if mask is not None)
        return found

    def _insert(self, connection: duckdb.DuckDBPyConnection, batch: pa.RecordBatch) -> int:
        wired = self._wired(batch)
        values = ", ".join(self._values(wired, attempt=False))
        with _registered(connection, wired):
            connection.execute(f"INSERT INTO {STAGE} SELECT {values} FROM {_BATCH}")
        return int(batch.num_rows)

    def _wired(self, batch: pa.RecordBatch) -> pa.Table:
        pairs = zip(self.columns, self._natives, strict=True)
        return pa.Table.from_arrays([wire(batch.column(name), native) for name, native in pairs], names=self.names)

    def _values(self, wired: pa.Table, *, attempt: bool) -> list[str]:
        pairs = zip(wired.schema, self._natives, strict=True)
        return [take(column.type, native, column.name, attempt=attempt) for column, native in pairs]

    def _uncastable(
        self, connection: duckdb.DuckDBPyConnection, batch: pa.RecordBatch
    ) -> list[tuple[pa.Array, str, str]]:
        """The rows with a value that cannot become one of the target's type unchanged."""
        wired = self._wired(batch)
        tests = ", ".join(
            f"{name} IS NOT NULL AND ({value}) IS NULL AS {name}"
            for name, value in zip(self.names, self._values(wired, attempt=True), strict=True)
        )
        with _registered(connection, wired):
            bad: dict[str, Any] = connection.execute(f"SELECT {tests} FROM {_BATCH}").fetchnumpy()
        return [
            (pa.array(np.asarray(bad[name], dtype=bool)), f"the value does not fit exactly into {native}", column)
            for name, native, column in zip(self.names, self._natives, self.columns, strict=True)
        ]

    def rows(self, connection: duckdb.DuckDBPyConnection, condition: str) -> list[dict[str, Any]]:
        """Some of the rows, as people are shown them."""
        shown = ", ".join(
            f"{DIALECT.select_expression(field, name)} AS {name}"
            for field, name in zip(self._fields, self.names, strict=True)
        )
        found = fetch_plain(connection, f"SELECT {shown} FROM {STAGE} WHERE {condition}")
        return [dict(zip(self.columns, row.values(), strict=True)) for row in found]


def fetch_plain(connection: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    """The rows of a small result, as people are shown them."""
    # Through Arrow: DuckDB's own Python objects for times with a zone need one more package.
    relation: Any = connection.sql(sql)
    table = (getattr(relation, "to_arrow_table", None) or relation.fetch_arrow_table)()
    return [row for batch in table.to_batches() for row in plain_rows(batch)]


def _unwritable(column: pa.Array) -> list[tuple[pa.Array | None, str]]:
    """What has no form in DuckDB: bytes that are no text, and NaN inside of what becomes JSON."""
    nested = not_a_number(column) if pa.types.is_nested(column.type) else None
    return [(not_utf8(column), "the text is not valid UTF-8"), (nested, "JSON has no word for NaN or infinity")]


@contextmanager
def _registered(connection: duckdb.DuckDBPyConnection, table: pa.Table) -> Iterator[None]:
    """A table of Arrow's, seen by SQL as ``retl_batch`` meanwhile."""
    connection.register(_BATCH, table)
    try:
        yield
    finally:
        connection.unregister(_BATCH)


def _is_about_values(error: Exception) -> bool:
    """Whether a value could not be converted. What our own SQL raises by ``error()`` is an invalid input."""
    import duckdb

    return isinstance(error, (duckdb.DataError, duckdb.InvalidInputException))
