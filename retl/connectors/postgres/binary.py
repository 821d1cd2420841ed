"""Encode Arrow batches in COPY's binary format, where the server stores the same by it as by CSV. No I/O.

The format knows no casts: every value is in the binary form of its column's type. So a batch is encoded if each of its
columns has that form, by its type and by all of its values; any other one is sent as CSV, whose values the server reads and
judges itself. https://www.postgresql.org/docs/current/sql-copy.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.rows.csv import uuid_text
from retl.connectors.rows.text import text_buffers, to_text, unprintable_times
from retl.model.schema import is_bytes, is_text, native_type

try:
    import pgpq
    from pgpq import encoders, schema
except ImportError:  # it has no wheel for every platform, and everything can be sent as CSV
    pgpq = None  # type: ignore[assignment]

COPY_OPTIONS = {"format": "binary"}
_KNOWN = re.compile(
    r"boolean|smallint|integer|bigint|real|double precision|numeric(?:\(\d+,\d+\))?|date|"
    r"timestamp(?:\(\d\))? with(?:out)? time zone|time(?:\(\d\))? without time zone|bytea|uuid|jsonb?|"
    r"text|citext|character(?: varying)?(?:\(\d+\))?|bpchar"
)
"""Types whose binary form Arrow's values have; those of text are text."""
_CELLS = 32_768
"""About so many values are encoded in one go, in a few milliseconds: other threads have to wait for it."""
_WHOLE = pa.decimal128(20, 0)
"""Holds every whole number of 64 bits."""
_SECONDS = len("2024-01-01 12:30:00")
"""What is shorter can be read in more than one way."""
_MICROSECONDS = pa.timestamp("us")


class NoForm(Exception):
    """A column has no binary form, or one of its values has none."""


def is_available() -> bool:
    """Whether the encoder is installed."""
    return pgpq is not None


def encoded(columns: Sequence[tuple[pa.Array, pa.Field]], first: int | None) -> bytes | None:
    """The rows of some columns, each with that of the target, which must be there; behind their numbers from ``first`` on.

    ``None``: they must be sent as CSV. Values that the target cannot store as they are must have been left out before.
    """
    try:
        forms = [binary_form(column, there) for column, there in columns]
        kinds = [native_type(there) for _, there in columns]
        if first is not None and forms:
            forms.insert(0, pa.array(np.arange(first, first + len(forms[0]), dtype=np.int64)))
            kinds.insert(0, "bigint")
        return _written(forms, kinds)
    except (NoForm, pa.ArrowException, ValueError):
        return None


def _written(forms: Sequence[pa.Array], kinds: Sequence[str]) -> bytes:
    batch = pa.RecordBatch.from_arrays(list(forms), [str(number) for number in range(len(forms))])
    encoder = _encoder(batch.schema, kinds)
    step = max(1, _CELLS // len(forms))
    rows = (encoder.write_batch(batch.slice(start, step)) for start in range(0, batch.num_rows, step))
    return b"".join([encoder.write_header(), *rows, encoder.finish()])


def _encoder(kinds_of_arrow: pa.Schema, kinds: Sequence[str]) -> pgpq.ArrowToPostgresBinaryEncoder:
    if "jsonb" not in kinds:
        return pgpq.ArrowToPostgresBinaryEncoder(kinds_of_arrow)
    chosen: dict[str, Any] = {
        column.name: encoders.StringEncoderBuilder.new_with_output(column, schema.Jsonb())
        if kind == "jsonb"
        else pgpq.ArrowToPostgresBinaryEncoder.infer_encoder(column)
        for column, kind in zip(kinds_of_arrow, kinds, strict=True)
    }
    return pgpq.ArrowToPostgresBinaryEncoder.new_with_encoders(kinds_of_arrow, chosen)


# One column --------------------------------------------------------------------


def binary_form(column: pa.Array, there: pa.Field) -> pa.Array:
    """The column in an Arrow type that is encoded as the target's.

    Raises ``NoForm``, or pyarrow's error of a cast, if a value has no such form, or perhaps another one than by its text.
    """
    native = native_type(there)
    if not _KNOWN.fullmatch(native):
        raise NoForm
    if isinstance(column.type, pa.BaseExtensionType) and column.type != pa.uuid():
        column = column.storage
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), pa.string())
    if native in ("json", "jsonb"):
        return _json(column)
    if native == "uuid":
        return _same(column.storage) if column.type == pa.uuid() else _none()
    if native.startswith("numeric"):
        return _numeric(column, there.type)
    if is_text(there.type):
        return _text(column)
    return _FORMS[there.type.id](column, there.type)


def _none() -> pa.Array:
    raise NoForm


def _same(column: pa.Array) -> pa.Array:
    return column


def _text(column: pa.Array) -> pa.Array:
    if is_text(column.type):
        return column
    return uuid_text(column) if column.type == pa.uuid() else to_text(column)


def _json(column: pa.Array) -> pa.Array:
    if is_text(column.type) or pa.types.is_nested(column.type):
        return to_text(column)
    raise NoForm


def _bytes(column: pa.Array, _: pa.DataType) -> pa.Array:
    return to_text(column) if is_bytes(column.type) else to_text(column).cast(pa.binary())


def _truth(column: pa.Array, kind: pa.DataType) -> pa.Array:
    # Of numbers only 0 and 1 are truth values, so their text is cast.
    return column if column.type == kind else to_text(column).cast(kind)


def _whole(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_floating(column.type):
        raise NoForm
    return (_digits(column) if is_text(column.type) else column).cast(kind)


def _numeric(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Decimals keep their own digits: the server rounds them no more than their text."""
    if pa.types.is_decimal128(column.type):
        return column
    if pa.types.is_decimal256(column.type):
        return column.cast(pa.decimal128(38, column.type.scale))
    if pa.types.is_integer(column.type):
        return column.cast(_WHOLE)
    if is_text(column.type) and pa.types.is_decimal128(kind):
        return _digits(column).cast(kind)
    raise NoForm


def _digits(column: pa.Array) -> pa.Array:
    """A text without letters: Arrow reads hexadecimal numbers, which not every PostgreSQL does."""
    found = text_buffers(column)
    if found is None or (len(found[1]) and int(found[1].max()) > ord("9")):
        raise NoForm
    return column


def _floating(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if is_text(column.type):
        return _floats_of_text(column, kind)
    if pa.types.is_integer(column.type) or (pa.types.is_float16(column.type) and kind == pa.float32()):
        column = column.cast(kind)
    if column.type != kind:  # the text of a shorter one stands for another number
        raise NoForm
    not_numbers = pc.is_nan(column)
    # There are many NaN, and text stands for one of them.
    return pc.if_else(not_numbers, pa.scalar(float("nan"), kind), column) if pc.any(not_numbers).as_py() else column


def _floats_of_text(column: pa.Array, kind: pa.DataType) -> pa.Array:
    numbers = column.cast(kind)
    zeros = column.filter(pc.equal(numbers, 0))
    endless, tiny = pc.invert(pc.is_finite(numbers)), pc.match_substring_regex(zeros, "[1-9]")
    # PostgreSQL rejects a number that is too large, or too close to zero.
    if pc.any(endless).as_py() or pc.any(tiny).as_py():
        raise NoForm
    return numbers


def _date(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if is_text(column.type) or pa.types.is_date(column.type):
        return _in_range(column.cast(kind))
    raise NoForm


def _timestamp(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if is_text(column.type):
        return _timestamps_of_text(column, kind)
    if pa.types.is_timestamp(column.type):
        return column.view(pa.timestamp(column.type.unit)).cast(_MICROSECONDS)
    if pa.types.is_date32(column.type):
        return column.cast(_MICROSECONDS)
    raise NoForm


def _timestamps_of_text(column: pa.Array, kind: pa.DataType) -> pa.Array:
    shortest = pc.min(pc.binary_length(column)).as_py()
    if shortest is not None and shortest < _SECONDS:
        raise NoForm
    try:
        return _in_range(column.cast(_MICROSECONDS))
    except pa.ArrowInvalid:
        if kind.tz is None:
            raise
        return _in_range(column.cast(pa.timestamp("us", "UTC")).view(_MICROSECONDS))


def _in_range(times: pa.Array) -> pa.Array:
    """Arrow has a year 0."""
    if unprintable_times(times) is not None:
        raise NoForm
    return times


def _time(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return column.cast(kind) if pa.types.is_time(column.type) else _none()


_FORMS = {
    pa.bool_().id: _truth,
    pa.int16().id: _whole,
    pa.int32().id: _whole,
    pa.int64().id: _whole,
    pa.float32().id: _floating,
    pa.float64().id: _floating,
    pa.date32().id: _date,
    _MICROSECONDS.id: _timestamp,
    pa.time64("us").id: _time,
    pa.binary().id: _bytes,
}
"""How values get the form of a type, by Arrow's number of it."""
