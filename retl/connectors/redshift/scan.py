"""Scans of Redshift: bounds, counts and rows of one snapshot, and a way to read that fits their size."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Self

import msgspec
import pyarrow as pa

from retl.connectors.redshift.dialect import UNLOADED
from retl.connectors.redshift.reader import RedshiftReader, Way
from retl.connectors.redshift.unload import statement as unload_statement
from retl.connectors.sql.scan import SqlScan
from retl.connectors.sql.selection import Selection
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError
from retl.model.schema import native_type
from retl.model.table import TableSpec
from retl.model.window import Slice

MB = 1_000_000
_WHOLE_BYTES = 8 * MB
"""Up to this much, an answer is kept in memory as a whole."""
_UNLOAD_BYTES = 256 * MB
"""From here on UNLOAD is faster than a cursor, where there is a bucket."""
_CAPS_MB = {"one": 8_000, "many": 150_000}
"""The least that a cursor's result may have, of all node types with one node, or with more."""
_CAP_SHARE = 0.5
"""Estimates are rough: the share of the cap from which a result is called too large for a cursor."""
_WIDTHS = {"super": 512, "geometry": 512, "geography": 512, "varbyte": 256}
_LONGEST_GUESS = 128


class RedshiftScan(SqlScan[RedshiftReader]):
    """One scan. What was counted is what must come."""

    _cap_bytes: int = 0

    @classmethod
    async def begin(cls, reader: RedshiftReader, table: TableSpec, checkpoint: Checkpoint) -> Self:
        if reader.reading.read == "unload" and reader.folder is None:
            raise ConfigError(
                'read = "unload" needs a bucket.', remedy='name it: unload = { url = "s3://bucket/prefix" }.'
            )
        scan = await super().begin(reader, table, checkpoint)
        known = reader.reading.cursor_cap_mb
        scan._cap_bytes = MB * (known or _CAPS_MB["one" if await reader.nodes() == 1 else "many"])
        slices = [await scan._counted(slice_) for slice_ in scan.plan.slices]
        rows = sum(slice_.rows or 0 for slice_ in slices)
        scan.plan = dataclasses.replace(scan.plan, slices=tuple(slices), rows=rows, exact_rows=True, unique_key=False)
        scan.plan = dataclasses.replace(scan.plan, statements=scan._told(), warnings=scan._warnings())
        return scan

    async def _counted(self, slice_: Slice) -> Slice:
        """The slice with its rows as they are in the snapshot; how a hash divides them was guessed."""
        if slice_.modulus == 1 and slice_.rows is not None:
            return slice_
        return msgspec.structs.replace(slice_, rows=await self.recount(slice_))

    def way(self, slice_: Slice) -> Way:
        """How a slice is read."""
        wanted = self._reader.reading.read
        if wanted != "auto":
            return wanted
        estimate = self._bytes(slice_)
        if estimate <= _WHOLE_BYTES:
            return "whole"
        most = min(_UNLOAD_BYTES, _CAP_SHARE * self._cap_bytes)
        return "unload" if estimate > most and self._reader.folder is not None else "cursor"

    def selection(self, slice_: Slice) -> Selection:
        unloaded = hasattr(self, "plan") and self.way(slice_) == "unload"
        return dataclasses.replace(self._chosen, dialect=UNLOADED) if unloaded else self._chosen

    async def read(self, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        if slice_.rows == 0:
            return  # the snapshot has none
        rows = self._reader.rows(self.statement(slice_), self._schema, self.way(slice_), slice_.rows)
        async with aclosing(rows) as batches:
            async for batch in batches:
                yield batch

    def _bytes(self, slice_: Slice) -> int:
        return (slice_.rows or 0) * sum(map(_width, self._schema))

    def _told(self) -> tuple[str, ...]:
        """What will be asked, and how the rows will come."""
        asked = self.plan.statements[:-1] if self.plan.slices and self._table.cursor else ()
        if not self.plan.slices:
            return self.plan.statements
        largest = max(self.plan.slices, key=self._bytes)
        way, sql = self.way(largest), self.statement(largest)
        size = f"about {self._bytes(largest) / MB:,.0f} MB a slice"
        if way == "unload" and self._reader.folder is not None:
            folder = self._reader.folder
            return (*asked, f"-- by UNLOAD, {size}", unload_statement(sql, folder.options, folder.path))
        return (*asked, f"-- {'in one answer' if way == 'whole' else 'by a cursor, FETCH 1,000'}, {size}", sql)

    def _warnings(self) -> tuple[str, ...]:
        warnings = list(self.plan.warnings)
        largest = max(map(self._bytes, self.plan.slices), default=0)
        if largest > _CAP_SHARE * self._cap_bytes and self._reader.folder is None:
            warnings.append(
                f"a slice may have {largest / MB:,.0f} MB, and the cluster refuses a cursor's result above {self._cap_bytes / MB:,.0f} MB: "
                'read it through a bucket, unload = { url = "s3://bucket/prefix" }.'
            )
        return tuple(warnings)


def _width(column: pa.Field) -> int:
    """A guess of a value's bytes."""
    kind, native = column.type, native_type(column)
    if native in _WIDTHS:
        return _WIDTHS[native]
    if pa.types.is_string(kind):
        declared = native.rpartition("(")[2].rstrip(")")
        return min(_LONGEST_GUESS, int(declared) if declared.isdigit() else _LONGEST_GUESS)
    return 16 if pa.types.is_decimal(kind) or pa.types.is_temporal(kind) else 8
