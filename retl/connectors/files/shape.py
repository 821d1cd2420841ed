"""What the rows of a table of files look like: columns of the files, of their names, and of where each row comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from retl.connectors.files.formats import LINE, FormatOptions
from retl.connectors.files.selection import Selection
from retl.connectors.files.store import FileInfo
from retl.connectors.rows.columns import choose_columns
from retl.connectors.rows.rejects import REJECT
from retl.model.errors import ConfigError
from retl.model.files import Told
from retl.model.schema import field, is_json
from retl.model.table import TableSpec

_OF_ROWS: tuple[Told, ...] = ("row", "line")
_TYPES: dict[Told, pa.DataType] = {
    "file": pa.string(),
    "url": pa.string(),
    "row": pa.int64(),
    "line": pa.int64(),
    "modified": pa.timestamp("us", "UTC"),
    "hash": pa.string(),
}


_TAKEN: tuple[Callable[[pa.DataType], bool], ...] = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_boolean,
    pa.types.is_date,
    pa.types.is_timestamp,
    pa.types.is_string,
)


@dataclass(frozen=True)
class Shape:
    """The columns of one table, and how the batches of a file become its rows."""

    in_files: pa.Schema
    """The columns of the files that are read."""
    schema: pa.Schema
    """The columns of the rows, under the target's names."""
    names: tuple[str, ...]
    """The same under the source's names."""
    key: tuple[str, ...]
    known: pa.Schema
    """All columns of the files, read or not."""
    provenance: Mapping[str, Told]
    """What each column of provenance tells."""

    @property
    def read(self) -> pa.Schema:
        """What is read of a file: its columns, and the line of each row where that is told."""
        return self.in_files.append(pa.field(LINE, pa.int64())) if self._numbers else self.in_files

    @property
    def _numbers(self) -> bool:
        return any(self.provenance.get(name) in _OF_ROWS for name in self.names)

    @property
    def hashes(self) -> bool:
        """Whether a column tells the hash of the content, which is known only when the whole file has come."""
        return any(self.provenance.get(name) == "hash" for name in self.names)

    def told(self, selection: Selection, file: FileInfo, root: str, digest: str) -> dict[str, Any]:
        """The values that are the same in all rows of a file. Raises ``ValueError`` for a name with an impossible date."""
        about: dict[Told, Any] = {
            "file": file.name,
            "url": root + file.name,
            "modified": file.modified,
            "hash": digest,
        }
        values = selection.values(file.name)
        values.update({name: about[told] for name, told in self.provenance.items() if told not in _OF_ROWS})
        return values

    def rows(self, batch: pa.RecordBatch, told: Mapping[str, Any], before: int) -> pa.RecordBatch:
        """The rows of a batch that ``before`` others of its file precede."""

        def number(what: Told) -> pa.Array:
            lines = batch.column(LINE)
            return lines if what == "line" else pa.array(before + 1 + _order(lines), pa.int64())

        def value(name: str, type_: pa.DataType) -> pa.Array:
            return pa.repeat(pa.scalar(told.get(name), type_), batch.num_rows)

        return self._made(batch, told, number, value)

    def rows_of_several(
        self,
        batch: pa.RecordBatch,
        told: Sequence[Mapping[str, Any]],
        files: npt.NDArray[np.int64],
        *,
        rows: npt.NDArray[np.int64],
        lines: npt.NDArray[np.int64],
    ) -> pa.RecordBatch:
        """The same of rows of several files, of which ``told`` tells the same names: the number of the file of each."""

        def number(what: Told) -> pa.Array:
            return pa.array(lines if what == "line" else rows, pa.int64())

        def value(name: str, type_: pa.DataType) -> pa.Array:
            return pa.array([of_file.get(name) for of_file in told], type_).take(pa.array(files))

        return self._made(batch, told[0], number, value)

    def _made(
        self,
        batch: pa.RecordBatch,
        told: Mapping[str, Any],
        number: Callable[[Told], pa.Array],
        value: Callable[[str, pa.DataType], pa.Array],
    ) -> pa.RecordBatch:
        columns = []
        names = list(self.schema.names)
        for name, column in zip(self.names, self.schema, strict=True):
            if (what := self.provenance.get(name)) in _OF_ROWS:
                columns.append(number(what).cast(column.type))
            elif name in self.in_files.names and name not in told:
                columns.append(batch.column(name))
            else:
                columns.append(value(name, column.type))
        if batch.schema.names[-1:] == [REJECT]:
            columns.append(batch.column(REJECT))
            names.append(REJECT)
        return pa.RecordBatch.from_arrays(columns, names)


def _order(lines: pa.Array) -> npt.NDArray[np.int64]:
    """The place of each row in its file: broken ones stand behind the others in a batch."""
    return np.argsort(np.argsort(lines.to_numpy(), kind="stable"), kind="stable")


def shape_of(table: TableSpec, selection: Selection, columns: pa.Schema, hive: pa.Schema) -> Shape:
    """The shape of a table whose files have these columns. Raises ``ConfigError`` for words that name others."""
    provenance = {column: told for told, column in table.files.provenance.items()}
    by_name = [*hive, *selection.columns]
    names = {column.name for column in by_name} | set(provenance)
    taken = sorted(set(columns.names) & set(provenance))
    if taken:
        raise ConfigError(
            f"the files have a column {taken[0]!r}, which provenance names too.",
            remedy=f'give that of provenance another name, such as provenance = {{ {provenance[taken[0]]} = "source_{provenance[taken[0]]}" }}.',
        )
    in_files = [column for column in columns if column.name not in names]
    known = pa.schema(
        [*in_files, *by_name, *(field(name, _type_of(told, name, table)) for name, told in provenance.items())]
    )
    told_by: tuple[Told, ...] = ("file",) if table.format.get("type") == "documents" else ("file", "row")
    key = table.key or tuple(name for told in told_by if (name := table.files.provenance.get(told)))
    if not table.key and len(key) < len(told_by):
        key = ()
    names_read = _with_scope(table, choose_columns(table, known, ()), known)
    schema = pa.schema([known.field(name).with_name(table.target_name(name)) for name in names_read])
    return Shape(
        in_files=pa.schema([column for column in in_files if column.name in names_read]),
        schema=schema,
        names=names_read,
        key=tuple(table.target_name(name) for name in key) if set(key) <= set(names_read) else (),
        known=columns,
        provenance=provenance,
    )


def notices_columns(table: TableSpec) -> bool:
    """Whether a column of a file that its table does not know is noticed."""
    return table.new_columns != "ignore" and table.columns is None


def _type_of(told: Told, column: str, table: TableSpec) -> pa.DataType:
    """The type of a column of provenance; the number of a row is as wide as the target has it."""
    name = table.target_name(column)
    if told in _OF_ROWS and table.existing is not None and name in table.existing.names:
        there = table.existing.field(name).type
        return there if pa.types.is_integer(there) else _TYPES[told]
    return _TYPES[told]


def as_the_target(columns: pa.Schema, table: TableSpec, options: FormatOptions) -> pa.Schema:
    """The columns with the types that the target has: a value is read as what it is stored as, or its row is a reject."""
    if table.existing is None:
        return columns
    found = []
    for column in columns:
        name = table.target_name(column.name)
        there = table.existing.field(name) if name in table.existing.names else None
        decided = column.name in options.types or is_json(column) or pa.types.is_nested(column.type)
        fits = there is not None and not is_json(there) and any(test(there.type) for test in _TAKEN)
        found.append(pa.field(column.name, there.type) if fits and not decided else column)  # type: ignore[union-attr]
    return pa.schema(found)


def _with_scope(table: TableSpec, names: tuple[str, ...], known: pa.Schema) -> tuple[str, ...]:
    """``columns`` chooses among those of the files: what tells where rows come from stays."""
    if table.columns is None:
        return names
    told = [name for name in table.files.provenance.values() if name not in names and name in known.names]
    return (*names, *told)
