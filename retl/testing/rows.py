"""Reading a source to its end, and rows to compare."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from typing import Any

import pyarrow as pa

from retl.connectors.base import REJECT, Connector, Source
from retl.model.checkpoint import Checkpoint
from retl.model.errors import SourceError
from retl.model.plan import SourcePlan
from retl.model.table import Table, TableOptions, TableSpec, resolve
from retl.model.window import Slice


def table_spec(name: str, **words: Any) -> TableSpec:
    """A table as the engine hands it to a connector: ``table_spec("orders", cursor="updated_at")``."""
    return resolve(Table(name=name, **words), name, TableOptions(), frozenset(), inherited_cursor=None)


async def collect(source: Source | Connector, table: str | TableSpec, checkpoint: Checkpoint | None = None) -> pa.Table:
    """Everything that one scan reads of a table, in its logical types. Closes a connector that it opened itself."""
    opened = source.source() if isinstance(source, Connector) else source
    try:
        spec = table_spec(table) if isinstance(table, str) else table
        plan = await opened.plan(spec, checkpoint or Checkpoint())
        parts = [await read_slice(opened, plan, slice_) for slice_ in plan.slices]
        return pa.concat_tables([plan.schema.empty_table(), *parts])
    finally:
        if isinstance(source, Connector):
            await opened.aclose()
        else:
            await opened.release()


async def read_slice(source: Source, plan: SourcePlan, slice_: Slice) -> pa.Table:
    """The rows of one slice, in their logical types."""
    async with aclosing(source.read(plan, slice_)) as batches:  # type: ignore[type-var]
        return as_table([batch async for batch in batches], plan.schema)


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
