"""What becomes of hits: whole documents, or a column for each field."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.base import RowReject, with_rejects
from retl.connectors.elasticsearch import mapping
from retl.connectors.elasticsearch.documents import ID
from retl.connectors.elasticsearch.pages import TORN, Hit, binary, decode_all
from retl.connectors.sql.text import unprintable_times
from retl.model.errors import SourceError
from retl.model.schema import is_json

TIME_FORMAT = "strict_date_optional_time_nanos"
_VECTORS = {"exclude_vectors": False}
_MOST_SHOWN = 100
_HALF = "holds half of a sign (a lone surrogate), which no text of a column can hold"
_MISFIT = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError)


class Rejects:
    """The documents of a page that have a value which no column can hold, by their number; the first reason counts."""

    def __init__(self, hits: Sequence[Hit]) -> None:
        self._hits = hits
        self.rows: dict[int, RowReject] = {}

    def add(self, number: int, path: str, what: str) -> None:
        hit = self._hits[number]
        parts = {"_source": _text(hit.source), "fields": _text(hit.fields)}
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
        return mapping.is_value(self.spec) and not (self.array and "ignore_above" in self.spec)


class Documents:
    """Hits as whole documents: ``_id``, ``_routing``, ``_source``, and the cursor where there is one."""

    def __init__(
        self, schema: pa.Schema, includes: Sequence[str] | None, excludes: Sequence[str], *, hides_vectors: bool
    ) -> None:
        self.schema = schema
        self._includes = includes
        self._excludes = excludes
        self._hides_vectors = hides_vectors

    def asked(self) -> dict[str, Any]:
        """What a search must ask for."""
        asked: dict[str, Any] = {} if self._includes is None else {"includes": list(self._includes)}
        asked |= {"excludes": list(self._excludes)} if self._excludes else {}
        asked |= _VECTORS if self._hides_vectors else {}
        return {"_source": asked} if asked else {}

    def batch(self, hits: Sequence[Hit], firsts: Sequence[Any] | None) -> pa.RecordBatch:
        bare = next((hit for hit in hits if not hit.source), None)
        if bare is not None:
            raise SourceError(
                f"the document {bare.id!r} came without its source.",
                remedy="read an index that keeps its documents (_source).",
            )
        columns = [
            pa.array([hit.id for hit in hits], pa.string()),
            pa.array([hit.routing for hit in hits], pa.string()),
            binary([hit.torn or hit.source for hit in hits]),
        ]
        rejects = Rejects(hits)
        if len(self.schema) > len(columns):
            cursor = self.schema.field(len(columns))
            nothing = pa.nulls(len(hits), cursor.type)
            leaf = Leaf(cursor.name, {}, cursor)
            columns.append(nothing if firsts is None else cursor_array(firsts, cursor.type, leaf, rejects))
        return with_rejects(pa.RecordBatch.from_arrays(columns, schema=self.schema), rejects.rows)


def cursor_array(firsts: Sequence[Any], kind: pa.DataType, leaf: Leaf, rejects: Rejects) -> pa.Array:
    """Sort values as a column: text of a time, or whole numbers, which count in the unit of ``kind``."""
    type_ = leaf.column.type
    if not pa.types.is_timestamp(type_):
        return pa.array(firsts, type_)
    if any(isinstance(value, str) for value in firsts):
        return _times(firsts, leaf, rejects)
    return _of_our_years(pa.array(firsts, pa.int64()).cast(kind).cast(type_, safe=False), leaf, rejects)


class Columns:
    """Hits as a column for each leaf of the mapping, ``_id`` first where it is among the chosen.

    Values are those of the server's ``fields``, which reads them as the mapping does: a
    number in quotes is a number, a date is one however it is written. JSON columns are the
    document's own bytes. The cursor has the very values that the documents are sorted by.
    """

    def __init__(
        self,
        leaves: Sequence[Leaf],
        schema: pa.Schema,
        cursor: pa.Field | None,
        *,
        tells_ignored: bool,
        hides_vectors: bool,
    ) -> None:
        self.schema = schema
        self._leaves = leaves
        self._cursor = cursor
        self._hides_vectors = hides_vectors
        # Whose values are looked for in the document where the server lists none.
        self._hidden = {leaf.path for leaf in leaves if "ignore_above" in leaf.spec and not tells_ignored}
        listed = [leaf for leaf in leaves if leaf.listed]
        self._decoders = {leaf.path: msgspec.json.Decoder(_kind(leaf)) for leaf in listed}
        self._fields = _struct(listed)

    def asked(self) -> dict[str, Any]:
        """What a search must ask for."""
        fields = [
            {"field": leaf.path, "format": TIME_FORMAT} if pa.types.is_timestamp(leaf.column.type) else leaf.path
            for leaf in self._leaves
            if leaf.listed
        ]
        # Whole documents, since the server writes a part of one anew, and numbers of many digits then lose some.
        whole = bool(self._hidden) or any(not leaf.listed and leaf.path != ID for leaf in self._leaves)
        source = _VECTORS if whole and self._hides_vectors else whole
        return {"_source": source, **({"fields": fields} if fields else {})}

    def batch(self, hits: Sequence[Hit], firsts: Sequence[Any] | None) -> pa.RecordBatch:
        rejects = Rejects(hits)
        lists = self._lists(hits, rejects)
        arrays = [self._array(leaf, hits, lists, firsts, rejects) for leaf in self._leaves]
        return with_rejects(pa.RecordBatch.from_arrays(arrays, schema=self.schema), rejects.rows)

    def _lists(self, hits: Sequence[Hit], rejects: Rejects) -> Mapping[str, Sequence[Any]]:
        """By the path of each field its list of values in each document; nothing where it has none."""
        raws = [hit.fields for hit in hits]
        if self._fields is not None and not any(TORN in bytes(raw) for raw in raws):
            try:
                rows = decode_all(raws, self._fields)
                return {path: [getattr(row, f"f{n}") for row in rows] for n, path in enumerate(self._decoders)}
            except msgspec.ValidationError:
                pass
        found: dict[str, list[Any]] = {path: [None] * len(hits) for path in self._decoders}
        for number, row in enumerate(decode_all(raws, dict[str, msgspec.Raw])):
            for path, raw in row.items():
                if path in found:
                    found[path][number] = self._list(path, bytes(raw), number, rejects)
        return found

    def _list(self, path: str, raw: bytes, number: int, rejects: Rejects) -> Any:
        if TORN in raw:
            rejects.add(number, path, _HALF)
            return None
        try:
            return self._decoders[path].decode(raw)
        except msgspec.ValidationError:
            rejects.add(number, path, f"holds {_shown(raw)}, which is not what the mapping says")
            return None

    def _array(
        self,
        leaf: Leaf,
        hits: Sequence[Hit],
        lists: Mapping[str, Sequence[Any]],
        firsts: Sequence[Any] | None,
        rejects: Rejects,
    ) -> pa.Array:
        if leaf.path == ID:
            return pa.array([hit.id for hit in hits], pa.string())
        if not leaf.listed:
            parts = [_document_part(hit, leaf, number, rejects) for number, hit in enumerate(hits)]
            return pa.array(parts, pa.string())
        found = lists[leaf.path]
        if leaf.array:
            for number, hit in enumerate(hits):
                if hit.ignored and leaf.path in hit.ignored:
                    _not_indexed(leaf, hit, number, rejects)
            return pa.array([_text(raw) or None if raw else None for raw in found], pa.string())
        values = [self._value(leaf, hit, found[number], number, rejects) for number, hit in enumerate(hits)]
        if self._cursor is not None and leaf.path == self._cursor.name and firsts is not None:
            return cursor_array(firsts, self._cursor.type, leaf, rejects)
        return _typed(values, leaf, rejects)

    def _value(self, leaf: Leaf, hit: Hit, found: Sequence[Any] | None, number: int, rejects: Rejects) -> Any:
        """The one value of a field in a document."""
        if found is not None and len(found) > 1:
            rejects.add(number, leaf.path, _several(leaf))
            return None
        if hit.ignored and leaf.path in hit.ignored:
            return _not_indexed(leaf, hit, number, rejects)
        if found is None and leaf.path in self._hidden:
            return _too_long(leaf, hit, number, rejects)
        return found[0] if found else None


def _struct(leaves: Sequence[Leaf]) -> Any:
    """What all fields of a document are decoded into at once; ``None`` where a name has signs that this cannot have."""
    if any(sign < " " or sign in '"\\' for leaf in leaves for sign in leaf.path):
        return None
    members = [
        (f"f{n}", msgspec.Raw, msgspec.Raw(b"")) if leaf.array else (f"f{n}", _kind(leaf) | None, None)
        for n, leaf in enumerate(leaves)
    ]
    return msgspec.defstruct("Fields", members, rename={f"f{n}": leaf.path for n, leaf in enumerate(leaves)}, gc=False)


def _kind(leaf: Leaf) -> Any:
    """How the server lists the values of a field; a list that stays JSON stays bytes."""
    type_ = leaf.column.type
    if leaf.array:
        return msgspec.Raw
    if is_json(leaf.column):
        return list[msgspec.Raw]
    if pa.types.is_boolean(type_):
        return list[bool]
    if pa.types.is_integer(type_):
        return list[int]
    # Where one index has whole numbers and another floats, a whole number may have more digits than a float.
    return list[int | float] if pa.types.is_floating(type_) else list[str]


def _typed(values: Sequence[Any], leaf: Leaf, rejects: Rejects) -> pa.Array:
    if pa.types.is_timestamp(leaf.column.type):
        return _times(values, leaf, rejects)
    try:
        return _plain(values, leaf)
    except _MISFIT:
        return _one_by_one(values, leaf, rejects, _plain)


def _plain(values: Sequence[Any], leaf: Leaf) -> pa.Array:
    type_ = leaf.column.type
    if is_json(leaf.column):
        return pa.array([None if value is None else _text(value) for value in values], pa.string())
    if pa.types.is_binary(type_):
        return pa.array([None if value is None else base64.b64decode(value) for value in values], type_)
    return pa.array(values, type_)


def _times(values: Sequence[Any], leaf: Leaf, rejects: Rejects) -> pa.Array:
    try:
        found = _as_times(values, leaf)
    except _MISFIT:
        found = _one_by_one(values, leaf, rejects, _as_times)
    return _of_our_years(found, leaf, rejects)


def _as_times(values: Sequence[Any], leaf: Leaf) -> pa.Array:
    texts = pa.array(values, pa.string())
    if leaf.column.type.unit == "us":  # what has nanoseconds, and is to be cut
        texts = pc.replace_substring_regex(texts, r"(\.\d{6})\d+", r"\1")
    return texts.cast(leaf.column.type)


def _of_our_years(found: pa.Array, leaf: Leaf, rejects: Rejects) -> pa.Array:
    """Times as they are, but for those that no text can show."""
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
        except _MISFIT:
            rejects.add(number, leaf.path, f"holds {_shown(value)}, which {_reach(leaf.column.type)}")
            pieces.append(pa.nulls(1, leaf.column.type))
    return pa.concat_arrays(pieces)


def _reach(type_: pa.DataType) -> str:
    if not pa.types.is_timestamp(type_):
        return f"a column of {type_} cannot hold"
    if type_.unit == "ns":
        return 'nanoseconds cannot reach (1677 to 2262); format = { nanoseconds = "cut" } reads microseconds'
    return "lies outside the years 1 to 9999"


def _shown(value: Any) -> str:
    text = _text(value) if isinstance(value, bytes | msgspec.Raw) else repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} ..."


def _text(raw: Any) -> str:
    return bytes(raw).decode("utf-8", "replace")


def _several(leaf: Leaf) -> str:
    return (
        "has several values, and a column has room for one; "
        f'format = {{ arrays = ["{leaf.path}"] }} makes it a column of JSON, and exclude leaves it out'
    )


def _not_indexed(leaf: Leaf, hit: Hit, number: int, rejects: Rejects) -> Any:
    """A value that the server left out of its index: text that is too long for it is text all the same."""
    found = [bytes(raw) for raw in (hit.ignored_values or {}).get(leaf.path) or ()]
    is_text = leaf.column.type == pa.string() and not is_json(leaf.column)
    if len(found) == 1 and is_text and found[0].startswith(b'"'):
        if TORN not in found[0]:
            return msgspec.json.decode(found[0])
        rejects.add(number, leaf.path, _HALF)
        return None
    shown = f", such as {_shown(found[0])}" if found else ""
    where = f'{{"bool": {{"must_not": {{"term": {{"_ignored": "{leaf.path}"}}}}}}}}'
    rejects.add(
        number,
        leaf.path,
        f"holds what is no {mapping.kind(leaf.spec)}{shown}; the index ignores it, but a column may not: correct the document, "
        f"leave such documents out with where = '{where}', or leave the field out with exclude",
    )
    return None


def _too_long(leaf: Leaf, hit: Hit, number: int, rejects: Rejects) -> str | None:
    """The text that stands in the document, where the index has left it out."""
    found = _document_part(hit, leaf, number, rejects)
    if found is None:
        return None
    decoded = msgspec.json.decode(found)
    values = [value for value in (decoded if isinstance(decoded, list) else [decoded]) if value is not None]
    if len(values) > 1:
        rejects.add(number, leaf.path, _several(leaf))
        return None
    return None if not values else values[0] if isinstance(values[0], str) else _text(msgspec.json.encode(values[0]))


def _document_part(hit: Hit, leaf: Leaf, number: int, rejects: Rejects) -> str | None:
    """The JSON of a field as it stands in the document, unless there is half of a sign in it."""
    found = _json_at(hit.source, leaf)
    if found is not None and hit.torn and TORN.decode() in found:
        rejects.add(number, leaf.path, _HALF)
        return None
    return found


def _json_at(source: msgspec.Raw, leaf: Leaf) -> str | None:
    """The JSON that stands at a path of a document, byte for byte; several places become an array."""
    if not source:
        return None
    several: list[bool] = []
    found = [raw for raw in _at(source, leaf.path.split("."), several) if bytes(raw) != b"null"]
    if not found:
        return None
    if len(found) == 1 and not several:
        text = _text(found[0])
        return f"[{text}]" if leaf.array and not text.startswith("[") else text
    return f"[{','.join(map(_text, found))}]"


def _at(value: msgspec.Raw, path: Sequence[str], several: list[bool]) -> Iterator[msgspec.Raw]:
    """What stands at a path. A dot may part two objects, or belong to a name."""
    if not path:
        yield value
        return
    opening = bytes(memoryview(value)[:1])
    if opening == b"[":
        several.append(True)
        for item in msgspec.json.decode(value, type=list[msgspec.Raw]):
            yield from _at(item, path, several)
    elif opening == b"{":
        members = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
        for length in range(1, len(path) + 1):
            name = ".".join(path[:length])
            if name in members:
                yield from _at(members[name], path[length:], several)
