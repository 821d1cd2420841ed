"""CSV and TSV: divided into rows here, into values by Arrow, and into types by ``cast``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from pyarrow import csv

from retl.connectors.files.formats.base import Format, unreadable
from retl.connectors.files.formats.encoding import is_family_of_utf8, is_utf8, utf8_blocks
from retl.connectors.files.formats.joined import Joined, joined
from retl.connectors.files.formats.lines import Dialect, RowBlock, row_blocks
from retl.connectors.files.formats.options import FormatOptions
from retl.connectors.files.formats.rejects import BrokenRow, FoundRows, cast_rows
from retl.connectors.files.formats.types import inferred

_SAMPLE_BYTES = 4 * 1024 * 1024
_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class _Table:
    """One open file: the names of its columns, and its rows after the header."""

    names: Sequence[str]
    blocks: Iterator[RowBlock]


class CSV(Format):
    """Text with a delimiter."""

    def __init__(self, options: FormatOptions, delimiter: str = ",") -> None:
        super().__init__(options)
        self._dialect = Dialect(
            options.delimiter or delimiter, options.quote, options.double_quote, options.escape, options.comment
        )

    def schema(self, file: BinaryIO, name: str) -> pa.Schema:
        table = self._open(file, name)
        sample: list[dict[str, pa.Array]] = []
        size = 0
        for block in table.blocks:
            sample.append(dict(self._values(block, table.names, table.names).columns))
            size += len(block.data)
            if size >= _SAMPLE_BYTES:
                break
        return pa.schema([self._column(column, [values[column] for values in sample]) for column in table.names])

    def _column(self, column: str, arrays: list[pa.Array]) -> pa.Field:
        style = self.options.style(column)
        kinds = [array if pa.types.is_string(array.type) else array.cast(pa.string(), safe=False) for array in arrays]
        found = inferred(pa.concat_arrays(kinds), style) if kinds else pa.null()
        return self.declared(pa.field(column, found))

    def names(self, file: BinaryIO, name: str) -> list[str]:
        return list(self._open(file, name).names)

    def read(self, file: BinaryIO, name: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        table = self._open(file, name)
        wanted = [column for column in table.names if column in schema.names]
        for block in table.blocks:
            if len(block) or block.broken:
                yield cast_rows(self._values(block, table.names, wanted), schema, self.options)

    def joined(self, contents: Sequence[bytes]) -> Joined | None:
        options = self.options
        plain = options.header and options.columns is None and not options.skip_lines and not options.comment
        return joined(contents, self._dialect) if plain and is_family_of_utf8(options.encoding) else None

    def _open(self, file: BinaryIO, name: str) -> _Table:
        options = self.options
        text = _without_lines(utf8_blocks(file, options.encoding), options.skip_lines)
        blocks = row_blocks(text, self._dialect, name, options.max_row_bytes, 1 + options.skip_lines)
        first = next((block for block in blocks if len(block)), None)
        if first is None:
            return _Table(list(options.columns or ()), iter(()))
        rest = first.without_first() if options.header else first
        return _Table(self._names(first, name), chain([rest], blocks))

    def _names(self, first: RowBlock, name: str) -> list[str]:
        """The names of the columns: given, or of the first row, or by their place."""
        row = self._first_row(first, name)
        given = self.options.columns
        if given is not None and len(given) != len(row):
            raise unreadable(
                name,
                f"its rows have {len(row)} values, and columns of the format names {len(given)}",
                line=int(first.lines[0]),
            )
        if given is not None:
            return list(given)
        return distinct_names(row if self.options.header else [""] * len(row))

    def _first_row(self, first: RowBlock, name: str) -> list[str]:
        row = first.row(0)
        signs = [sign.encode() for sign in (self._dialect.quote, self._dialect.escape) if sign]
        if not any(sign in row for sign in signs):
            with suppress(UnicodeDecodeError):
                # A reader of Arrow takes a millisecond, which counts where files are small.
                return row.decode().split(self._dialect.delimiter)
        row += b"\n"
        try:
            places = self._parse(row, None, None).column_names
            table = self._parse(row, places, places, null=())
            return [str(value) for column in places for value in table[column].cast(pa.string()).to_pylist()]
        except pa.ArrowInvalid as error:
            raise unreadable(name, f"its first row cannot be read: {error}", line=int(first.lines[0])) from None

    def _values(self, block: RowBlock, names: Sequence[str], wanted: Sequence[str]) -> FoundRows:
        """The values of a block, as text where they are text."""
        if not len(block):
            return FoundRows({column: pa.nulls(0, pa.string()) for column in wanted}, block.lines, block.broken)
        ragged: dict[int, int] = {}

        def skip(row: csv.InvalidRow) -> str:
            ragged[row.number - 1] = row.actual_columns
            return "skip"

        table = self._parse(block.data, names, wanted, skip)
        lines = np.delete(block.lines, list(ragged))
        short = [number for number, values in ragged.items() if values < len(names) and self.options.ragged == "fill"]
        if short:
            table = pa.concat_tables([table, self._filled(block, ragged, short, names, wanted)])
            lines = np.concatenate([lines, block.lines[short]])
        rejected = {number: values for number, values in ragged.items() if number not in short}
        columns = {column: _as_text(table[column]) for column in wanted}
        return FoundRows(columns, lines, [*block.broken, *_ragged_rows(block, rejected, len(names))])

    def _filled(
        self,
        block: RowBlock,
        ragged: Mapping[int, int],
        short: Sequence[int],
        names: Sequence[str],
        wanted: Sequence[str],
    ) -> pa.Table:
        """Rows with too few values, with empty ones for those that they lack."""
        delimiter = self._dialect.delimiter.encode()
        rows = [block.row(number) + delimiter * (len(names) - ragged[number]) for number in short]
        return self._parse(b"\n".join(rows) + b"\n", names, wanted)

    def _parse(
        self,
        data: bytes,
        names: Sequence[str] | None,
        wanted: Sequence[str] | None,
        skip: Callable[[csv.InvalidRow], str] | None = None,
        *,
        null: Sequence[str] | None = None,
    ) -> pa.Table:
        options, dialect = self.options, self._dialect
        return csv.read_csv(
            pa.BufferReader(data),
            csv.ReadOptions(
                column_names=names,
                autogenerate_column_names=names is None,
                use_threads=False,
                block_size=len(data) + 1,
            ),
            csv.ParseOptions(
                delimiter=dialect.delimiter,
                quote_char=dialect.quote or False,
                double_quote=dialect.double_quote,
                escape_char=dialect.escape or False,
                newlines_in_values=True,
                invalid_row_handler=skip,
            ),
            csv.ConvertOptions(
                check_utf8=False,
                column_types=dict.fromkeys(names or (), pa.string() if is_utf8(data) else pa.binary()),
                include_columns=wanted or names,
                null_values=options.null if null is None else null,
                strings_can_be_null=True,
                quoted_strings_can_be_null=options.quoted_null,
            ),
        )


def _as_text(column: pa.ChunkedArray) -> pa.Array:
    """Text, or the bytes as they are where some of them are not UTF-8."""
    values = column.combine_chunks()
    if pa.types.is_string(values.type):
        return values
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        return values


def _ragged_rows(block: RowBlock, ragged: Mapping[int, int], expected: int) -> Iterator[BrokenRow]:
    for number, values in ragged.items():
        reason = f"the row has {values} values where the header has {expected}"
        yield BrokenRow(int(block.lines[number]), reason, block.row(number).decode(errors="backslashreplace"))


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names of columns, none of them empty or twice: ``column_3`` for the third, ``price_2`` for a second ``price``."""
    taken: set[str] = set(names)
    distinct: list[str] = []
    for place, name in enumerate(names, start=1):
        chosen = name or f"column_{place}"
        number = 2
        while chosen in distinct or (chosen != name and chosen in taken):
            chosen = f"{name or f'column_{place}'}_{number}"
            number += 1
        distinct.append(chosen)
    return distinct


def _without_lines(blocks: Iterator[bytes], count: int) -> Iterator[bytes]:
    """The text after so many lines."""
    text = b""
    for block in blocks:
        text += block
        while count and (found := _LINE_END.search(text, endpos=max(len(text) - 1, 0))):
            text = text[found.end() :]
            count -= 1
        if not count:
            yield text
            yield from blocks
            return
        text = text[-1:]
