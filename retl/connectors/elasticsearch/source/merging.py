"""Mappings of several indices as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retl.connectors.elasticsearch.types import CONFLICT, INTEGERS, NUMBERS, TEXTS, TIMES, field_type

_SHOWN = 3
# Types of text that do not hold every text.
_NARROW = frozenset({"ip", "constant_keyword"})


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
    one, other = field_type(left), field_type(right)
    if one == other:
        if "properties" in left or "properties" in right:
            return {**left, "properties": _merge(left.get("properties") or {}, right.get("properties") or {})}
        if one == "constant_keyword" and left.get("value") != right.get("value"):
            return {"type": "keyword"}
        return left
    if CONFLICT in (one, other):
        types = [*left.get("types", [one]), *right.get("types", [other])]
        return {"type": CONFLICT, "types": sorted(set(types))}
    for family in (NUMBERS, tuple(TIMES)):
        if one in family and other in family:
            return _wider_number(left, right) if family is NUMBERS else {**left, "type": "date_nanos"}
    if one in TEXTS and other in TEXTS:
        return left if one not in _NARROW else right if other not in _NARROW else {"type": "keyword"}
    return {"type": CONFLICT, "types": sorted({one, other})}


def with_index_names(properties: Mapping[str, Any], mappings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Merged properties whose conflicts name the indices of each type; ``mappings`` are those of the indices."""
    found: dict[str, Any] = {}
    for name, spec in properties.items():
        theirs = {
            index: mine
            for index, one in mappings.items()
            if (mine := (one.get("properties") or {}).get(name)) is not None
        }
        if field_type(spec) == CONFLICT:
            kinds: dict[str, list[str]] = {}
            for index, mine in theirs.items():
                kinds.setdefault(field_type(mine), []).append(index)
            spec = {**spec, "types": [f"{one} in {_some(names)}" for one, names in sorted(kinds.items())]}
        elif "properties" in spec:
            spec = {**spec, "properties": with_index_names(spec["properties"], theirs)}
        found[name] = spec
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")


def _wider_number(left: Mapping[str, Any], right: Mapping[str, Any]) -> Mapping[str, Any]:
    one, other = field_type(left), field_type(right)
    if one in INTEGERS and other in INTEGERS:
        return left if list(INTEGERS).index(one) >= list(INTEGERS).index(other) else right
    return {"type": "double"}
