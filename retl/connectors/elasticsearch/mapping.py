"""Mappings: from an index to Arrow columns, from Arrow columns to an index, and several of them as one.

A column for each leaf, under its dotted path. What cannot be one value (``nested``,
``flattened``, objects that are not mapped) is JSON. Multi-fields and aliases are views
of other fields, so they are no columns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from retl.connectors.elasticsearch.documents import ID, ROUTING, SOURCE
from retl.model.errors import ConfigError
from retl.model.schema import field, is_json

_INTEGERS = {"byte": pa.int8(), "short": pa.int16(), "integer": pa.int32(), "long": pa.int64()}
_FLOATS = {"half_float": pa.float32(), "float": pa.float32(), "double": pa.float64(), "scaled_float": pa.float64()}
_NUMBERS = (*_INTEGERS, *_FLOATS)
_TIMES = {"date": pa.timestamp("ms", "UTC"), "date_nanos": pa.timestamp("ns", "UTC")}
_TEXTS = (
    *("keyword", "constant_keyword", "wildcard", "text", "match_only_text", "search_as_you_type"),
    *("ip", "version", "pattern_text"),
)
_VALUES: dict[str, pa.DataType] = {
    **_INTEGERS,
    **_FLOATS,
    **_TIMES,
    **dict.fromkeys(_TEXTS, pa.string()),
    "unsigned_long": pa.uint64(),
    "boolean": pa.bool_(),
    "binary": pa.binary(),
}
# Types whose one value is an object or an array; the server writes each in one way.
_SHAPES = frozenset({"geo_point", "geo_shape", "point", "shape"})
CONFLICT = "conflict"
_SHOWN = 3
# Texts of which not every text is one.
_NARROW = frozenset({"ip", "constant_keyword"})


def kind(spec: Mapping[str, Any]) -> str:
    """A field's type; ``object`` goes without saying."""
    return str(spec.get("type", "object"))


def leaves(properties: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every field that is a column, as its dotted path and its own mapping, in the order of the mapping."""
    for name, spec in properties.items():
        path = prefix + name
        inner = spec.get("properties")
        if kind(spec) == "alias":
            continue
        if inner and kind(spec) in ("object", "passthrough") and spec.get("enabled", True) is not False:
            yield from leaves(inner, f"{path}.")
        else:
            yield path, spec


def is_value(spec: Mapping[str, Any]) -> bool:
    """Whether the server gives a field's values one by one; otherwise it is JSON as the document holds it."""
    return kind(spec) in _VALUES or kind(spec) in _SHAPES


def column(path: str, spec: Mapping[str, Any], *, array: bool = False) -> pa.Field:
    """The Arrow column of a leaf; ``array`` where its user says that it may hold several values.

    Raises ``ConfigError`` for a field that the indices of one name map in ways that do not fit together.
    """
    native = kind(spec)
    if native == CONFLICT:
        raise ConfigError(
            f"the indices disagree on the field {path!r}: it is {' and '.join(spec['types'])}.",
            remedy="leave it out with columns, or read the indices as tables of their own.",
        )
    if array or native not in _VALUES:
        return field(path, pa.string(), native=native, json=True)
    return field(path, _VALUES[native], native=native)


def merged(mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The properties of several indices as one: the wider type where they differ, ``conflict`` where none fits both.

    In all else the first index counts.
    """
    found: dict[str, Any] = {}
    for mapping in mappings:
        found = _merge(found, mapping.get("properties") or {})
    return found


def _merge(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(left)
    for name, spec in right.items():
        both[name] = _wider(both[name], spec) if name in both else spec
    return both


def _wider(left: Mapping[str, Any], right: Mapping[str, Any]) -> Mapping[str, Any]:
    one, other = kind(left), kind(right)
    if one == other:
        if "properties" in left or "properties" in right:
            return {**left, "properties": _merge(left.get("properties") or {}, right.get("properties") or {})}
        if one == "constant_keyword" and left.get("value") != right.get("value"):
            return {"type": "keyword"}
        return left
    if CONFLICT in (one, other):
        types = [*left.get("types", [one]), *right.get("types", [other])]
        return {"type": CONFLICT, "types": sorted(set(types))}
    for family in (_NUMBERS, tuple(_TIMES)):
        if one in family and other in family:
            return _wider_number(left, right) if family is _NUMBERS else {**left, "type": "date_nanos"}
    if one in _TEXTS and other in _TEXTS:
        return left if one not in _NARROW else right if other not in _NARROW else {"type": "keyword"}
    return {"type": CONFLICT, "types": sorted({one, other})}


def conflicts(properties: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The fields on which the indices disagree, and what they say."""
    for name, spec in properties.items():
        if kind(spec) == CONFLICT:
            yield prefix + name, " and ".join(spec["types"])
        else:
            yield from conflicts(spec.get("properties") or {}, f"{prefix}{name}.")


def blamed(properties: Mapping[str, Any], mappings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Merged properties whose conflicts name the indices of each type; ``mappings`` are those of the indices."""
    found: dict[str, Any] = {}
    for name, spec in properties.items():
        theirs = {
            index: mine
            for index, one in mappings.items()
            if (mine := (one.get("properties") or {}).get(name)) is not None
        }
        if kind(spec) == CONFLICT:
            kinds: dict[str, list[str]] = {}
            for index, mine in theirs.items():
                kinds.setdefault(kind(mine), []).append(index)
            spec = {**spec, "types": [f"{one} in {_some(names)}" for one, names in sorted(kinds.items())]}
        elif "properties" in spec:
            spec = {**spec, "properties": blamed(spec["properties"], theirs)}
        found[name] = spec
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")


def _wider_number(left: Mapping[str, Any], right: Mapping[str, Any]) -> Mapping[str, Any]:
    one, other = kind(left), kind(right)
    if one in _INTEGERS and other in _INTEGERS:
        return left if list(_INTEGERS).index(one) >= list(_INTEGERS).index(other) else right
    return {"type": "double"}


def spoken(properties: Mapping[str, Any], flattened: str) -> dict[str, Any]:
    """The same fields in the words of another product: objects that are not mapped leaf by leaf are ``flattened``."""
    found: dict[str, Any] = {}
    for name, spec in properties.items():
        if kind(spec) in ("flattened", "flat_object") and kind(spec) != flattened:
            spec = {"type": flattened}
        elif "properties" in spec:
            spec = {**spec, "properties": spoken(spec["properties"], flattened)}
        found[name] = spec
    return found


# What says how values are stored, and nothing of what they are.
_HINTS = ("time_series_dimension", "time_series_metric", "synthetic_source_keep")


def drop_hints(properties: dict[str, Any], found: list[str]) -> None:
    """Take the hints out of fields, multi-fields too; their names are added to ``found``."""
    for spec in properties.values():
        found += [name for name in _HINTS if spec.pop(name, None) is not None]
        for inner in ("properties", "fields"):
            drop_hints(spec.get(inner) or {}, found)


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
    if _is_text(type_):
        # A key is looked up as a whole. Anything else is searched, and its whole value too unless it is long.
        whole = {"type": "keyword", "ignore_above": 8191 if is_key else 256}
        return whole if is_key else {"type": "text", "fields": {"keyword": whole}}
    name = next((name for holds, name in _NAMES if holds(type_)), "keyword")
    return {"type": times if name == "date_nanos" else name}


def _is_text(type_: pa.DataType) -> bool:
    return any(test(type_) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _in(*types: pa.DataType) -> Any:
    return lambda type_: type_ in types


_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
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
    (lambda type_: any(test(type_) for test in _BINARY), "binary"),
)
