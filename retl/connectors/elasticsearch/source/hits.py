"""Hits as Arrow batches: whole documents, or a column for each field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import pyarrow as pa

from retl.connectors.base import with_rejects
from retl.connectors.elasticsearch.source.pages import TORN, Hit, binary, decode_all
from retl.connectors.elasticsearch.source.values import Leaf, Rejects, cursor_array, listed_as, shown, text_of, typed
from retl.connectors.elasticsearch.types import ID, field_type
from retl.model.errors import SourceError
from retl.model.schema import is_json

TIME_FORMAT = "strict_date_optional_time_nanos"
_VECTORS = {"exclude_vectors": False}
_HALF = "holds half of a sign (a lone surrogate), which no text of a column can hold"


class DocumentDecoder:
    """Hits as whole documents: ``_id``, ``_routing``, ``_source``, and the cursor where there is one."""

    def __init__(
        self, schema: pa.Schema, includes: Sequence[str] | None, excludes: Sequence[str], *, hides_vectors: bool
    ) -> None:
        self.schema = schema
        parts: dict[str, Any] = {} if includes is None else {"includes": list(includes)}
        parts |= {"excludes": list(excludes)} if excludes else {}
        parts |= _VECTORS if hides_vectors else {}
        self.request = {"_source": parts} if parts else {}

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


class ColumnDecoder:
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
        # Fields whose values stand in the document only, where they are too long for the index.
        self._hidden = {leaf.path for leaf in leaves if "ignore_above" in leaf.spec and not tells_ignored}
        listed = [leaf for leaf in leaves if leaf.listed]
        self._decoders = {leaf.path: msgspec.json.Decoder(listed_as(leaf)) for leaf in listed}
        self._fields = _struct(listed)
        self.request = self._make_request(_VECTORS if hides_vectors else True)

    def _make_request(self, everything: Any) -> dict[str, Any]:
        fields = [
            {"field": leaf.path, "format": TIME_FORMAT} if pa.types.is_timestamp(leaf.column.type) else leaf.path
            for leaf in self._leaves
            if leaf.listed
        ]
        # Whole documents, since the server rewrites parts of them, and long numbers then lose digits.
        whole = bool(self._hidden) or any(not leaf.listed and leaf.path != ID for leaf in self._leaves)
        return {"_source": everything if whole else False, **({"fields": fields} if fields else {})}

    def batch(self, hits: Sequence[Hit], firsts: Sequence[Any] | None) -> pa.RecordBatch:
        rejects = Rejects(hits)
        lists = self._lists(hits, rejects)
        arrays = [self._array(leaf, hits, lists, firsts, rejects) for leaf in self._leaves]
        return with_rejects(pa.RecordBatch.from_arrays(arrays, schema=self.schema), rejects.rows)

    def _lists(self, hits: Sequence[Hit], rejects: Rejects) -> Mapping[str, Sequence[Any]]:
        """For each field its list of values in each document, if any."""
        raws = [hit.fields for hit in hits]
        if self._fields is not None and not any(hit.mended for hit in hits):
            try:
                rows = decode_all(raws, self._fields)
                return {path: list(map(attrgetter(f"f{n}"), rows)) for n, path in enumerate(self._decoders)}
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
            rejects.add(number, path, f"holds {shown(raw)}, which is not what the mapping says")
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
            return pa.array([text_of(raw) or None if raw else None for raw in found], pa.string())
        values = [one[0] if one else None for one in found]
        for number in self._odd(leaf, hits, found):
            values[number] = self._value(leaf, hits[number], found[number], number, rejects)
        if self._cursor is not None and leaf.path == self._cursor.name and firsts is not None:
            return cursor_array(firsts, self._cursor.type, leaf, rejects)
        return typed(values, leaf, rejects)

    def _odd(self, leaf: Leaf, hits: Sequence[Hit], found: Sequence[Any]) -> set[int]:
        """The documents whose value is not simply the listed one."""
        odd = set()
        if max(map(len, filter(None, found)), default=0) > 1:
            odd |= {number for number, one in enumerate(found) if one and len(one) > 1}
        if any(map(attrgetter("ignored"), hits)):
            odd |= {number for number, hit in enumerate(hits) if hit.ignored and leaf.path in hit.ignored}
        if leaf.path in self._hidden:
            odd |= {number for number, one in enumerate(found) if one is None}
        return odd

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
    """A struct that decodes all fields of a document at once; ``None`` where a name cannot be a struct's."""
    if any(sign < " " or sign in '"\\' for leaf in leaves for sign in leaf.path):
        return None
    members = [
        (f"f{n}", msgspec.Raw, msgspec.Raw(b"")) if leaf.array else (f"f{n}", listed_as(leaf) | None, None)
        for n, leaf in enumerate(leaves)
    ]
    return msgspec.defstruct("Fields", members, rename={f"f{n}": leaf.path for n, leaf in enumerate(leaves)}, gc=False)


def _several(leaf: Leaf) -> str:
    return (
        "has several values, and a column has room for one; "
        f'format = {{ arrays = ["{leaf.path}"] }} makes it a column of JSON, and exclude leaves it out'
    )


def _not_indexed(leaf: Leaf, hit: Hit, number: int, rejects: Rejects) -> Any:
    """A value that the server did not index: text that is too long for the index is still text."""
    found = [bytes(raw) for raw in (hit.ignored_values or {}).get(leaf.path) or ()]
    is_text = leaf.column.type == pa.string() and not is_json(leaf.column)
    if len(found) == 1 and is_text and found[0].startswith(b'"'):
        if TORN not in found[0]:
            return msgspec.json.decode(found[0])
        rejects.add(number, leaf.path, _HALF)
        return None
    such = f", such as {shown(found[0])}" if found else ""
    where = f'{{"bool": {{"must_not": {{"term": {{"_ignored": "{leaf.path}"}}}}}}}}'
    rejects.add(
        number,
        leaf.path,
        f"holds a value that is not a valid {field_type(leaf.spec)}{such}; the index ignores it, but a column may not: correct the document, "
        f"leave such documents out with where = '{where}', or leave the field out with exclude",
    )
    return None


def _too_long(leaf: Leaf, hit: Hit, number: int, rejects: Rejects) -> str | None:
    """Text from the document, which was too long for the index."""
    found = _document_part(hit, leaf, number, rejects)
    if found is None:
        return None
    decoded = msgspec.json.decode(found)
    values = [value for value in (decoded if isinstance(decoded, list) else [decoded]) if value is not None]
    if len(values) > 1:
        rejects.add(number, leaf.path, _several(leaf))
        return None
    return None if not values else values[0] if isinstance(values[0], str) else text_of(msgspec.json.encode(values[0]))


def _document_part(hit: Hit, leaf: Leaf, number: int, rejects: Rejects) -> str | None:
    """The JSON of a field in the document, unless it holds a lone surrogate."""
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
        text = text_of(found[0])
        return f"[{text}]" if leaf.array and not text.startswith("[") else text
    return f"[{','.join(map(text_of, found))}]"


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
