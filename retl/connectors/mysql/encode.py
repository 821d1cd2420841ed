"""Encode Arrow batches for a MySQL server: as CSV, or as INSERT statements if it loads no files.

The server rounds a time, drops the spaces at the end of a CHAR and reads ``'2'`` as the
second member of an ENUM, all without a warning. Such rows are found here; what it does warn
of, the server finds.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.mysql.dialect import MySQLDialect
from retl.connectors.mysql.types import ColumnType
from retl.connectors.rows.csv import csv_bytes, hex_text, to_csv_form
from retl.connectors.rows.text import keep_mask, unprintable_times
from retl.connectors.rows.vectors import to_packed
from retl.model.plan import WriteSpec
from retl.model.schema import is_bytes, is_text

DIALECT = MySQLDialect()
_UNIT_DIGITS = {"s": 0, "ms": 3, "us": 6}
_LARGE_FLOAT = 3.4028234e38
_SECONDS, _CLOCK = len("2024-05-01 12:00:00."), len("12:00:00.")
_LONG_NUMBER = r"[0-9][0-9.]{15}|[0-9][eE][+-]?[0-9]{3}"
"""A number that a DOUBLE may change; it keeps shorter ones."""
_TIME_SECONDS = r"^-?\d+:\d\d:\d\d\.\d{%d}\d*[1-9]"


class Sifted(NamedTuple):
    """A batch, and which of its rows can be sent."""

    batch: pa.RecordBatch
    kept: pa.RecordBatch
    invalid: list[tuple[pa.Array, str, str]]
    """Masks of the rows that the server would change without a warning, with reasons and columns."""


class Encoder:
    """Encodes the batches of one load for its table. Pure, so that it can run in a thread."""

    def __init__(self, spec: WriteSpec, columns: dict[str, ColumnType], never_null: Collection[str] = ()) -> None:
        self.columns = columns
        self._never_null = frozenset(never_null)
        self._key = frozenset(spec.key)
        self._logical = {column.name: column.type for column in spec.schema}

    def sift(self, batch: pa.RecordBatch) -> Sifted:
        """Part the rows to send from those that the server would change without a warning."""
        invalid = [(mask, reason, name) for name in self.columns for mask, reason in self._invalid(name, batch)]
        bad = [mask for mask, _, _ in invalid]
        return Sifted(batch, batch.filter(pa.array(keep_mask(bad))) if bad else batch, invalid)

    def _invalid(self, name: str, batch: pa.RecordBatch) -> list[tuple[pa.Array, str]]:
        column = batch.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        found = invalid_values(column, self.columns[name])
        if name in self._key and column.null_count:
            found.append((column.is_null(), "the key is NULL"))
        elif name in self._never_null and column.null_count:
            found.append((column.is_null(), f"Column '{name}' cannot be null"))
        return found

    def csv(self, batch: pa.RecordBatch) -> pa.Buffer:
        """The rows as CSV."""
        return csv_bytes([self._csv_form(name, batch.column(name)) for name in self.columns])

    def load(self, table: str, *, replace: bool = False) -> str:
        """The statement that loads the rows of ``csv``; with ``replace`` a row replaces an earlier one of its key."""
        taken, sets = [], []
        for number, (name, there) in enumerate(self.columns.items()):
            quoted = DIALECT.identifier(name)
            convert = _conversion(there)
            if convert is None:
                taken.append(quoted)
            else:
                taken.append(f"@retl_{number}")
                sets.append(f"{quoted} = {convert.format(f'@retl_{number}')}")
        return (
            f"LOAD DATA LOCAL INFILE 'retl' {'REPLACE ' if replace else ''}INTO TABLE {table} CHARACTER SET utf8mb4 "
            "FIELDS TERMINATED BY ',' ENCLOSED BY '\"' ESCAPED BY '' LINES TERMINATED BY '\\n' "
            f"({', '.join(taken)})" + (f" SET {', '.join(sets)}" if sets else "")
        )

    def inserts(
        self, batch: pa.RecordBatch, table: str, most_bytes: int, *, replace: bool = False
    ) -> Iterator[tuple[int, int, str]]:
        """INSERT statements of about ``most_bytes``, each with the number of its first row and how many rows it has."""
        literals = []
        for name, there in self.columns.items():
            text = _quoted(self._csv_form(name, batch.column(name)).cast(pa.large_string()))
            convert = _conversion(there)
            if convert is not None:
                text = _around(convert, text)
            literals.append(text)
        rows = pc.binary_join_element_wise(
            *literals, pa.scalar(",", pa.large_string()), null_handling="replace", null_replacement="NULL"
        )
        rows = _around("({})", rows)
        head = self._insert_head(table, replace)
        ends = np.cumsum(pc.binary_length(rows).to_numpy(zero_copy_only=False) + 1)
        first = 0
        while first < len(rows):
            sent = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, sent + most_bytes - len(head), side="right")))
            yield first, last - first, head + _joined(rows.slice(first, last - first))
            first = last

    def _insert_head(self, table: str, replace: bool) -> str:
        return f"{'REPLACE' if replace else 'INSERT'} INTO {table} ({DIALECT.identifiers(list(self.columns))}) VALUES "

    def statement(self, table: str, *, local: bool, replace: bool) -> str:
        """The statement that sends rows, with question marks for values that stand in it."""
        if local:
            return self.load(table, replace=replace)
        places = [(_conversion(there) or "{}").format("?") for there in self.columns.values()]
        return f"{self._insert_head(table, replace)}({', '.join(places)})"

    def _csv_form(self, name: str, column: pa.Array) -> pa.Array:
        there = self.columns[name]
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if there.word == "vector" and is_text(column.type):
            column = to_packed(column, int(there.inner))
        if not is_text(column.type):
            text = to_csv_form(_with_largest(column))
            return hex_text(text.cast(pa.string())) if there.is_bytes and not is_bytes(column.type) else text
        if there.is_bytes:
            return hex_text(column.cast(pa.string()))
        logical = self._logical[name]
        if pa.types.is_timestamp(logical) and logical.tz:
            return pc.utf8_rtrim(column, "Z")
        return _digits(column) if pa.types.is_boolean(logical) else column.cast(pa.string())


def _with_largest(column: pa.Array) -> pa.Array:
    """FLOATs as DOUBLEs if one is so large that its short text would be beyond the largest FLOAT."""
    if not pa.types.is_float32(column.type) or (pc.max(pc.abs(column)).as_py() or 0) < _LARGE_FLOAT:
        return column
    return column.cast(pa.float64())


def _conversion(there: ColumnType) -> str | None:
    """The SQL that converts the sent text into the value, if the server needs it."""
    if there.is_bytes:
        return "UNHEX({})"
    return "CAST({} AS UNSIGNED)" if there.word == "bit" else None


def _digits(column: pa.Array) -> pa.Array:
    """The words ``true`` and ``false`` as 1 and 0; other text is left to the server."""
    lower = pc.utf8_lower(column.cast(pa.string()))
    return pc.if_else(pc.equal(lower, "true"), "1", pc.if_else(pc.equal(lower, "false"), "0", lower))


def _quoted(text: pa.Array) -> pa.Array:
    """Text literals in the session's sql_mode."""
    for found, written in (("\\", "\\\\"), ("'", "''"), ("\x00", "\\0")):
        text = pc.replace_substring(text, found, written)
    return _around("'{}'", text)


def _around(form: str, text: pa.Array) -> pa.Array:
    start, end = (pa.scalar(part, pa.large_string()) for part in form.split("{}"))
    return pc.binary_join_element_wise(start, text, end, pa.scalar("", pa.large_string()))


def _joined(rows: pa.Array) -> str:
    every = pa.LargeListArray.from_arrays(pa.array([0, len(rows)], pa.int64()), rows)
    joined: str = pc.binary_join(every, pa.scalar(",", pa.large_string()))[0].as_py()
    return joined


# What the server would change without a warning ----------------------------------


def invalid_values(column: pa.Array, there: ColumnType) -> list[tuple[pa.Array, str]]:
    """Which values the column cannot store as they are, and why."""
    found: list[tuple[pa.Array | None, str]] = []
    if pa.types.is_floating(column.type):
        found.append((_not_finite(column), "MySQL has neither NaN nor infinity"))
    if pa.types.is_temporal(column.type):
        found.append((unprintable_times(column), "the time lies outside the years 1 to 9999, or outside a day"))
    if there.word in ("datetime", "timestamp", "time"):
        reason = f"the column keeps only {there.fraction} digits of a second"
        found.append((_finer(column, there), reason))
    elif there.word == "char" and is_text(column.type):
        found.append((_some(pc.ends_with(column, " ")), "the column is CHAR, which drops the spaces at the end"))
    elif there.word == "binary" and is_bytes(column.type):
        other = pc.not_equal(pc.binary_length(column), int(there.inner or 1))
        found.append((_some(other), f"the column is BINARY({there.inner or 1}), which fills up what is shorter"))
    elif there.word == "enum" and is_text(column.type):
        known = pa.array(there.members, column.type)
        found.append((_some(pc.and_(column.is_valid(), pc.invert(pc.is_in(column, known)))), "it is not a member"))
    elif there.word == "set" and is_text(column.type):
        found.append((_no_subset(column, there.members), "it is not a set of members in their order"))
    elif there.word == "json" and is_text(column.type):
        found.append(
            (_rounded_json(column), "MySQL's JSON would round a number in it, since it has more digits than a DOUBLE")
        )
    return [(mask, reason) for mask, reason in found if mask is not None]


def _some(mask: pa.Array) -> pa.Array | None:
    mask = mask.fill_null(False)
    return mask if pc.any(mask).as_py() else None


def _not_finite(column: pa.Array) -> pa.Array | None:
    wide = column.cast(pa.float64()) if pa.types.is_float16(column.type) else column
    return _some(pc.invert(pc.is_finite(wide)))


def _finer(column: pa.Array, there: ColumnType) -> pa.Array | None:
    """Which times have more digits than the column keeps."""
    kind = column.type
    if is_text(kind):
        longest = pc.max(pc.binary_length(column)).as_py()
        if (longest or 0) <= (_CLOCK if there.word == "time" else _SECONDS) + there.fraction:
            return None
        if there.word == "time":
            return _some(pc.match_substring_regex(column, _TIME_SECONDS % there.fraction))
        return _some(pc.match_substring_regex(pc.utf8_slice_codeunits(column, _SECONDS + there.fraction), "[1-9]"))
    if not (pa.types.is_timestamp(kind) or pa.types.is_time(kind)) or _UNIT_DIGITS[kind.unit] <= there.fraction:
        return None
    step = 10 ** (_UNIT_DIGITS[kind.unit] - there.fraction)
    numbers = column.view(pa.int64() if kind.bit_width == 64 else pa.int32()).cast(pa.int64())
    return _some(pc.not_equal(pc.multiply(pc.divide(numbers, step), step), numbers))


def _no_subset(column: pa.Array, members: Sequence[str]) -> pa.Array | None:
    order = {name: number for number, name in enumerate(members)}

    def fits(text: str) -> bool:
        places = [order.get(part, -1) for part in text.split(",")] if text else []
        return -1 not in places and places == sorted(set(places))

    bad = [text for text in pc.unique(column).to_pylist() if text is not None and not fits(text)]
    return pc.is_in(column, pa.array(bad, column.type)) if bad else None


def _rounded_json(column: pa.Array) -> pa.Array | None:
    """Which documents hold a number that neither 64 bits nor a DOUBLE keep. Only the candidates are parsed."""
    long = pc.match_substring_regex(column, _LONG_NUMBER)
    bad = [text for text in pc.unique(column.filter(long.fill_null(False))).to_pylist() if _is_rounded(text)]
    return pc.is_in(column, pa.array(bad, column.type)) if bad else None


def _is_rounded(document: str) -> bool:
    rounded = False

    def whole(text: str) -> None:
        nonlocal rounded
        rounded |= not -(2**63) <= Decimal(text) < 2**64 and Decimal(text) != Decimal(repr(float(text)))

    def fraction(text: str) -> None:
        nonlocal rounded
        rounded |= Decimal(text) != Decimal(repr(float(text)))

    with suppress(ValueError, RecursionError):  # invalid JSON is left to the server
        json.loads(document, parse_int=whole, parse_float=fraction)
    return rounded
