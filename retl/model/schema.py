"""The shape of a table: Arrow is the type system, and field metadata keeps the native type."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

NATIVE = b"retl.native"
"""Field metadata key: the type as the system that the column came from spells it."""
JSON = b"retl.json"
"""Field metadata key: the text of this column is JSON."""
VECTOR = b"retl.vector"
"""Field metadata key: the text of this column is a JSON array of so many numbers, each as exact as 32 bits are."""
COLLATION = b"retl.collation"
"""Field metadata key: the collation, in the source's own word."""


def field(
    name: str,
    type: pa.DataType,
    *,
    native: str = "",
    nullable: bool = True,
    json: bool = False,
    collation: str | None = None,
) -> pa.Field:
    """An Arrow field that remembers its native type and collation; with ``json`` its text is JSON."""
    told = ((NATIVE, native.encode()), (JSON, b"1" if json else b""), (COLLATION, (collation or "").encode()))
    metadata = {key: value for key, value in told if value}
    return pa.field(name, type, nullable=nullable, metadata=metadata or None)


def vector_field(name: str, dimensions: int) -> pa.Field:
    """A column of vectors in canonical text, ``[0.1,-2]``; a target without a type for them stores JSON."""
    return pa.field(name, pa.string(), metadata={JSON: b"1", VECTOR: str(dimensions).encode()})


def vector_size(column: pa.Field) -> int | None:
    """The dimensions of a column of vectors; ``None`` for any other column."""
    found = (column.metadata or {}).get(VECTOR)
    return None if found is None else int(found)


def native_type(column: pa.Field) -> str:
    """The type as the source spells it, or else its Arrow name."""
    found = (column.metadata or {}).get(NATIVE)
    return found.decode() if found else str(column.type)


def collation(column: pa.Field) -> str | None:
    """The column's collation, if the source told it."""
    found = (column.metadata or {}).get(COLLATION)
    return found.decode() if found else None


def is_json(column: pa.Field) -> bool:
    """Whether the column holds JSON: as text, or as a nested Arrow type."""
    return bool((column.metadata or {}).get(JSON)) or pa.types.is_nested(column.type)


@dataclass(frozen=True)
class TableSchema:
    """One table of a system: its columns in order and its real key, if it has one.

    ``key`` holds only columns that the system itself guarantees to be unique together.
    """

    name: str
    columns: pa.Schema
    key: tuple[str, ...] = ()
    hidden: frozenset[str] = frozenset()
    """Columns that are read only if they are named: ``SELECT *`` does not show them."""

    @property
    def names(self) -> list[str]:
        return list(self.columns.names)

    def has(self, column: str) -> bool:
        return column in self.columns.names


def missing(wanted: Iterable[str], have: Sequence[str]) -> list[str]:
    """The wanted names that the table lacks, in order."""
    known = set(have)
    return [name for name in wanted if name not in known]


def is_text(kind: pa.DataType) -> bool:
    """Whether a type's values are text, in any of Arrow's layouts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a type's values are bytes, in any of Arrow's layouts."""
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values of a dictionary or an extension; UUID and JSON stay what they are."""
    if pa.types.is_dictionary(kind):
        return value_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType) and kind not in (pa.uuid(), pa.json_()):
        return value_type(kind.storage_type)
    return kind


def pack(schema: pa.Schema) -> str:
    """A schema as text, for a checkpoint."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def unpack(text: Any) -> pa.Schema | None:
    """The packed schema; ``None`` if it cannot be read."""
    try:
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
    except (pa.ArrowException, OSError, TypeError, ValueError):
        return None
