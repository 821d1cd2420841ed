"""JSON lines and JSON arrays: every digit of a number, and nested values as they are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json

from retl.connectors.files.formats.base import LINE, Format
from retl.connectors.files.formats.cast import is_number
from retl.connectors.files.formats.documents import DocumentBlock, in_array, in_lines
from retl.connectors.files.formats.encoding import utf8_blocks
from retl.connectors.files.formats.options import FormatOptions
from retl.connectors.files.formats.rejects import BrokenRow, FoundRows, cast_rows
from retl.connectors.files.formats.types import inferred
from retl.model.schema import field, is_json, is_text

_SAMPLE_BYTES = 1024 * 1024
_NO_TEXT = b"\xff"
"""Stands for a string that no encoding has: half a surrogate."""


class JSON(Format):
    """Documents, one after the other or in an array; a column for each name at their top."""

    def __init__(self, options: FormatOptions, *, lines: bool = False) -> None:
        super().__init__(options)
        self._lines = lines

    def schema(self, file: BinaryIO, name: str) -> pa.Schema:
        found: dict[str, list[bytes]] = {}
        decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
        size = 0
        for block in self._blocks(file, name):
            for text in block.texts:
                for column, value in _decoded(decoder, text, {}).items():
                    found.setdefault(column, []).append(bytes(value))
            size += sum(map(len, block.texts))
            if size >= _SAMPLE_BYTES:
                break
        return pa.schema([self.declared(self._column(column, values)) for column, values in found.items()])

    def _column(self, column: str, values: list[bytes]) -> pa.Field:
        kinds = {_KINDS.get(value[:1], "number") for value in values} - {"null"}
        if not kinds:
            return pa.field(column, pa.null())
        if "nested" in kinds:
            return field(column, pa.string(), json=True)
        text = _text(pa.array(values, pa.binary()), as_json=False)
        if len(kinds) > 1 or not pa.types.is_string(text.type):
            return pa.field(column, pa.string())
        kind = inferred(text, self.options.style(column))
        return pa.field(column, kind if _kind_of(kind) in kinds else pa.string())

    def read(self, file: BinaryIO, name: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        reader = _Reader(schema, self.options)
        for block in self._blocks(file, name):
            yield cast_rows(reader.rows(block), schema, self.options)

    def _blocks(self, file: BinaryIO, name: str) -> Iterator[DocumentBlock]:
        blocks = utf8_blocks(file, self.options.encoding)
        divide = in_lines if self._lines else in_array
        return divide(blocks, name, self.options.max_row_bytes)


def json_lines(options: FormatOptions) -> JSON:
    """One document a line."""
    return JSON(options, lines=True)


class _Reader:
    """Takes the values of some columns out of documents: by Arrow where it changes nothing, else by msgspec."""

    def __init__(self, schema: pa.Schema, options: FormatOptions) -> None:
        columns = [column for column in schema if column.name != LINE]
        simple = [column for column in columns if _is_simple(column) and column.name not in options.types]
        self._as_json = {column.name for column in columns if is_json(column)}
        self._names = [column.name for column in columns]
        self._all = _decoder(self._names)
        self._simple = pa.schema([pa.field(column.name, column.type) for column in simple])
        self._others = [column.name for column in columns if column not in simple]
        self._some = _decoder(self._others)

    def rows(self, block: DocumentBlock) -> FoundRows:
        """The values of a block."""
        fast = self._by_arrow(block) if len(self._simple) else None
        return fast or self._exactly(block)

    def _by_arrow(self, block: DocumentBlock) -> FoundRows | None:
        """``None`` where a value is not of its column's type, or a document is broken: that is looked at more closely."""
        text = b"\n".join(block.texts)
        parse = json.ParseOptions(explicit_schema=self._simple, unexpected_field_behavior="ignore")
        try:
            table = json.read_json(
                pa.BufferReader(text), json.ReadOptions(use_threads=False, block_size=len(text) + 1), parse
            )
            others = self._some.decode_lines(text) if self._others else []
        except (pa.ArrowInvalid, UnicodeDecodeError, msgspec.DecodeError):
            return None
        if table.num_rows != len(block.texts) or (self._others and len(others) != table.num_rows):
            return None
        columns = {column: table[column].combine_chunks() for column in self._simple.names}
        return FoundRows(columns | self._columns(others, self._others), block.lines)

    def _exactly(self, block: DocumentBlock) -> FoundRows:
        broken: dict[int, BrokenRow] = {}
        found = []
        for number, text in enumerate(block.texts):
            try:
                found.append(self._all.decode(text))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                line = int(block.lines[number])
                broken[number] = BrokenRow(line, f"no JSON object: {error}", text.decode(errors="backslashreplace"))
        lines = np.delete(block.lines, list(broken))
        return FoundRows(self._columns(found, self._names), lines, list(broken.values()))

    def _columns(self, found: Sequence[Any], names: Sequence[str]) -> dict[str, pa.Array]:
        columns = {}
        for place, column in enumerate(names):
            values = [bytes(getattr(row, f"f{place}")) for row in found]
            columns[column] = _text(pa.array(values, pa.binary()), as_json=column in self._as_json)
        return columns


def _is_simple(column: pa.Field) -> bool:
    """Whether Arrow reads the column's values as they are: it would round a double, and knows JSON no longer as text."""
    kind = column.type
    exact = is_text(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_boolean(kind)
    return exact and not is_json(column)


def _decoder(names: Sequence[str]) -> msgspec.json.Decoder[Any]:
    null = msgspec.Raw(b"null")
    fields = [(f"f{place}", msgspec.Raw, msgspec.field(default=null, name=name)) for place, name in enumerate(names)]
    return msgspec.json.Decoder(msgspec.defstruct("Document", fields, gc=False))


_KINDS = {b'"': "string", b"{": "nested", b"[": "nested", b"t": "boolean", b"f": "boolean", b"n": "null"}


def _kind_of(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "boolean"
    return "number" if is_number(kind) else "string"


def _text(values: pa.Array, *, as_json: bool) -> pa.Array:
    """JSON values as text, strings without their quotes; ``binary`` where some are not UTF-8."""
    first = pc.binary_slice(values, 0, 1)
    values = pc.if_else(pc.equal(first, b"n"), pa.scalar(None, pa.binary()), values)
    if not as_json:
        strings = pc.equal(first, b'"')
        values = pc.if_else(strings, pc.binary_slice(values, 1, -1), values)
        values = _unescaped(values, strings)
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        return values


def _unescaped(values: pa.Array, strings: pa.Array) -> pa.Array:
    """Strings without their escapes."""
    escaped = pc.and_(strings, pc.match_substring(values, "\\"))
    if not pc.any(escaped).as_py():
        return values
    plain = [_unescape(value) for value in values.filter(escaped).to_pylist()]
    return pc.replace_with_mask(values, escaped.fill_null(False), pa.array(plain, pa.binary()))


def _unescape(value: bytes) -> bytes:
    try:
        found: str = msgspec.json.decode(b'"' + value + b'"', type=str)
        return found.encode()
    except (msgspec.DecodeError, UnicodeError):
        return _NO_TEXT


def _decoded(decoder: msgspec.json.Decoder[Any], text: bytes, otherwise: Any) -> Any:
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return otherwise
