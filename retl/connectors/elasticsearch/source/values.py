"""Values of the server as columns: where a column cannot hold one of them, only its row is rejected."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.base import RowReject
from retl.connectors.elasticsearch.source.pages import Hit
from retl.connectors.elasticsearch.types import is_value
from retl.connectors.rows.text import unprintable_times
from retl.model.schema import is_json

_MOST_SHOWN = 100
_CONVERSION_ERRORS = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError)


class Rejects:
    """The rejected documents of a page, by their number; the first reason counts."""

    def __init__(self, hits: Sequence[Hit]) -> None:
        self._hits = hits
        self.rows: dict[int, RowReject] = {}

    def add(self, number: int, path: str, what: str) -> None:
        hit = self._hits[number]
        parts = {"_source": text_of(hit.source), "fields": text_of(hit.fields)}
        content = "".join(f',"{name}":{text}' for name, text in parts.items() if text)
        reason = f"the field {path!r} of the document {hit.id!r} {what}"
        self.rows.setdefault(number, RowReject(reason, f'{{"_id":{json.dumps(hit.id)}{content}}}', path))


@dataclass(frozen=True)
class Leaf:
    """A field of the mapping that becomes a column."""

    path: str
    spec: Mapping[str, Any]
    column: pa.Field
    array: bool = False

    @property
    def listed(self) -> bool:
        """Whether the server lists its values; otherwise it is JSON as it stands in the document."""
        # A list would lack the texts that were too long for the index.
        return is_value(self.spec) and not (self.array and "ignore_above" in self.spec)


def listed_as(leaf: Leaf) -> Any:
    """The type that the listed values of a field are decoded as; JSON stays bytes."""
    type_ = leaf.column.type
    if leaf.array:
        return msgspec.Raw
    if is_json(leaf.column):
        return list[msgspec.Raw]
    if pa.types.is_boolean(type_):
        return list[bool]
    if pa.types.is_integer(type_):
        return list[int]
    # If one index has integers and another floats, an integer may have more digits than a float.
    return list[int | float] if pa.types.is_floating(type_) else list[str]


def cursor_array(firsts: Sequence[Any], kind: pa.DataType, leaf: Leaf, rejects: Rejects) -> pa.Array:
    """Sort values as a column: text of a time, or whole numbers, which count in the unit of ``kind``."""
    type_ = leaf.column.type
    if not pa.types.is_timestamp(type_):
        return pa.array(firsts, type_)
    if any(isinstance(value, str) for value in firsts):
        return _times(firsts, leaf, rejects)
    return _of_our_years(pa.array(firsts, pa.int64()).cast(kind).cast(type_, safe=False), leaf, rejects)


def typed(values: Sequence[Any], leaf: Leaf, rejects: Rejects) -> pa.Array:
    if pa.types.is_timestamp(leaf.column.type):
        return _times(values, leaf, rejects)
    try:
        return _plain(values, leaf)
    except _CONVERSION_ERRORS:
        return _one_by_one(values, leaf, rejects, _plain)


def _plain(values: Sequence[Any], leaf: Leaf) -> pa.Array:
    type_ = leaf.column.type
    if is_json(leaf.column):
        return pa.array([None if value is None else text_of(value) for value in values], pa.string())
    if pa.types.is_binary(type_):
        return pa.array([None if value is None else base64.b64decode(value) for value in values], type_)
    return pa.array(values, type_)


def _times(values: Sequence[Any], leaf: Leaf, rejects: Rejects) -> pa.Array:
    try:
        found = _as_times(values, leaf)
    except _CONVERSION_ERRORS:
        found = _one_by_one(values, leaf, rejects, _as_times)
    return _of_our_years(found, leaf, rejects)


def _as_times(values: Sequence[Any], leaf: Leaf) -> pa.Array:
    texts = pa.array(values, pa.string())
    if leaf.column.type.unit == "us":  # nanoseconds that are cut
        texts = pc.replace_substring_regex(texts, r"(\.\d{6})\d+", r"\1")
    return texts.cast(leaf.column.type)


def _of_our_years(found: pa.Array, leaf: Leaf, rejects: Rejects) -> pa.Array:
    """Times, with those that have no text form as rejects."""
    late = unprintable_times(found)
    if late is None:
        return found
    for number in pc.indices_nonzero(late.fill_null(False)).to_pylist():
        rejects.add(number, leaf.path, "holds a time that lies outside the years 1 to 9999")
    return pc.if_else(late, pa.scalar(None, found.type), found)


def _one_by_one(
    values: Sequence[Any], leaf: Leaf, rejects: Rejects, convert: Callable[[Sequence[Any], Leaf], pa.Array]
) -> pa.Array:
    """The values that a column can hold; the documents of the others are rejects."""
    pieces = []
    for number, value in enumerate(values):
        try:
            pieces.append(convert([value], leaf))
        except _CONVERSION_ERRORS:
            rejects.add(number, leaf.path, f"holds {shown(value)}, which {_reach(leaf.column.type)}")
            pieces.append(pa.nulls(1, leaf.column.type))
    return pa.concat_arrays(pieces)


def _reach(type_: pa.DataType) -> str:
    if not pa.types.is_timestamp(type_):
        return f"a column of {type_} cannot hold"
    if type_.unit == "ns":
        return 'nanoseconds cannot reach (1677 to 2262); format = { nanoseconds = "cut" } reads microseconds'
    return "lies outside the years 1 to 9999"


def shown(value: Any) -> str:
    text = text_of(value) if isinstance(value, bytes | msgspec.Raw) else repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} ..."


def text_of(raw: Any) -> str:
    return bytes(raw).decode("utf-8", "replace")
