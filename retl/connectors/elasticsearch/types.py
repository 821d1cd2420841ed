"""Mappings: from an index to Arrow columns, from Arrow columns to an index, and several of them as one.

A column for each leaf, under its dotted path. What cannot be one value (``nested``,
``flattened``, objects that are not mapped) is JSON. Multi-fields and aliases are views
of other fields, so they are no columns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec
import pyarrow as pa

from retl.model.errors import ConfigError
from retl.model.schema import field, is_bytes, is_json, is_text

ID = "_id"
ROUTING = "_routing"
SOURCE = "_source"
KEY = (ID,)
_INDEX = b"retl.index"


def document_schema(cursor: pa.Field | None = None, index: Mapping[str, Any] | None = None) -> pa.Schema:
    """The columns of document batches: ``_id``, ``_routing``, ``_source`` (its JSON, byte for byte), the cursor.

    ``index`` is what the source says of itself: ``{"mappings": ..., "settings": ..., "aliases": ..., "cluster": ...,
    "name": ..., "indices": ...}``, settings only those that another cluster can take, the name as it was declared, the
    indices that it stands for. It travels with the schema, for ``index_of``.
    """
    columns = [
        field(ID, pa.string(), native="_id", nullable=False),
        field(ROUTING, pa.string(), native="_routing"),
        field(SOURCE, pa.binary(), native="_source", nullable=False, json=True),
    ]
    if cursor is not None:
        columns.append(cursor)
    return pa.schema(columns, metadata={_INDEX: msgspec.json.encode(index)} if index is not None else None)


def holds_documents(schema: pa.Schema) -> bool:
    """Whether batches of this schema hold whole documents."""
    return bool(schema.names[:3] == [ID, ROUTING, SOURCE])


def index_of(schema: pa.Schema) -> dict[str, Any] | None:
    """What the source has told about its index."""
    found = (schema.metadata or {}).get(_INDEX)
    return None if found is None else msgspec.json.decode(found)


INTEGERS = {"byte": pa.int8(), "short": pa.int16(), "integer": pa.int32(), "long": pa.int64()}
_FLOATS = {"half_float": pa.float32(), "float": pa.float32(), "double": pa.float64(), "scaled_float": pa.float64()}
NUMBERS = (*INTEGERS, *_FLOATS)
TIMES = {"date": pa.timestamp("ms", "UTC"), "date_nanos": pa.timestamp("ns", "UTC")}
TEXTS = (
    *("keyword", "constant_keyword", "wildcard", "text", "match_only_text", "search_as_you_type"),
    *("ip", "version", "pattern_text"),
)
_VALUES: dict[str, pa.DataType] = {
    **INTEGERS,
    **_FLOATS,
    **TIMES,
    **dict.fromkeys(TEXTS, pa.string()),
    "unsigned_long": pa.uint64(),
    "boolean": pa.bool_(),
    "binary": pa.binary(),
}
# Types whose single value is an object or an array, in one form.
_SHAPES = frozenset({"geo_point", "geo_shape", "point", "shape"})
CONFLICT = "conflict"


def field_type(spec: Mapping[str, Any]) -> str:
    """The type of a field; ``object`` is the default."""
    return str(spec.get("type", "object"))


def leaf_fields(properties: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every field that is a column, as its dotted path and its own mapping, in the order of the mapping."""
    for name, spec in properties.items():
        path = prefix + name
        inner = spec.get("properties")
        if field_type(spec) == "alias":
            continue
        if inner and field_type(spec) in ("object", "passthrough") and spec.get("enabled", True) is not False:
            yield from leaf_fields(inner, f"{path}.")
        else:
            yield path, spec


def is_value(spec: Mapping[str, Any]) -> bool:
    """Whether the server lists the values of a field; otherwise the field is JSON from the document."""
    return field_type(spec) in _VALUES or field_type(spec) in _SHAPES


def arrow_column(path: str, spec: Mapping[str, Any], *, array: bool = False) -> pa.Field:
    """The Arrow column of a leaf; ``array`` where the user declares that it may hold several values.

    Raises ``ConfigError`` for a field that the indices of one name map in ways that do not fit together.
    """
    native = field_type(spec)
    if native == CONFLICT:
        raise ConfigError(
            f"the indices disagree on the field {path!r}: it is {' and '.join(spec['types'])}.",
            remedy="leave it out with columns, or read the indices as tables of their own.",
        )
    if array or native not in _VALUES:
        return field(path, pa.string(), native=native, json=True)
    return field(path, _VALUES[native], native=native)


# From Arrow --------------------------------------------------------------------


def from_arrow(schema: pa.Schema, key: Collection[str] = (), *, times: str = "date_nanos") -> dict[str, Any]:
    """The mapping of an index for these columns. Nothing that the columns can hold is refused, but times.

    Times finer than a millisecond are ``times``. ``date_nanos`` reaches from 1970 to 2262: what lies beyond is
    refused by the server rather than cut. JSON is not mapped: the server takes it as it comes.
    """
    return {
        "properties": {
            column.name: spec
            for column in schema
            if column.name not in (ID, ROUTING, SOURCE)
            and (spec := _spec(column, times, is_key=column.name in key)) is not None
        }
    }


def _spec(column: pa.Field, times: str, *, is_key: bool) -> dict[str, Any] | None:
    type_ = column.type
    if pa.types.is_struct(type_):
        inner = {child.name: spec for child in type_ if (spec := _spec(child, times, is_key=False)) is not None}
        return {"type": "object", "properties": inner}
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        return _spec(type_.value_field, times, is_key=False)
    if is_json(column) or pa.types.is_null(type_):
        return None
    if is_text(type_):
        # A key is looked up as a whole. Anything else is searched, and its whole value too unless it is long.
        whole = {"type": "keyword", "ignore_above": 8191 if is_key else 256}
        return whole if is_key else {"type": "text", "fields": {"keyword": whole}}
    name = next((name for holds, name in _NAMES if holds(type_)), "keyword")
    return {"type": times if name == "date_nanos" else name}


def _in(*types: pa.DataType) -> Any:
    return lambda type_: type_ in types


_NAMES = (
    (pa.types.is_boolean, "boolean"),
    (_in(pa.int8()), "byte"),
    (_in(pa.int16(), pa.uint8()), "short"),
    (_in(pa.int32(), pa.uint16()), "integer"),
    (_in(pa.int64(), pa.uint32()), "long"),
    (_in(pa.uint64()), "unsigned_long"),
    (_in(pa.float16(), pa.float32()), "float"),
    # The digits of a decimal stay in the document; only searching and sorting see a double.
    (lambda type_: pa.types.is_floating(type_) or pa.types.is_decimal(type_), "double"),
    (pa.types.is_date, "date"),
    (lambda type_: pa.types.is_timestamp(type_) and type_.unit in ("s", "ms"), "date"),
    (pa.types.is_timestamp, "date_nanos"),
    (is_bytes, "binary"),
)
