"""The columns of a user's rows: declared as a type, or learnt from the first rows. No I/O."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, TypeAlias
from uuid import UUID

import msgspec
import numpy as np
import pyarrow as pa

from retl.model.errors import ConfigError, SourceError
from retl.model.schema import field

Declared: TypeAlias = Any
"""How a user declares the rows: as an Arrow schema, a msgspec Struct, a dataclass or a TypedDict."""

_DECIMAL = pa.decimal128(38, 18)
_LARGEST_INT64 = 2**63 - 1

# A Python datetime is an instant unless it is declared without a zone.
_SCALARS: dict[type, pa.DataType] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    UUID: pa.string(),
    bytes: pa.binary(),
    bytearray: pa.binary(),
    Decimal: _DECIMAL,
    datetime: pa.timestamp("us", tz="UTC"),
    date: pa.date32(),
    time: pa.time64("us"),
    timedelta: pa.duration("us"),
}


def declared_schema(declared: Declared) -> pa.Schema:
    """The schema that a declaration means. Raises ``ConfigError`` for anything else."""
    if isinstance(declared, pa.Schema):
        return declared
    is_record = isinstance(declared, type) and (
        issubclass(declared, msgspec.Struct) or dataclasses.is_dataclass(declared) or typing.is_typeddict(declared)
    )
    if not is_record:
        raise ConfigError(
            f"schema is {declared!r}.", remedy="give a pyarrow.Schema, a msgspec.Struct, a dataclass or a TypedDict."
        )
    optional: frozenset[str] = getattr(declared, "__optional_keys__", frozenset())
    hints = typing.get_type_hints(declared, include_extras=True)
    return pa.schema(
        [
            _declared_field(name, hint, optional=name in optional)
            for name, hint in hints.items()
            if typing.get_origin(hint) is not typing.ClassVar
        ]
    )


def _declared_field(name: str, hint: Any, *, optional: bool) -> pa.Field:
    extras: list[Any] = []
    members, nullable = [hint], optional
    while len(members) == 1:
        origin = typing.get_origin(members[0])
        if origin in (typing.Annotated, typing.NotRequired, typing.Required):
            extras.extend(getattr(members[0], "__metadata__", ()))
            members = [typing.get_args(members[0])[0]]
        elif origin in (typing.Union, types.UnionType):
            arms = typing.get_args(members[0])
            members = [arm for arm in arms if arm not in (type(None), msgspec.UnsetType)]
            nullable = nullable or len(members) < len(arms)
        else:
            break
    explicit = next((extra for extra in extras if isinstance(extra, pa.DataType)), None)
    if explicit is not None:
        return field(name, explicit, nullable=nullable)
    kind = _scalar(members)
    if kind is None:
        return field(name, pa.string(), nullable=nullable or typing.Any in members, json=True)
    if any(isinstance(extra, msgspec.Meta) and extra.tz is False for extra in extras):
        kind = pa.timestamp("us") if pa.types.is_timestamp(kind) else kind
    return field(name, kind, nullable=nullable)


def _scalar(members: Sequence[Any]) -> pa.DataType | None:
    """The Arrow type of a Python type; ``None`` for what is kept as JSON."""
    if set(members) == {int, float}:
        return pa.float64()
    if len(members) != 1:
        return None
    (member,) = members
    if typing.get_origin(member) is typing.Literal:
        return _scalar(list({type(value) for value in typing.get_args(member)}))
    if isinstance(member, type) and issubclass(member, Enum):
        return _scalar(list({type(item.value) for item in member}))
    return next((kind for known, kind in _SCALARS.items() if member is known), None)


def learn(rows: Sequence[Mapping[str, Any]]) -> pa.Schema:
    """The schema of some rows, columns in the order in which they appear.

    A column without a value becomes text. Raises ``SourceError`` for a column with values
    of incompatible kinds.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    for name in names:
        if not isinstance(name, str):
            raise nameless(name, next((row[name] for row in rows if name in row), None))
    return pa.schema([_learn_column(name, [row.get(name) for row in rows]) for name in names])


def nameless(name: Any, value: Any) -> SourceError:
    """The error of a value whose column has no name, such as the surplus of a line of CSV."""
    surplus = " A csv.DictReader puts there what a line has beyond its head." if name is None else ""
    return SourceError(
        f"a row has {value!r:.100} under {name!r}, and the name of a column must be text.{surplus}",
        remedy="give every value a name, or leave it out.",
        system="function",
    )


def _learn_column(name: str, values: list[Any]) -> pa.Field:
    values = [unwrapped(value) for value in values]
    known = [value for value in values if value is not None]
    kinds = {_base(type(value)) for value in known}
    if not kinds:
        return pa.field(name, pa.string())
    if dict in kinds or list in kinds:
        return field(name, pa.string(), json=True)
    if kinds == {int}:
        fits = all(-_LARGEST_INT64 <= value <= _LARGEST_INT64 for value in known)
        return pa.field(name, pa.int64() if fits else pa.decimal128(38, 0))
    if kinds == {int, float}:
        return pa.field(name, pa.float64())
    if Decimal in kinds and kinds <= {int, Decimal}:
        return pa.field(name, pa.decimal128(38, max(_scale(value) for value in known)))
    if kinds == {datetime}:
        zones = {value.tzinfo is not None for value in known}
        if len(zones) == 1:
            return pa.field(name, pa.timestamp("us", tz="UTC" if zones.pop() else None))
        raise SourceError(
            f"column {name!r} holds times with a zone and times without one.", remedy="give all of them a zone."
        )
    kind = _SCALARS.get(*kinds) if len(kinds) == 1 else None
    if kind is None:
        raise SourceError(
            f"column {name!r} holds values of the types {', '.join(sorted(found.__name__ for found in kinds))}.",
            remedy="give all values of a column one type, and say which it is with schema.",
        )
    return pa.field(name, kind)


def _scale(value: int | Decimal) -> int:
    exponent = Decimal(value).as_tuple().exponent
    return min(38, max(0, -exponent)) if isinstance(exponent, int) else 0


def _base(kind: type) -> type:
    """The Arrow type of a value."""
    for known in (bool, datetime, *_SCALARS):  # a bool is an int and a datetime a date, so these come first
        if issubclass(kind, known):
            return bytes if known is bytearray else known
    if issubclass(kind, np.bool_):
        return bool
    if issubclass(kind, np.integer):
        return int
    if issubclass(kind, np.floating):
        return float
    if issubclass(kind, Mapping | msgspec.Struct) or dataclasses.is_dataclass(kind):
        return dict
    return list if issubclass(kind, list | tuple | set | frozenset) else kind


def unwrapped(value: Any) -> Any:
    """A value without its wrapping: an enumeration's member, msgspec's ``UNSET``."""
    if isinstance(value, Enum):
        return value.value
    return None if value is msgspec.UNSET else value


def join(known: pa.Schema | None, seen: pa.Schema) -> pa.Schema:
    """The known columns, followed by the new ones."""
    if known is None:
        return seen
    return pa.schema([*known, *(column for column in seen if column.name not in known.names)])


def without_values(schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns without a value in any row."""
    filled = {name for row in rows for name, value in row.items() if unwrapped(value) is not None}
    return [name for name in schema.names if name not in filled]
