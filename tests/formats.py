"""Reads the bytes of a file as a source does, for tests of formats."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa

from retl.connectors.base import REJECT
from retl.connectors.files.formats import decompressed, format_for, merged


def read(data: bytes, name: str = "a.csv", schema: pa.Schema | None = None, **options: Any) -> list[dict[str, Any]]:
    """The rows of a file in the types that it is inferred to have."""
    found = format_for(options, name)
    schema = schema or merged([found.schema(decompressed(io.BytesIO(data), name, options), name)])
    batches = list(found.read(decompressed(io.BytesIO(data), name, options), name, schema))
    return [row for batch in batches for row in batch.to_pylist()]


def types(data: bytes, name: str = "a.csv", **options: Any) -> dict[str, str]:
    found = format_for(options, name).schema(decompressed(io.BytesIO(data), name, options), name)
    return {column.name: str(column.type) for column in found}


def good(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that are no rejects, without what says so."""
    return [{name: value for name, value in row.items() if name != REJECT} for row in rows if row.get(REJECT) is None]


def reasons(rows: list[dict[str, Any]]) -> list[str]:
    """Why rows are rejects."""
    return [row[REJECT]["reason"] for row in rows if row.get(REJECT)]
