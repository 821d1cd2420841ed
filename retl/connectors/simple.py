"""A source in forty lines: one that names its tables, describes them and reads them whole."""

from __future__ import annotations

import difflib
from abc import abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager

import pyarrow as pa

from retl.connectors.base import Source, SourceScan, SystemInfo
from retl.connectors.rows.columns import choose_columns
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError, RetlError, SourceError, UnsupportedError
from retl.model.plan import SourcePlan
from retl.model.schema import TableSchema
from retl.model.table import TableSpec
from retl.model.window import Slice
from retl.state.base import Manifest

_BATCH_ROWS = 16_384
_CURSOR_WORDS = ("cursor", "lookback", "settle")
_COMPUTING_WORDS = ("query", "where", "expressions", "format")


class FullScanSource(Source):
    """A source whose scans read a whole table each time.

    Write ``list_tables``, ``describe`` and ``read_table``; set ``system``. Columns, renames, keys and
    the refusal of what such a source cannot do are done here.
    """

    @abstractmethod
    def read_table(self, table: str, columns: Sequence[str]) -> AsyncGenerator[pa.RecordBatch, None]:
        """All rows of a table, in batches. A batch has at least these columns, with the types of ``describe`` or as text.

        It is closed early where the scan ends early, and called again where it is tried again. Raise
        ``ConnectionFailed`` for what may pass; any other exception ends the scan as a ``SourceError``.
        """

    async def ping(self) -> SystemInfo:
        await self.list_tables()
        return SystemInfo(self.system, "")

    @asynccontextmanager
    async def open_scan(
        self, table: TableSpec, checkpoint: Checkpoint, manifest: Manifest
    ) -> AsyncGenerator[SourceScan, None]:
        self._check_words(table)
        found = await self.describe(table.name)
        if found is None:
            close = difflib.get_close_matches(table.name, await self.list_tables(), n=1)
            raise ConfigError(
                f"there is no table {table.name!r}.",
                remedy=f"did you mean {close[0]!r}?" if close else "check the table's name.",
            )
        yield _FullScan(self, _plan(table, found), choose_columns(table, found.columns, found.key))

    def _check_words(self, table: TableSpec) -> None:
        for word in (*_CURSOR_WORDS, *_COMPUTING_WORDS):
            if getattr(table, word):
                full = "leave it out, or say cursor = false: every scan reads the whole table."
                raise UnsupportedError(
                    f"{word} has no meaning for {self.system}.",
                    remedy=full if word in _CURSOR_WORDS else "leave it out, and compute in the target.",
                )

    async def aclose(self) -> None:
        return None


def _plan(table: TableSpec, found: TableSchema) -> SourcePlan:
    names = choose_columns(table, found.columns, found.key)
    schema = pa.schema([found.columns.field(name).with_name(table.target_name(name)) for name in names])
    key = tuple(table.target_name(name) for name in table.key or found.key)
    return SourcePlan(
        table=table,
        schema=schema,
        key=key if set(key) <= set(schema.names) else (),
        slices=(Slice(index=0, divisible=True),),
        unique_key=bool(found.key) and set(found.key) <= set(table.key or found.key),
        statements=(f"read {table.name}: {', '.join(names)}",),
    )


class _FullScan(SourceScan):
    def __init__(self, source: FullScanSource, plan: SourcePlan, columns: Sequence[str]) -> None:
        self.plan = plan
        self._source = source
        self._columns = list(columns)

    async def read(self, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        async with aclosing(self._source.read_table(self.plan.table.name, self._columns)) as batches:
            while (batch := await self._next(batches)) is not None:
                for start in range(0, batch.num_rows, _BATCH_ROWS):
                    yield self._promised(batch.slice(start, _BATCH_ROWS))

    async def _next(self, batches: AsyncGenerator[pa.RecordBatch, None]) -> pa.RecordBatch | None:
        try:
            return await anext(batches, None)
        except RetlError:
            raise
        except Exception as error:  # the author's code, and whatever it calls
            raise SourceError(
                f"read_table failed: {type(error).__name__}: {error}", system=self._source.system
            ) from error

    def _promised(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The chosen columns, under the target's names."""
        absent = [name for name in self._columns if name not in batch.schema.names]
        if absent:
            raise SourceError(f"a batch came without the column {absent[0]!r}.", system=self._source.system)
        return pa.RecordBatch.from_arrays([batch.column(name) for name in self._columns], self.plan.schema.names)
