"""The next large file is fetched while the rows of the one before are written."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

import retl
from retl.connectors.base import Checkpoint, ConnectionFailed, TableSpec
from retl.connectors.files import ahead
from retl.connectors.files.source import FileSource
from retl.connectors.files.store import FileInfo
from retl.state.base import Manifest
from retl.testing.rows import table_spec
from tests.integration.files.stores import Remote

ROWS = 600_000
"""So many make a file that is not small, and several batches: 4 MB."""


class Watched(Remote):
    """Tells when a file has come, and counts how often each was asked for once the scan has begun."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, block=65_536)
        self.asked: list[str] = []
        self.came: dict[str, anyio.Event] = {}
        self.failing: set[str] = set()

    def begin(self, *names: str) -> None:
        self.asked.clear()
        self.came = {name: anyio.Event() for name in names}

    async def read(self, file: FileInfo) -> AsyncGenerator[bytes, None]:
        self.asked.append(file.name)
        if file.name in self.failing:
            self.failing.discard(file.name)
            raise ConnectionFailed("the line was cut, as the test wanted.")
        async with aclosing(super().read(file)) as blocks:
            async for block in blocks:
                yield block
        if file.name in self.came:
            self.came[file.name].set()


@pytest.fixture
def store(tmp_path: Path) -> Watched:
    for number, name in enumerate(("a.csv", "b.csv", "c.csv")):
        lines = "\n".join(map(str, range(number * ROWS, (number + 1) * ROWS)))
        (tmp_path / name).write_text(f"id\n{lines}\n")
    return Watched(tmp_path)


def _table(**words: object) -> TableSpec:
    return table_spec("*.csv", to="t", pre_action="truncate", **words)


async def test_the_next_large_file_comes_while_one_is_read_and_is_asked_for_once(store: Watched) -> None:
    source = FileSource(store)
    manifest = Manifest(retl.MemoryStore(), "p", "t")
    async with source.open_scan(_table(), Checkpoint(), manifest) as scan, aclosing(scan.slices()) as slices:
        store.begin("a.csv", "b.csv")
        rows = []
        first = scan.read(await anext(slices))
        async with aclosing(first) as batches:
            rows.append((await anext(batches)).num_rows)
            await store.came["a.csv"].wait()
            rows.append((await anext(batches)).num_rows)
            rows.append((await anext(batches)).num_rows)  # looks ahead before it goes on
            with anyio.fail_after(30):
                await store.came["b.csv"].wait()
            assert store.asked == ["a.csv", "b.csv"]
            rows += [batch.num_rows async for batch in batches]
        assert sum(rows) == ROWS
        async with aclosing(scan.read(await anext(slices))) as batches:
            ids = [value for batch in [batch async for batch in batches] for value in batch.column("id").to_pylist()]
        assert [int(value) for value in ids] == list(range(ROWS, 2 * ROWS))
        assert store.asked.count("b.csv") == 1
    await source.aclose()


async def test_a_file_that_would_fill_the_disk_is_not_fetched_ahead(
    store: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "_MOST_BYTES", 1_000_000)
    source = FileSource(store)
    async with source.open_scan(_table(), Checkpoint(), Manifest(retl.MemoryStore(), "p", "t")) as scan:
        store.begin()
        async with aclosing(scan.slices()) as slices:
            slice_ = await anext(slices)
            async with aclosing(scan.read(slice_)) as batches:
                rows = sum([batch.num_rows async for batch in batches])
            assert (rows, store.asked) == (ROWS, ["a.csv"])
    await source.aclose()


async def test_what_fails_ahead_is_told_when_its_turn_has_come_and_is_asked_for_again(store: Watched) -> None:
    source = FileSource(store)
    async with source.open_scan(_table(), Checkpoint(), Manifest(retl.MemoryStore(), "p", "t")) as scan:
        store.begin()
        store.failing = {"b.csv"}
        async with aclosing(scan.slices()) as slices:
            slice_ = await anext(slices)
            async with aclosing(scan.read(slice_)) as batches:
                assert sum([batch.num_rows async for batch in batches]) == ROWS
            slice_ = await anext(slices)
            with pytest.raises(ConnectionFailed):
                async with aclosing(scan.read(slice_)) as batches:
                    await anext(batches)
            async with aclosing(scan.read(slice_)) as batches:
                assert sum([batch.num_rows async for batch in batches]) == ROWS
        assert store.asked == ["a.csv", "b.csv", "b.csv", "c.csv"]
    await source.aclose()


async def test_a_scan_that_is_left_fetches_no_more(store: Watched) -> None:
    """The file that was kept, and the task that filled it, are gone: see the fixtures that every test has."""
    source = FileSource(store)
    async with source.open_scan(_table(), Checkpoint(), Manifest(retl.MemoryStore(), "p", "t")) as scan:
        store.begin("a.csv")
        async with aclosing(scan.slices()) as slices, aclosing(scan.read(await anext(slices))) as batches:
            await anext(batches)
            await store.came["a.csv"].wait()
            await anext(batches)
            await anext(batches)
    assert store.read_at_once == 0
    await source.aclose()
