"""Avro, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa

from retl.connectors.files.formats.columnar import Columnar
from retl.connectors.files.formats.types import decimal_type
from retl.connectors.rows.text import json_text
from retl.model.errors import ConfigError
from retl.model.schema import field, is_json

_BATCH_ROWS = 8192
_PLAIN: dict[str, pa.DataType] = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "fixed": pa.binary(),
    "string": pa.string(),
    "enum": pa.string(),
}
_LOGICAL: dict[str, pa.DataType] = {
    "date": pa.date32(),
    "time-millis": pa.time64("us"),
    "time-micros": pa.time64("us"),
    "timestamp-millis": pa.timestamp("ms", "UTC"),
    "timestamp-micros": pa.timestamp("us", "UTC"),
    "local-timestamp-millis": pa.timestamp("ms"),
    "local-timestamp-micros": pa.timestamp("us"),
    "uuid": pa.string(),
}


class Avro(Columnar):
    """Records; what is nested in them is JSON."""

    def _schema(self, file: BinaryIO) -> pa.Schema:
        return _columns(_reader(file))

    def _batches(self, file: BinaryIO, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        reader = _reader(file)
        schema = pa.schema([column for column in _columns(reader) if column.name in names])
        while rows := list(islice(reader, _BATCH_ROWS)):
            yield pa.RecordBatch.from_arrays([_array(rows, column) for column in schema], schema=schema)


def _reader(file: BinaryIO) -> Any:
    try:
        import fastavro
    except ImportError:
        raise ConfigError(
            "Avro files need the Python package 'fastavro', which is not installed.", remedy="pip install 'retl[avro]'"
        ) from None
    return fastavro.reader(file)


def _columns(reader: Any) -> pa.Schema:
    record = reader.writer_schema
    if not isinstance(record, dict) or record.get("type") != "record":
        raise ValueError("it holds no records")
    return pa.schema([_column(item["name"], item["type"]) for item in record["fields"]])


def _column(name: str, written: Any) -> pa.Field:
    kind = _type(written)
    return field(name, pa.string(), json=True) if kind is None else pa.field(name, kind)


def _type(written: Any) -> pa.DataType | None:
    """The type of some Avro schema; ``None`` for what is kept as JSON."""
    if isinstance(written, list):
        arms = [arm for arm in written if arm != "null"]
        return _type(arms[0]) if len(arms) == 1 else None
    if isinstance(written, str):
        return _PLAIN.get(written)
    logical = written.get("logicalType")
    if logical == "decimal":
        return decimal_type(written["precision"], written.get("scale", 0))
    return _LOGICAL.get(logical) or _type(written["type"])


def _array(rows: Sequence[dict[str, Any]], column: pa.Field) -> pa.Array:
    values = [row[column.name] for row in rows]
    if is_json(column):
        values = [None if value is None else json_text(value) for value in values]
    elif pa.types.is_string(column.type):
        values = [None if value is None else str(value) for value in values]
    return pa.array(values, column.type)
