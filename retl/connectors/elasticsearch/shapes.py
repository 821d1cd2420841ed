"""What becomes of hits: whole documents, or a column for each field."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa

from retl.connectors.elasticsearch import mapping
from retl.connectors.elasticsearch.documents import ID
from retl.connectors.elasticsearch.pages import Hit, binary, decode_all
from retl.model.errors import SourceError
from retl.model.schema import is_json

TIME_FORMAT = "strict_date_optional_time_nanos"
_VECTORS = {"exclude_vectors": False}


class Documents:
    """Hits as whole documents: ``_id``, ``_routing``, ``_source``, and the cursor where there is one."""

    def __init__(self, schema: pa.Schema, includes: Sequence[str] | None, *, hides_vectors: bool) -> None:
        self.schema = schema
        self._includes = includes
        self._hides_vectors = hides_vectors

    def asked(self) -> dict[str, Any]:
        """What a search must ask for."""
        asked: dict[str, Any] = {} if self._includes is None else {"includes": list(self._includes)}
        asked |= _VECTORS if self._hides_vectors else {}
        return {"_source": asked} if asked else {}

    def arrays(self, hits: Sequence[Hit], firsts: Sequence[Any] | None) -> list[pa.Array]:
        columns = [
            pa.array([hit.id for hit in hits], pa.string()),
            pa.array([hit.routing for hit in hits], pa.string()),
            binary([hit.source for hit in hits]),
        ]
        if len(self.schema) > len(columns):
            type_ = self.schema.field(len(columns)).type
            columns.append(pa.nulls(len(hits), type_) if firsts is None else cursor_array(firsts, type_))
        return columns


def cursor_array(values: Sequence[Any], type: pa.DataType) -> pa.Array:
    """Sort values as a column: text of a time, or whole numbers."""
    if pa.types.is_timestamp(type) and any(isinstance(value, str) for value in values):
        return pa.array(values, pa.string()).cast(type)
    return pa.array(values, pa.int64()).cast(type) if pa.types.is_timestamp(type) else pa.array(values, type)


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


class Columns:
    """Hits as a column for each leaf of the mapping, ``_id`` first where it is among the chosen.

    Values are those of the server's ``fields``, which reads them as the mapping does: a
    number in quotes is a number, a date is one however it is written. JSON columns are the
    document's own bytes.
    """

    def __init__(self, leaves: Sequence[Leaf], schema: pa.Schema, *, tells_ignored: bool, hides_vectors: bool) -> None:
        self.schema = schema
        self._leaves = leaves
        self._hides_vectors = hides_vectors
        # Whose values are looked for in the document where the server lists none.
        self._hidden = {leaf.path for leaf in leaves if "ignore_above" in leaf.spec and not tells_ignored}
        listed = [leaf for leaf in leaves if leaf.listed]
        self._names = {leaf.path: f"f{number}" for number, leaf in enumerate(listed)}
        self._fields = msgspec.defstruct(
            "Fields",
            [_member(self._names[leaf.path], leaf) for leaf in listed],
            rename={name: path for path, name in self._names.items()},
            gc=False,
        )

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

    def arrays(self, hits: Sequence[Hit], firsts: Sequence[Any] | None) -> list[pa.Array]:
        rows = decode_all([hit.fields for hit in hits], self._fields)
        return [self._array(leaf, hits, rows) for leaf in self._leaves]

    def _array(self, leaf: Leaf, hits: Sequence[Hit], rows: Sequence[Any]) -> pa.Array:
        if leaf.path == ID:
            return pa.array([hit.id for hit in hits], pa.string())
        if not leaf.listed:
            return pa.array([_json_at(hit.source, leaf) for hit in hits], pa.string())
        name = self._names[leaf.path]
        if leaf.array:
            for hit in hits:
                if hit.ignored and leaf.path in hit.ignored:
                    _not_indexed(leaf, hit)
            return pa.array([_text(getattr(row, name)) or None for row in rows], pa.string())
        lists = [getattr(row, name) for row in rows]
        values = [None if not found else found[0] for found in lists]
        for number, (hit, found) in enumerate(zip(hits, lists, strict=True)):
            if found is not None and len(found) > 1:
                raise _several(leaf, hit)
            if hit.ignored and leaf.path in hit.ignored:
                values[number] = _not_indexed(leaf, hit)
            elif found is None and leaf.path in self._hidden:
                values[number] = _too_long(leaf, hit)
        return _typed(values, leaf)


def _member(name: str, leaf: Leaf) -> tuple[str, Any, Any]:
    """Where the server's list of values is decoded into; one that stays JSON stays bytes."""
    return (name, msgspec.Raw, msgspec.Raw(b"")) if leaf.array else (name, _list(leaf) | None, None)


def _list(leaf: Leaf) -> Any:
    type_ = leaf.column.type
    if is_json(leaf.column):
        return list[msgspec.Raw]
    if pa.types.is_boolean(type_):
        return list[bool]
    if pa.types.is_integer(type_):
        return list[int]
    return list[float] if pa.types.is_floating(type_) else list[str]


def _typed(values: Sequence[Any], leaf: Leaf) -> pa.Array:
    type_ = leaf.column.type
    if is_json(leaf.column):
        return pa.array([None if value is None else _text(value) for value in values], pa.string())
    if pa.types.is_timestamp(type_):
        texts = pa.array(values, pa.string())
        if type_.unit == "us":  # what has nanoseconds, and is to be cut
            return texts.cast(pa.timestamp("ns", type_.tz)).cast(type_, safe=False)
        return texts.cast(type_)
    if pa.types.is_binary(type_):
        return pa.array([None if value is None else base64.b64decode(value) for value in values], type_)
    return pa.array(values, type_)


def _text(raw: Any) -> str:
    return bytes(raw).decode()


def _several(leaf: Leaf, hit: Hit) -> SourceError:
    return SourceError(
        f"the field {leaf.path!r} of the document {hit.id!r} has several values, and a column has room for one.",
        remedy=f'declare it: format = {{ arrays = ["{leaf.path}"] }} makes it a column of JSON; or leave it out with columns.',
        system="elasticsearch",
    )


def _not_indexed(leaf: Leaf, hit: Hit) -> Any:
    """A value that the server left out of its index: text that is too long for it is text all the same."""
    found = (hit.ignored_values or {}).get(leaf.path) or []
    if len(found) == 1 and isinstance(found[0], str) and leaf.column.type == pa.string() and not is_json(leaf.column):
        return found[0]
    shown = f", such as {found[0]!r}" if found else ""
    raise SourceError(
        f"the field {leaf.path!r} of the document {hit.id!r} holds what is no {mapping.kind(leaf.spec)}{shown}; the index ignores it, "
        "but a column may not.",
        remedy=f'correct the document, leave such documents out with where = \'{{"bool": {{"must_not": {{"term": {{"_ignored": "{leaf.path}"}}}}}}}}\', '
        "or leave the field out with columns.",
        system="elasticsearch",
    )


def _too_long(leaf: Leaf, hit: Hit) -> str | None:
    """The text that stands in the document, where the index has left it out."""
    found = _json_at(hit.source, leaf)
    if found is None:
        return None
    decoded = msgspec.json.decode(found)
    values = [value for value in (decoded if isinstance(decoded, list) else [decoded]) if value is not None]
    if len(values) > 1:
        raise _several(leaf, hit)
    return None if not values else values[0] if isinstance(values[0], str) else _text(msgspec.json.encode(values[0]))


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
