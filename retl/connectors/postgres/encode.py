"""Encode Arrow batches for COPY, and find the rows that the server would change without an error. No I/O.

The server's own casts find everything else: a number out of range, a day that does not exist,
a word that is no member of an enum, ``\\u0000`` and lone surrogates in jsonb.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.postgres import binary
from retl.connectors.postgres.facts import product_of
from retl.connectors.rows.csv import NULL, csv_bytes, hex_text, to_csv_form, uuid_text
from retl.connectors.rows.text import (
    may_hold_nul,
    not_a_number,
    not_utf8,
    text_buffers,
    to_text,
    unprintable_times,
)
from retl.model.schema import is_bytes, is_json, is_text, native_type, value_type

_CSV_OPTIONS = {"format": "csv", "null": NULL, "encoding": "UTF8"}
CSV_WORDS = f"FROM STDIN (FORMAT 'csv', NULL '{NULL}', ENCODING 'UTF8')"
"""The same as a statement has them."""
BINARY_WORDS = "FROM STDIN (FORMAT 'binary')"
_LENGTH = re.compile(r"(character varying|character|bit)\((\d+)\)")
_PADDED = re.compile(r"character\(\d+\)")
"""A type of another PostgreSQL, which fills its values up with spaces."""
_FRACTION = re.compile(r"(?:timestamp|time)(?:\((\d)\))? ")
_UNIT_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_MICROSECONDS = 6
_NAME_BYTES = 63
_HEX = pa.scalar("\\x", pa.large_string())
_NO_JSON = "JSON has neither NaN nor infinity"

Found = list[tuple[pa.Array, str]]


class CopyData(NamedTuple):
    """Some rows as COPY takes them."""

    data: memoryview
    options: Mapping[str, Any]
    """Those of the COPY."""
    is_binary: bool


class Encoder:
    """The batches of one load as its COPY takes them. Pure, so that it can run in a thread."""

    def __init__(
        self, given: pa.Schema, columns: Mapping[str, pa.Field], *, key: Collection[str], strict: Collection[str]
    ) -> None:
        """``columns``: the target's column for each one that is ``given``; ``strict`` are those that take no NULL."""
        self._columns = columns
        self._fields = [(given.field(name), there) for name, there in columns.items()]
        self._padded = frozenset(name for name in columns if _PADDED.fullmatch(native_type(given.field(name))))
        self._key = frozenset(key)
        self._strict = frozenset(strict)
        self.sends_binary: bool | None = None
        """Whether batches are sent in binary that have such a form; ``None`` as long as the server is not known."""

    def meet(self, version: str) -> None:
        """Learn what the server calls itself. Others that speak its protocol may mean something else by a binary value."""
        if self.sends_binary is None:
            self.sends_binary = binary.is_available() and product_of(version) == "PostgreSQL"

    @property
    def has_binary_form(self) -> bool:
        """Whether columns of the given types have one."""
        arrays = ((pa.nulls(0, value_type(field.type)), there) for field, there in self._fields)
        return binary.is_available() and binary.encoded([*arrays], None) is not None

    def invalid_values(self, batch: pa.RecordBatch) -> list[tuple[pa.Array, str, str]]:
        """Masks of rows, with the reason and the column, that must not be sent."""
        found: list[tuple[pa.Array, str, str]] = []
        for name, there in self._columns.items():
            column = _decoded(batch.column(name))
            if column.null_count and name in self._key:
                found.append((column.is_null(), "the key is NULL", name))
            elif column.null_count and name in self._strict:
                found.append((column.is_null(), f'null value in column "{name}" violates not-null constraint', name))
            unlike = invalid_values(column, there, padded=name in self._padded)
            found.extend((mask, reason, name) for mask, reason in unlike)
        return found

    def encode(self, batch: pa.RecordBatch, first: int | None = None) -> CopyData:
        """The rows in binary where they have that form and the server takes it; otherwise as ``csv``."""
        if self.sends_binary:
            columns = [(_decoded(batch.column(name)), there) for name, there in self._columns.items()]
            if (data := binary.encoded(columns, first)) is not None:
                return CopyData(memoryview(data), binary.COPY_OPTIONS, is_binary=True)
        return self.csv(batch, first)

    def csv(self, batch: pa.RecordBatch, first: int | None = None) -> CopyData:
        """The rows as CSV; behind their numbers from ``first`` on, where that is given."""
        forms = [_csv_form(_decoded(batch.column(name)), there) for name, there in self._columns.items()]
        if first is not None:
            forms.insert(0, pa.array(np.arange(first, first + batch.num_rows, dtype=np.int64)))
        return CopyData(memoryview(csv_bytes(forms)), _CSV_OPTIONS, is_binary=False)


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _csv_form(column: pa.Array, there: pa.Field) -> pa.Array:
    if is_bytes(there.type):
        digits = hex_text(column if is_bytes(column.type) else to_text(column))
        return pc.binary_join_element_wise(_HEX, digits, pa.scalar("", pa.large_string()))
    if is_text(there.type) and not is_text(column.type):
        return uuid_text(column) if column.type == pa.uuid() else to_text(column)
    return to_csv_form(column)


# What the server would change without an error, or whose error names no row ------------


def invalid_values(column: pa.Array, there: pa.Field, *, padded: bool = False) -> Found:
    """Which values the column cannot store as they are, and why. ``padded``: spaces at the end are none of the value."""
    native = native_type(there)
    tests: Iterable[tuple[pa.Array | None, str]] = (
        *_invalid_text(column, native, padded=padded),
        (unprintable_times(column), "the time lies outside the years 1 to 9999, or outside a day"),
        (not_a_number(column) if is_json(there) else None, _NO_JSON),
        _finer(column, native),
    )
    return [(mask, reason) for mask, reason in tests if mask is not None]


def _invalid_text(column: pa.Array, native: str, *, padded: bool) -> list[tuple[pa.Array | None, str]]:
    if not is_text(column.type):
        return []
    broken = not_utf8(column)
    if broken is not None:
        return [(broken, "the text is not valid UTF-8")]
    nul = _some(pc.match_substring(column, "\x00")) if may_hold_nul(column) else None
    return [(nul, "PostgreSQL's text has no NUL character"), *_cut_text(column, native, padded=padded)]


def _cut_text(column: pa.Array, native: str, *, padded: bool) -> list[tuple[pa.Array | None, str]]:
    """Text of which the server would cut something off in silence: spaces at the end, or what a name is too long by."""
    if native == "name":
        longer = pc.greater(pc.binary_length(column), _NAME_BYTES)
        return [(_some(longer), f"the column is a name, which keeps only {_NAME_BYTES} bytes")]
    found = _LENGTH.fullmatch(native)
    if found is None or found[1] == "bit" or (padded and found[1] == "character"):
        return []
    spaces = _some(pc.ends_with(column, " "))
    if spaces is None:
        return []
    if found[1] == "character":
        return [(spaces, f"the column is {native}, which drops the spaces at the end")]
    longer = pc.and_(spaces, pc.greater(pc.utf8_length(column), int(found[2])))
    return [(_some(longer), f"value too long for type {native}")]


def _finer(column: pa.Array, native: str) -> tuple[pa.Array | None, str]:
    """Which times have more digits than the column keeps: the server would round them."""
    found = _FRACTION.match(native)
    if found is None:
        return None, ""
    digits = int(found[1]) if found[1] else _MICROSECONDS
    reason = f"the column keeps only {digits} digits of a second"
    if is_text(column.type):
        return _finer_text(column, digits), reason
    kind = column.type
    if not (pa.types.is_timestamp(kind) or pa.types.is_time(kind)) or _UNIT_DIGITS[kind.unit] <= digits:
        return None, reason
    step = 10 ** (_UNIT_DIGITS[kind.unit] - digits)
    numbers = column.view(pa.int64() if kind.bit_width == 64 else pa.int32()).cast(pa.int64())
    return _some(pc.not_equal(pc.multiply(pc.divide(numbers, step), step), numbers)), reason


def _finer_text(column: pa.Array, digits: int) -> pa.Array | None:
    if not _may_be_finer(column, digits):
        return None
    return _some(pc.match_substring_regex(column, rf"\.\d{{{digits}}}\d*[1-9]"))


def _may_be_finer(column: pa.Array, digits: int) -> bool:
    """Whether a digit stands so far behind a point that the column may not keep it. Much faster than a search by pattern."""
    found = text_buffers(column)
    if found is None:
        return True
    places, data = found
    points = np.flatnonzero(data == ord("."))
    further = points + digits + 1
    inside = further < places[np.searchsorted(places, points, side="right")]
    return bool((data[further[inside]] - ord("0") < 10).any())  # unsigned: what is no digit is larger


def _some(mask: pa.Array) -> pa.Array | None:
    mask = mask.fill_null(False)
    return mask if pc.any(mask).as_py() else None
