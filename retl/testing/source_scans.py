"""The contract of a source: several scans at once, and scans that are left early."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing

import anyio
import pyarrow as pa
import pytest

from retl.connectors.base import Source, SourceScan
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError
from retl.model.table import TableSpec
from retl.testing.oracle import in_order
from retl.testing.rows import as_table, manifest_of, table_spec
from retl.testing.scans import collect
from retl.testing.source_base import FULL, TABLE, Row, SourceBase, rows_of, table_of
from retl.testing.source_ranges import SourceRanges
from retl.testing.source_reads import SourceReads
from retl.testing.source_windows import SourceWindows

_OTHER = "contract_people"


class SourceScans(SourceBase):
    """A source is a door: nothing of a scan stays in it, and no scan disturbs another."""

    async def test_two_scans_of_one_table_read_side_by_side(self) -> None:
        rows = rows_of(range(self.many_rows))
        async with self.opened(rows) as source, AsyncExitStack() as stack:
            scans = [await stack.enter_async_context(_scan(source.source, FULL)) for _ in range(2)]
            found: list[list[pa.RecordBatch]] = [[], []]
            readers = [aclosing(scan.read(scan.plan.slices[0])) for scan in scans]
            streams = [await stack.enter_async_context(reader) for reader in readers]
            for taken, stream in zip(found, streams, strict=True):
                taken.append(await anext(stream))
            for taken, stream in zip(found, streams, strict=True):
                taken.extend([batch async for batch in stream])
            for scan, taken in zip(scans, found, strict=True):
                rest = [batch for slice_ in scan.plan.slices[1:] async for batch in scan.read(slice_)]
                assert _rows(scan, [*taken, *rest]) == in_order(rows)

    async def test_scans_of_two_tables_run_at_once(self) -> None:
        tables = {TABLE: rows_of(range(1, 2_001)), _OTHER: rows_of(range(5_001, 7_001), name="other")}
        await self.create(_OTHER, table_of(tables[_OTHER]))
        found: dict[str, list[Row]] = {}
        async with self.opened(tables[TABLE]) as source:

            async def read(name: str) -> None:
                table = self.scanned(slice_rows=300) if name == TABLE else table_spec(name, key="id")
                async with _scan(source.source, table) as scan:
                    batches = [batch for slice_ in scan.plan.slices async for batch in scan.read(slice_)]
                    found[name] = _rows(scan, batches)

            async with anyio.create_task_group() as tasks:
                for name in tables:
                    tasks.start_soon(read, name)
        assert found == {name: in_order(rows) for name, rows in tables.items()}

    @pytest.mark.parametrize("how", ["error", "cancel"])
    async def test_a_scan_that_is_left_early_holds_nothing_any_more(self, how: str) -> None:
        """The table can be changed and dropped, and the source goes on."""
        async with self.opened(rows_of(range(self.many_rows))) as source:
            with anyio.CancelScope() as cancelling:
                try:
                    async with _scan(source.source, FULL) as scan, aclosing(scan.read(scan.plan.slices[0])) as batches:
                        await anext(batches)
                        if how == "error":
                            raise LookupError
                        cancelling.cancel()
                        await anyio.sleep_forever()
                except LookupError:
                    pass
            assert (await source.ping()).product
            await source.leave()
            await self.drop(TABLE)
            await self.create(TABLE, table_of(rows_of([1])))
            assert (await collect(source, FULL)).to_pylist() == rows_of([1])

    @pytest.mark.parametrize("words", [{"cursor": "updated_at"}, {"cursor": "id", "lookback": 5}])
    async def test_a_source_without_a_cursor_refuses_the_words_of_one(self, words: dict[str, object]) -> None:
        if self.has_cursor:
            pytest.skip("this source has a cursor")
        async with self.opened(rows_of([1])) as source:
            with pytest.raises(ConfigError):
                await source.plan(table_spec(TABLE, key="id", **words))


class SourceContract(SourceReads, SourceWindows, SourceRanges, SourceScans):
    """Holds a source to every sentence of ``retl.connectors.base``.

    Inherit it in a test module, under a name that begins with ``Test``, and fill in the
    hooks: ``source``, ``create``, ``change``, ``drop`` and, where there is such a thing,
    ``unreachable``. They are told what they must do in ``retl.testing.source_base``.
    """


def _scan(source: Source, table: TableSpec) -> AbstractAsyncContextManager[SourceScan]:
    return source.open_scan(table, Checkpoint(), manifest_of())


def _rows(scan: SourceScan, batches: list[pa.RecordBatch]) -> list[Row]:
    return in_order(as_table(batches, scan.plan.schema).to_pylist())
