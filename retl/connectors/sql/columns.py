"""Questions about columns of a SQL target that retl itself has written, and their end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from retl.connectors.sql.dialect import Dialect
from retl.connectors.sql.statement import Statement, Step, query
from retl.connectors.sql.tables import ExistingTable, TableChange, TableName
from retl.model.plan import WriteSpec

_AT_ONCE = 500
"""Values in one question: no system takes fewer."""


def lookup(
    name: TableName, existing: ExistingTable | None, column: str, values: Sequence[str], wanted: Sequence[str]
) -> Step[pa.Table]:
    """The rows in which a column has one of some values: see ``Target.lookup``."""
    asked = [column, *wanted]
    rows: list[Any] = []
    there = _spelled(name.dialect, existing, asked)
    if existing is not None and len(there) == len(asked):
        shown = ", ".join(
            name.dialect.text_of(existing.columns.field(own), name.dialect.identifier(own)) for own in there
        )
        for start in range(0, len(values), _AT_ONCE):
            some = values[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(some))
            found = f"SELECT {shown} FROM {name.sql} WHERE {name.dialect.identifier(there[0])} IN ({marks})"
            rows += yield query(found, *some)
    columns = list(zip(*rows, strict=True)) or [()] * len(asked)
    texts = [pa.array(values, pa.string()) for values in columns]
    if rows and existing is not None:
        fields = [existing.columns.field(own) for own in there]
        texts = [name.dialect.read_text(column, some) for column, some in zip(fields, texts, strict=True)]
    return pa.table(dict(zip(asked, texts, strict=True)))


def extremes(name: TableName, existing: ExistingTable | None, column: str) -> Step[tuple[str, str] | None]:
    """The lowest and the highest text of a column: see ``Target.extremes``."""
    there = _spelled(name.dialect, existing, [column])
    if not there:
        return None
    own = name.dialect.identifier(there[0])
    ((low, high),) = yield query(f"SELECT MIN({own}), MAX({own}) FROM {name.sql}")
    return None if low is None else (str(low), str(high))


def drop(name: TableName, existing: ExistingTable | None, columns: Sequence[str]) -> Step[None]:
    """Drop columns as far as they are there."""
    for own in _spelled(name.dialect, existing, columns):
        for statement in name.dialect.drop_column(name.sql, own):
            yield Statement(statement)


def new_stamps(spec: WriteSpec, existing: ExistingTable | None, dialect: Dialect) -> tuple[str, ...]:
    """The column, as it stands in SQL, by which vectors are found again, where it is added to the table."""
    words = spec.table.embeddings
    if words is None or words.made_of not in spec.schema.names or _spelled(dialect, existing, [words.made_of]):
        return ()
    return (dialect.identifier(words.made_of),)


def with_index(change: TableChange, spec: WriteSpec, existing: ExistingTable | None, dialect: Dialect) -> TableChange:
    """The same index in the very statement that adds the column, where each statement is a transaction."""
    new = new_stamps(spec, existing, dialect)
    if not new:
        return change
    if change.create:
        return replace(change, definitions=(*change.definitions, f"INDEX ({new[0]})"))
    added = [f"{one}, ADD INDEX ({new[0]})" if one.startswith(f"{new[0]} ") else one for one in change.added]
    return replace(change, added=tuple(added))


def _spelled(dialect: Dialect, existing: ExistingTable | None, names: Sequence[str]) -> list[str]:
    """The table's own spelling of those names that it has."""
    own = {dialect.fold(column): column for column in existing.columns.names} if existing is not None else {}
    return [own[dialect.fold(name)] for name in names if dialect.fold(name) in own]
