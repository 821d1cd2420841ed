"""A table as a connector is given it, and the rows of a slice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any

import pyarrow as pa

from retl.connectors.base import REJECT, SourceScan
from retl.model.errors import SourceError
from retl.model.manifest import ManifestEntry
from retl.model.options import TableOptions
from retl.model.table import Table, TableSpec, resolve
from retl.model.window import Slice
from retl.state.base import Manifest


def table_spec(name: str, **words: Any) -> TableSpec:
    """A table as the engine hands it to a connector: ``table_spec("orders", cursor="updated_at")``."""
    return resolve(Table(name=name, **words), name, TableOptions(), frozenset(), inherited_cursor=None)


async def read_slice(scan: SourceScan, slice_: Slice) -> pa.Table:
    """The rows of one slice, in their logical types."""
    async with aclosing(scan.read(slice_)) as batches:
        return as_table([batch async for batch in batches], scan.plan.schema)


def manifest_of(*entries: ManifestEntry) -> Manifest:
    """A manifest that holds these entries."""
    return _ManifestOf(entries)


class _ManifestOf(Manifest):
    def __init__(self, entries: Iterable[ManifestEntry]) -> None:
        self._entries = sorted(entries, key=lambda entry: entry.name)

    async def __aiter__(self) -> AsyncIterator[ManifestEntry]:
        for entry in self._entries:
            yield entry


def as_table(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """Batches, of which a column may be canonical text, as one table of the schema's types.

    Raises ``SourceError`` with the reason of a row that no target can be given.
    """
    batches = list(batches)
    for batch in batches:
        if batch.schema.names[-1:] == [REJECT]:
            raise SourceError(str(batch.column(REJECT).drop_null()[0]["reason"]))
    tables = [
        pa.Table.from_arrays(
            [
                array if array.type == column.type else array.cast(column.type)
                for array, column in zip(batch.columns, schema, strict=True)
            ],
            schema=schema,
        )
        for batch in batches
    ]
    return pa.concat_tables([schema.empty_table(), *tables])
