"""Turn a user's rows and batches into batches of the promised schema: a mismatch is an error, never a guess."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pyarrow as pa

from retl.connectors.function.types import nameless, unwrapped
from retl.connectors.rows.text import holds_nan
from retl.model.errors import SourceError
from retl.model.schema import JSON, is_bytes, is_text, native_type

_FIRST_ROWS = 64
_MOST_ROWS = 4_096
_BATCH_BYTES = 4 * 1024 * 1024
_MOST_BATCH_ROWS = 65_536

_NONE = object()

Row = Mapping[str, Any]


def is_row(item: Any) -> bool:
    """Whether an item is one row and not a page."""
    return isinstance(item, Mapping | msgspec.Struct) or (dataclasses.is_dataclass(item) and not isinstance(item, type))


def as_mapping(row: Any) -> Row:
    """One row as a mapping of its columns."""
    if isinstance(row, Mapping):
        return row
    if isinstance(row, msgspec.Struct):
        return {name: getattr(row, name) for name in row.__struct_fields__}
    return {column.name: getattr(row, column.name) for column in dataclasses.fields(row)}


class Pile:
    """Gathers rows into batches of some megabytes; the user's own batches pass through, cut if they are large."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self.limit = _FIRST_ROWS

    def add(self, item: Any) -> Iterator[list[Row] | pa.RecordBatch]:
        """Add an item of the user's iterator; yields what is ready."""
        if is_row(item):
            self._rows.append(as_mapping(item))
            if len(self._rows) >= self.limit:
                yield from self.flush()
        elif isinstance(item, pa.RecordBatch | pa.Table):
            yield from self.flush()
            table = item if isinstance(item, pa.Table) else pa.Table.from_batches([item])
            yield from table.to_batches(max_chunksize=_MOST_BATCH_ROWS)
        elif isinstance(item, Iterable) and not isinstance(item, str | bytes):
            for row in item:
                yield from self.add(row)
        else:
            raise SourceError(
                f"the function gave {_shown(item)}, which is not a row.",
                remedy="give dicts, msgspec structs, dataclasses, Arrow batches, or lists of them.",
            )

    def flush(self) -> Iterator[list[Row] | pa.RecordBatch]:
        """Yield the remaining rows."""
        if self._rows:
            rows, self._rows = self._rows, []
            yield rows

    def record(self, batch: pa.RecordBatch) -> None:
        """Learn from a finished batch how many rows the next one may have."""
        fitting = _BATCH_BYTES * batch.num_rows // max(1, batch.nbytes)
        self.limit = max(1, min(_MOST_ROWS, 4 * self.limit, fitting))


class Shape:
    """The columns to read from each row, by the user's names, and their names in the target."""

    def __init__(self, schema: pa.Schema, chosen: Sequence[str], target: pa.Schema, *, all_columns: bool) -> None:
        self._fields = [schema.field(name) for name in chosen]
        self._known = frozenset(schema.names)
        self._all = all_columns
        self._target = target

    def batch(self, piece: Sequence[Row] | pa.RecordBatch) -> pa.RecordBatch:
        """One batch with the target's columns. Raises ``SourceError`` that names column and value."""
        if isinstance(piece, pa.RecordBatch):
            self._check_names(frozenset(piece.schema.names), piece)
            columns = [_fit(_column_of(piece, column.name), column) for column in self._fields]
        else:
            for row in piece:
                if not row.keys() <= self._known:
                    self._check_names(row.keys(), row)
            columns = [from_values([row.get(column.name) for row in piece], column) for column in self._fields]
        for column, array in zip(self._fields, columns, strict=True):
            if not column.nullable and array.null_count:
                raise SourceError(
                    f"column {column.name!r} may not be NULL, but a row has no value for it.",
                    remedy="give the value, or declare the column as one that may be missing.",
                )
        return pa.RecordBatch.from_arrays(columns, schema=self._target)

    def _check_names(self, names: Iterable[str], piece: Any) -> None:
        unnamed = next((name for name in names if not isinstance(name, str)), _NONE)
        if unnamed is not _NONE:
            raise nameless(unnamed, piece[unnamed])
        if not self._all:
            return
        extra = next((name for name in names if name not in self._known), None)
        if extra is not None:
            value = piece.column(extra)[0].as_py() if isinstance(piece, pa.RecordBatch) and len(piece) else None
            value = piece[extra] if isinstance(piece, Mapping) else value
            raise SourceError(
                f"a row has the column {extra!r} (value {_shown(value)}), which is not in the schema.",
                remedy="add it to schema (without a schema: let it occur in the first rows), or choose the columns to read with columns.",
            )


def _column_of(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name not in batch.schema.names:
        raise SourceError(f"a batch lacks the column {name!r}.", remedy="give every batch the same columns.")
    return batch.column(name)


def _fit(array: pa.Array, column: pa.Field) -> pa.Array:
    """A user's Arrow column in the promised type, if that changes no value."""
    given, wanted = array.type, column.type
    if given == wanted:
        return array
    if pa.types.is_dictionary(given):
        return _fit(array.dictionary_decode(), column)
    if pa.types.is_null(given):
        return pa.nulls(len(array), wanted)
    try:
        if _converts(given, wanted):
            return array.cast(wanted)
    except pa.ArrowInvalid as error:
        raise SourceError(
            f"column {column.name!r} is {wanted}, but a batch has a value that does not fit: {error}."
        ) from None
    raise SourceError(
        f"column {column.name!r} is {wanted}, but a batch has it as {given} (value {_shown(_first(array))}).",
        remedy="cast the column in your function, or declare its type with schema.",
    )


def _first(array: pa.Array) -> Any:
    valid = array.drop_null()
    return str(valid[0]) if len(valid) else None


_FAMILIES = (
    (
        pa.types.is_integer,
        lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind),
    ),
    (pa.types.is_floating, lambda kind: kind == pa.float64()),
    (pa.types.is_decimal, pa.types.is_decimal),
    (pa.types.is_date, pa.types.is_date),
    (pa.types.is_time, pa.types.is_time),
    (pa.types.is_duration, pa.types.is_duration),
)


def _converts(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a checked cast keeps every value (it fails for one that it would change)."""
    for is_one in (is_text, is_bytes):
        if is_one(given):
            return is_one(wanted)
    if pa.types.is_timestamp(given):
        return pa.types.is_timestamp(wanted) and (given.tz is None) == (wanted.tz is None)
    return any(matches(given) and takes(wanted) for matches, takes in _FAMILIES)


def from_values(values: list[Any], column: pa.Field) -> pa.Array:
    """Python values as one column; ints become floats if floats are declared, nothing else changes."""
    kinds = set(map(type, values)) - {type(None)}
    if any(issubclass(kind, Enum | msgspec.UnsetType) for kind in kinds):
        values = [unwrapped(value) for value in values]
        kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return pa.nulls(len(values), column.type)
    if JSON in (column.metadata or {}):
        return _build([_json(value, column) for value in values], column.type, column)
    allowed = _accepted(column.type)
    if allowed is not None and not all(_is_one(kind, allowed) for kind in kinds):
        odd = next((value for value in values if value is not None and not _is_one(type(value), allowed)), None)
        raise _type_error(column, odd)
    if UUID in kinds:
        values = [str(value) if isinstance(value, UUID) else value for value in values]
    if pa.types.is_timestamp(column.type) or pa.types.is_time(column.type):
        if kinds - {datetime, time}:
            values = [_clock(value, column) for value in values]
        _check_zones(values, column)
        # Python's times have microseconds; Arrow would silently cut digits for a coarser unit.
        exact = pa.time64("us") if pa.types.is_time(column.type) else pa.timestamp("us", tz=column.type.tz)
        return _build(values, exact, column)
    return _build(values, column.type, column)


def _accepted(kind: pa.DataType) -> tuple[type, ...] | None:
    """The Python types that a column accepts; ``None`` if Arrow itself is strict enough."""
    for is_one, accepted in (
        (pa.types.is_boolean, (bool, np.bool_)),
        (pa.types.is_integer, (int, np.integer)),
        (pa.types.is_floating, (float, int, np.floating, np.integer)),
        (pa.types.is_decimal, (Decimal, int)),
        (pa.types.is_timestamp, (datetime,)),
        (pa.types.is_date, (date,)),
        (pa.types.is_time, (time,)),
        (pa.types.is_duration, (timedelta,)),
        (pa.types.is_string, (str, UUID)),
        (pa.types.is_large_string, (str, UUID)),
        (pa.types.is_binary, (bytes, bytearray, memoryview)),
        (pa.types.is_large_binary, (bytes, bytearray, memoryview)),
    ):
        if is_one(kind):
            return accepted
    return None


def _is_one(kind: type, allowed: tuple[type, ...]) -> bool:
    if issubclass(kind, bool):
        return bool in allowed  # a bool is an int to Python
    if issubclass(kind, datetime):
        return datetime in allowed  # and a datetime is a date, whose time would be lost
    return issubclass(kind, allowed)


def _clock(value: Any, column: pa.Field) -> Any:
    """A time of a class of its own, such as pandas': its "not a time" has no value, and nanoseconds would be cut off."""
    if value is None or value != value:
        return None
    if getattr(value, "nanosecond", 0):
        raise _type_error(column, value, " with nanoseconds, which a datetime does not have")
    return value


def _check_zones(values: list[Any], column: pa.Field) -> None:
    zoned = pa.types.is_timestamp(column.type) and column.type.tz is not None
    for value in values:
        if value is not None and (value.tzinfo is not None) is not zoned:
            raise _type_error(column, value, " with a zone" if value.tzinfo else " without a zone")


def _json(value: Any, column: pa.Field) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            msgspec.json.decode(value)
        except msgspec.DecodeError:
            raise _type_error(column, value, ", which is not JSON text") from None
        return value
    try:
        text = msgspec.json.encode(value, enc_hook=_json_value).decode()
    except (UnicodeEncodeError, RecursionError, TypeError, ValueError, OverflowError):
        raise _type_error(column, value, ", which has no form in JSON") from None
    if "null" in text and holds_nan(value):  # msgspec would write null
        raise _type_error(column, value, " with NaN or infinity, which JSON does not have")
    return text


def _json_value(value: Any) -> Any:
    """A value that JSON cannot express: NumPy's numbers become numbers, everything else text."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return dict(value) if isinstance(value, Mapping) else str(value)


def _build(values: list[Any], kind: pa.DataType, column: pa.Field) -> pa.Array:
    try:
        array = pa.array(values, kind)
        return array if kind == column.type else array.cast(column.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        if len(values) == 1:
            raise _type_error(column, values[0]) from None
    middle = len(values) // 2  # bisected to find the value
    _build(values[:middle], kind, column)
    _build(values[middle:], kind, column)
    raise SourceError(f"column {column.name!r} holds values that do not fit {native_type(column)} together.")


def _type_error(column: pa.Field, value: Any, why: str = "") -> SourceError:
    kind = "JSON" if JSON in (column.metadata or {}) else native_type(column)
    return SourceError(
        f"column {column.name!r} is {kind}, but a row has {_shown(value)} ({type(value).__name__}){why}.",
        remedy="convert it in your function, or declare the column's type with schema; nothing is converted by guessing.",
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
