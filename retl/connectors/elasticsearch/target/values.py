"""Columns as JSON, value by value, by Arrow kernels: no Python object for each, but for JSON and nested columns.

The rules:

* NULL is ``null``: the field is there and has no value, which a search takes for absent.
* Numbers are JSON numbers with all their digits, decimals too; truth values are ``true`` and ``false``.
* Times are ISO 8601 to their last digit, in UTC with ``Z`` where they have a zone; dates and times of day likewise.
* Bytes are base64. JSON columns and nested ones are objects and arrays. All else is a string.
* Values that JSON cannot express (NaN, an infinite number, a time outside the years 1 to 9999) and text that
  does not match its column's type are *invalid*: the caller rejects their rows.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.rows.csv import uuid_text
from retl.connectors.rows.text import to_text, unprintable_times
from retl.model.schema import is_bytes, is_json, is_text

InvalidValues = list[tuple[pa.Array, str]]
"""Masks of the rows that cannot be written, with their reasons."""

_ESCAPES = {**{code: f"\\u{code:04x}" for code in range(0x20)}, 0x08: "\\b", 0x09: "\\t", 0x0A: "\\n", 0x0C: "\\f"}
_ESCAPES |= {0x0D: "\\r", 0x22: '\\"', 0x5C: "\\\\"}
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_TIMES = (pa.types.is_timestamp, pa.types.is_date, pa.types.is_time)
_ENCODER = msgspec.json.Encoder(decimal_format="number", enc_hook=str)
_ANY_JSON = msgspec.json.Decoder(msgspec.Raw)


def json_values(array: pa.Array, field: pa.Field) -> tuple[pa.Array, InvalidValues]:
    """A column as the JSON of its values, bytes without NULLs or line breaks; ``field`` has its logical type."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return json_values(array.dictionary_decode(), field)
    if isinstance(kind, pa.BaseExtensionType) and kind != pa.uuid():
        return json_values(array.storage, field)
    if is_json(field) or pa.types.is_nested(kind):
        return _documents(array)
    if pa.types.is_float16(kind):
        array = array.cast(pa.float32())
    invalid = _invalid_values(array)
    for mask, _ in invalid:
        array = pc.if_else(mask, pa.scalar(None, array.type), array)
    if is_text(kind):
        text, more = _from_text(array.cast(pa.string()), field.type)
        invalid += more
    else:
        text = _from_typed(array)
    return pc.fill_null(text.cast(pa.binary()), b"null"), invalid


def json_strings(text: pa.Array) -> pa.Array:
    """Texts as JSON strings; NULLs stay."""
    for code in _to_escape(text):
        text = pc.replace_substring(text, chr(code), _ESCAPES[code])
    quote = pa.scalar('"', text.type)
    return pc.binary_join_element_wise(quote, text, quote, pa.scalar("", text.type))


def one_line(documents: pa.Array) -> pa.Array:
    """JSON as it came, but in one line: a line break in it can only stand between tokens."""
    for sign in (b"\n", b"\r"):
        if (data(documents) == sign[0]).any():
            documents = pc.replace_substring(documents, sign, b" ")
    return documents


def base64_text(column: pa.Array) -> pa.Array:
    """Bytes as base64; NULLs stay."""
    column = column.cast(pa.binary())
    edges, given = offsets(column), data(column)
    lengths = np.diff(edges)
    # Each value is padded to whole groups of three bytes, so that one call encodes them all.
    starts = np.concatenate(([0], np.cumsum((lengths + 2) // 3 * 3)))
    filled = np.zeros(int(starts[-1]), np.uint8)
    filled[np.arange(len(given)) + np.repeat(starts[:-1] - (edges[:-1] - edges[0]), lengths)] = given
    signs = np.frombuffer(binascii.b2a_base64(filled.tobytes(), newline=False), np.uint8).copy()
    ends = starts[1:] // 3 * 4
    for fill in (1, 2):
        signs[ends[(lengths > 0) & ((3 - lengths % 3) % 3 >= fill)] - fill] = ord("=")
    all_offsets = pa.py_buffer((starts // 3 * 4).astype(np.int32))
    encoded = pa.Array.from_buffers(pa.string(), len(column), [None, all_offsets, pa.py_buffer(signs)])
    return pc.if_else(column.is_valid(), encoded, pa.scalar(None, pa.string())) if column.null_count else encoded


def plain_text(array: pa.Array, type: pa.DataType) -> tuple[pa.Array, InvalidValues]:
    """The text of a value in an ``_id``: as in the document, without quotes."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if is_text(array.type):
        return _as_time(array.cast(pa.string()), type), []
    invalid = _invalid_values(array)
    for mask, _ in invalid:
        array = pc.if_else(mask, pa.scalar(None, array.type), array)
    if is_bytes(array.type):
        return base64_text(array), invalid
    return _as_time(to_text(array), array.type), invalid


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _invalid_values(array: pa.Array) -> InvalidValues:
    """The typed values that JSON or ISO 8601 cannot express."""
    found: InvalidValues = []
    if pa.types.is_floating(array.type):
        bad = pc.invert(pc.is_finite(array.cast(pa.float64()) if pa.types.is_float16(array.type) else array))
        if pc.any(bad).as_py():
            found.append((bad.fill_null(False), "JSON has neither NaN nor infinity"))
    late = unprintable_times(array)
    if late is not None:
        found.append((late.fill_null(False), "the time lies outside the years 1 to 9999"))
    return found


def _from_typed(array: pa.Array) -> pa.Array:
    kind = array.type
    if is_bytes(kind):
        return json_strings(base64_text(array))
    if kind == pa.uuid():
        return json_strings(uuid_text(array))
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return to_text(array)
    if pa.types.is_floating(kind):
        # A whole number keeps its point, so that a reader that guesses types guesses right.
        return pc.replace_substring_regex(to_text(array), r"^(-?[0-9]+)$", r"\1.0")
    if pa.types.is_duration(kind):
        return array.cast(pa.int64()).cast(pa.string())
    if pa.types.is_null(kind):
        return pa.nulls(len(array), pa.string())
    return json_strings(_as_time(to_text(array), kind))


def _as_time(text: pa.Array, kind: pa.DataType) -> pa.Array:
    """The text of a time as ISO 8601 has it: a T in the middle, minutes in a zone."""
    if not pa.types.is_timestamp(kind):
        return text
    text = pc.replace_substring(text, " ", "T", max_replacements=1)
    return pc.replace_substring_regex(text, r"([+-][0-9]{2})$", r"\1:00") if kind.tz is not None else text


def _from_text(text: pa.Array, logical: pa.DataType) -> tuple[pa.Array, InvalidValues]:
    """Canonical text of a logical type as JSON."""
    if _is_number(logical):
        return _numbers(text, logical)
    if pa.types.is_boolean(logical):
        return _checked(text, lambda some: some.cast(pa.bool_()).cast(pa.string()), "the text is not a boolean")
    if is_bytes(logical):
        return json_strings(base64_text(text.cast(pa.binary()))), []
    return json_strings(_as_time(text, logical)), []


def _numbers(text: pa.Array, logical: pa.DataType) -> tuple[pa.Array, InvalidValues]:
    good = pc.match_substring_regex(text, _NUMBER)
    if pc.all(good).as_py() is not False:
        return text, []
    # JSON has no leading zeros and no plus sign, as ZEROFILL and people write them.
    text = pc.replace_substring_regex(text, r"^\+?(-?)0*([0-9])", r"\1\2")
    bad = pc.invert(pc.match_substring_regex(text, _NUMBER)).fill_null(False)
    if not pc.any(bad).as_py():
        return text, []
    return pc.if_else(bad, pa.scalar(None, text.type), text), [(bad, f"the text is not a {logical}")]


def _checked(array: pa.Array, convert: Callable[[pa.Array], pa.Array], reason: str) -> tuple[pa.Array, InvalidValues]:
    """Convert a whole column; value by value where that fails."""
    try:
        return convert(array), []
    except pa.ArrowInvalid:
        pass
    wrong, texts = [], []
    for number in range(len(array)):
        try:
            texts.append(convert(array.slice(number, 1))[0].as_py())
            wrong.append(False)
        except pa.ArrowInvalid:
            texts.append(None)
            wrong.append(True)
    return pa.array(texts, pa.string()), [(pa.array(wrong), reason)]


def _documents(array: pa.Array) -> tuple[pa.Array, InvalidValues]:
    """JSON text, validated so that it cannot break out of its field, or nested values."""
    nested = pa.types.is_nested(array.type)
    values, wrong = [], []
    for number in range(len(array)):
        encoded, bad = b"null", False
        try:
            value = array[number].as_py(maps_as_pydicts="strict") if nested else array[number].as_py()
            if value is not None:
                bad = nested and _has_no_word(value)
                encoded = _ENCODER.encode(value) if nested else bytes(_ANY_JSON.decode(value))
        except (msgspec.MsgspecError, ValueError, TypeError, KeyError):
            bad = True
        values.append(encoded)
        wrong.append(bad)
    reason = "the value has no form in JSON" if nested else "the text is not JSON"
    return one_line(pa.array(values, pa.binary())), [(pa.array(wrong), reason)] if any(wrong) else []


def _has_no_word(value: Any) -> bool:
    """Whether a value holds a NaN or an infinite number, which would become ``null``."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_has_no_word, value.values()))
    return isinstance(value, list) and any(map(_has_no_word, value))


def _to_escape(text: pa.Array) -> list[int]:
    """The characters of a column that JSON must escape, the backslash first."""
    signs = data(text)
    found = [code for code in (0x5C, 0x22) if (signs == code).any()]
    low = signs[signs < 0x20]
    return found + [int(code) for code in np.unique(low)]


def offsets(column: pa.Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where the values of a column of text or bytes begin, and where the last one ends."""
    if not len(column):
        return np.zeros(1, np.int64)
    raw = np.frombuffer(column.buffers()[1], np.int32)
    return raw[column.offset : column.offset + len(column) + 1].astype(np.int64)


def data(column: pa.Array) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The bytes of all values, one after another."""
    edges = offsets(column)
    buffer = column.buffers()[2]
    return np.frombuffer(buffer if buffer is not None else b"", np.uint8)[edges[0] : edges[-1]]
