"""What has changed is found by two sorted streams, however long they are."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest

from retl.connectors.files.manifest import Counts, Difference, compare
from retl.connectors.files.selection import Selection
from retl.connectors.files.source import FileSource
from retl.connectors.files.store import FileInfo
from retl.model.checkpoint import Checkpoint, Fence, FencedCheckpoint
from retl.model.errors import SourceError
from retl.model.manifest import ManifestChange, ManifestEntry
from retl.state.base import Manifest
from retl.state.sqlite import SqliteStore
from retl.testing import table_spec
from tests.integration.files.stores import Endless


def file(name: str, identity: str = "1") -> FileInfo:
    return FileInfo(name, 10, None, identity)


def entry(name: str, identity: str = "1", rows: int = 0) -> ManifestEntry:
    return ManifestEntry(name=name, identity=identity, rows=rows)


async def pages(*files: FileInfo) -> AsyncGenerator[list[FileInfo], None]:
    for start in range(0, len(files), 2):
        yield list(files[start : start + 2])


async def entries(*known: ManifestEntry) -> AsyncGenerator[ManifestEntry, None]:
    for one in known:
        yield one


async def differences(
    files: Sequence[FileInfo], known: Sequence[ManifestEntry], **words: object
) -> tuple[list[Difference], Counts]:
    counts = Counts()
    selection = Selection(table_spec("**", **words))
    found = compare(pages(*files), entries(*known), selection, counts)
    return [one async for page in found for one in page], counts


async def test_new_changed_and_vanished_files_are_told_apart() -> None:
    files = [file("a"), file("c", "2"), file("d"), file("e")]
    known = [entry("b", rows=3), entry("c"), entry("d"), entry("f", rows=4)]
    found, counts = await differences(files, known)
    assert [(one.name, one.file is None, one.entry is None) for one in found] == [
        ("a", False, True),
        ("b", True, False),
        ("c", False, False),
        ("e", False, True),
        ("f", True, False),
    ]
    assert (counts.new, counts.changed, counts.unchanged, counts.vanished) == (2, 1, 1, 2)
    assert (counts.vanished_rows, counts.known, counts.known_rows) == (7, 4, 7)


async def test_files_that_are_archived_waiting_or_of_others_have_not_vanished() -> None:
    files = [FileInfo("a", 10, None, "2", archived=True), file("b.tmp"), file("c", "2")]
    known = [entry("a"), entry("b.tmp"), entry("c")]
    found, counts = await differences(files, known, ignore="c")
    assert (found, counts.vanished, counts.archived) == ([], 0, 1)


async def test_a_listing_out_of_order_is_an_error() -> None:
    with pytest.raises(SourceError, match="not in the order of names"):
        await differences([file("b"), file("a")], [])


async def test_names_are_ordered_by_code_points() -> None:
    names = ["A", "a", "\u00e9", "\ue000", "\U0001f600"]
    found, _ = await differences([file(name) for name in names], [entry(name) for name in names])
    assert found == []


async def test_a_million_files_need_no_more_memory_than_a_few() -> None:
    async def peak(number: int) -> int:
        store = Endless(number)

        async def known() -> AsyncGenerator[ManifestEntry, None]:
            for one in range(number):
                listed = store.file(one)
                yield entry(listed.name, listed.identity)

        counts = Counts()
        tracemalloc.start()
        try:
            async for page in compare(store.list(), known(), Selection(table_spec("**")), counts):
                assert page == []
            assert counts.unchanged == number
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = await peak(3_000), await peak(50_000)
    assert many < few * 1.5


async def test_an_unchanged_tree_of_100_000_costs_the_listing_and_a_few_statements(tmp_path: Path) -> None:
    endless = Endless(100_000)
    files = FileSource(endless)
    table = table_spec("tree/*.csv", pre_action="truncate")
    store = SqliteStore(tmp_path / "state.db")
    asked = 0

    try:
        fence = await store.take_lease(await store.read_lease("p"), "me", 30.0)
        assert fence is not None
        async with files.open_scan(table, Checkpoint(), Manifest(store, "p", "t")) as scan:
            checkpoint = Checkpoint(scan_id="1", detail=scan.plan.finished)
        await _fill(store, fence, endless, checkpoint)
        read = store._bodies

        async def counted(*arguments: Any) -> list[Any]:
            nonlocal asked
            asked += 1
            return await read(*arguments)

        store._bodies = counted  # type: ignore[method-assign, assignment]
        endless.listings = 0
        async with files.open_scan(table, checkpoint, Manifest(store, "p", "t")) as scan:
            assert [slice_ async for slice_ in scan.slices()] == []
        assert (endless.listings, asked) == (1, 1)
    finally:
        await store.aclose()


async def _fill(store: SqliteStore, fence: Fence, endless: Endless, checkpoint: Checkpoint) -> None:
    listed = [endless.file(number) for number in range(endless.files)]
    put = tuple(entry(one.name, one.identity, rows=1) for one in listed)
    await store.save(FencedCheckpoint(fence, "t", checkpoint, ManifestChange(put=put)))
