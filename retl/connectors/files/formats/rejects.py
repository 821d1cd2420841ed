"""The columns of a batch in the types of its table, and the rows that do not fit as rejects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from retl.connectors.base import RowReject, with_rejects
from retl.connectors.files.formats.base import LINE
from retl.connectors.files.formats.cast import cast, is_bad, shown
from retl.connectors.files.formats.options import FormatOptions
from retl.connectors.rows.text import json_text
from retl.model.schema import is_bytes, is_text

_LONGEST = 10_000
"""Characters of a rejected row that are kept."""


@dataclass(frozen=True)
class BrokenRow:
    """A row that could not be divided into values."""

    line: int
    reason: str
    text: str


@dataclass
class FoundRows:
    """Rows as they were read: columns by name, and the line of each row."""

    columns: Mapping[str, pa.Array]
    lines: npt.NDArray[np.int64]
    broken: Sequence[BrokenRow] = field(default_factory=list)


def cast_rows(rows: FoundRows, schema: pa.Schema, options: FormatOptions) -> pa.RecordBatch:
    """One batch with the columns of ``schema``; rows that do not fit are rejects, broken ones follow the others."""
    rejects: dict[int, RowReject] = {}
    arrays = [_column(rows, column, options, rejects) for column in schema]
    batch = pa.RecordBatch.from_arrays(arrays, schema=_nullable(schema))
    if rows.broken:
        batch = pa.concat_batches([batch, _empty_rows(batch.schema, rows.broken)])
        for number, broken in enumerate(rows.broken, start=len(rows.lines)):
            content = json_text({"line": broken.line, "text": broken.text[:_LONGEST]})
            rejects[number] = RowReject(f"line {broken.line}: {broken.reason}", content)
    return with_rejects(batch, rejects)


def _column(rows: FoundRows, column: pa.Field, options: FormatOptions, rejects: dict[int, RowReject]) -> pa.Array:
    if column.name == LINE:
        return pa.array(rows.lines, pa.int64()).cast(column.type)
    found = rows.columns.get(column.name)
    if found is None:
        return pa.nulls(len(rows.lines), column.type)
    array, bad = cast(found, column.type, options.style(column.name))
    if bad is not None and is_bad(bad):
        _reject(rows, column, found, bad, rejects)
    return array


def _reject(rows: FoundRows, column: pa.Field, found: pa.Array, bad: Any, rejects: dict[int, RowReject]) -> None:
    for number in np.flatnonzero(bad).tolist():
        if number not in rejects:
            wrong = f"{_shown(found, number)} is not {_wanted(column, found)}"
            reason = f"line {rows.lines[number]}: {wrong}"
            rejects[number] = RowReject(reason, _content(rows, number), column.name)


def _wanted(column: pa.Field, found: pa.Array) -> str:
    as_bytes = is_text(column.type) and is_bytes(found.type)
    return "text of its encoding" if as_bytes else f"of type {column.type}"


def _shown(found: pa.Array, number: int) -> str:
    return repr(shown(_value(found, number)))


def _value(found: pa.Array, number: int) -> Any:
    try:
        value = found[number].as_py()
    except (UnicodeDecodeError, ValueError, OverflowError):
        value = found.slice(number, 1).cast(pa.binary(), safe=False)[0].as_py()
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def _content(rows: FoundRows, number: int) -> str:
    """The row for people."""
    return json_text({name: _value(found, number) for name, found in rows.columns.items()})[:_LONGEST]


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([column.with_nullable(True) for column in schema], metadata=schema.metadata)


def _empty_rows(schema: pa.Schema, broken: Sequence[BrokenRow]) -> pa.RecordBatch:
    lines = [row.line for row in broken]
    arrays = [
        pa.array(lines, column.type) if column.name == LINE else pa.nulls(len(lines), column.type) for column in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
