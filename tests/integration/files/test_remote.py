"""Files that come over a line: fetched under one identity, several at once, dropped whole where they change."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import anyio
import anyio.from_thread
import pytest

from retl.connectors.files.source import FileSource
from retl.model.errors import ConnectionFailed
from tests.integration.files.folder import Folder
from tests.integration.files.stores import Remote, changing, cut
from tests.routes.ends import SQLiteEnd


@pytest.fixture
def folder(tmp_path: Path, at_once: None) -> Folder:
    found = Folder(tmp_path, SQLiteEnd(tmp_path / "app.db"))
    found.store = Remote(found.root)
    return found


async def test_a_file_that_changes_while_it_is_read_is_dropped_whole_and_taken_next(folder: Folder) -> None:
    folder.write("a.csv", "id", *map(str, range(100)))
    folder.write("b.csv", "id", "1000")
    await folder.scan()
    folder.write("a.csv", "id", *map(str, range(100, 200)))
    folder.write("0.csv", "id", "2000")
    (folder.root / "b.csv").unlink()
    changing(folder.store, "a.csv", lambda: folder.write("a.csv", "id", *map(str, range(200, 300))))
    report = await folder.scan()
    assert report.status == "done"
    assert any("a.csv" in warning and "changed" in warning for warning in report.warnings)
    assert folder.rows("id") == [(number,) for number in [*range(100), 1000, 2000]]
    await folder.scan()
    assert folder.rows("id") == [(number,) for number in [*range(200, 300), 1000, 2000]]


@pytest.mark.parametrize("how", ["cut", "grown", "deleted"])
async def test_a_large_file_that_changes_leaves_nothing_of_it(folder: Folder, how: str) -> None:
    lines = [str(number) for number in range(300_000)]
    path = folder.write("large.csv", "id", *lines)
    folder.write("z.csv", "id", "-1")
    folder.store = Remote(folder.root, block=65_536)

    def change() -> None:
        if how == "cut":
            os.truncate(path, 1_500_000)
        elif how == "grown":
            with path.open("a") as file:
                file.write("7\n")
        else:
            path.unlink()

    changing(folder.store, "large.csv", change, at_block=15)
    report = await folder.scan()
    assert (report.status, folder.rows("id")) == ("done", [(-1,)])
    assert folder.entries() == [("z.csv", 1)]


async def test_several_files_are_fetched_while_one_is_written(folder: Folder) -> None:
    for number in range(20):
        folder.write(f"{number:02}.csv", "id", str(number))
    await folder.scan()
    assert folder.rows("id") == [(number,) for number in range(20)]
    assert 2 <= folder.store.most_at_once <= 4


async def test_a_line_that_is_cut_is_tried_again(folder: Folder) -> None:
    folder.write("a.csv", "id", *map(str, range(1000)))
    await folder.scan()
    folder.write("a.csv", "id", *map(str, range(1000, 2000)))
    failures = iter([True])

    def on_block(name: str, number: int) -> None:
        if number == 10 and next(failures, False):
            raise cut(name)

    folder.store.on_block = on_block
    report = await folder.scan()
    assert (report.status, folder.rows("id")) == ("done", [(number,) for number in range(1000, 2000)])


async def test_a_store_that_fails_for_good_fails_the_scan_and_not_a_file(folder: Folder) -> None:
    folder.write("a.csv", "id", "1")

    def on_block(name: str, number: int) -> None:
        raise cut(name)

    folder.store.on_block = on_block
    with pytest.raises(ConnectionFailed):
        await folder.scan()


async def test_a_scan_that_is_cancelled_leaves_no_task_and_no_thread(folder: Folder) -> None:
    for number in range(20):
        folder.write(f"{number:02}.csv", "id", *map(str, range(100)))
    seen = anyio.Event()
    folder.store.on_block = lambda name, number: anyio.from_thread.run_sync(seen.set)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(folder.scan)
        await seen.wait()
        tasks.cancel_scope.cancel()
    assert folder.store.read_at_once == 0
    folder.store.on_block = None
    await folder.scan()
    assert len(folder.rows("id")) == 2000


@pytest.mark.parametrize("rows", [1, 200_000])
async def test_a_file_is_hashed_whole_before_its_rows_are_told(folder: Folder, rows: int) -> None:
    """One that is held in memory, and one that is spooled."""
    folder.words["provenance"] = {"hash": "sha"}
    path = folder.write("a.csv", "id", *map(str, range(rows)))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    await folder.scan()
    found = folder.rows("id", "sha")
    assert (len(found), {sha for _, sha in found}) == (rows, {digest})


async def test_links_that_are_not_followed_are_counted_and_named(folder: Folder, tmp_path: Path) -> None:
    folder.write("a.csv", "id", "1")
    (tmp_path / "secret.csv").write_text("id\n2\n")
    for number in range(5):
        (folder.root / f"l{number}.csv").symlink_to(tmp_path / "secret.csv")
    report = await folder.scan()
    assert folder.rows("id") == [(1,)]
    (warning,) = report.warnings
    assert re.fullmatch(
        r"5 links lead out of the root, in a circle or nowhere, and are not followed: (l\d.csv, ){3}\.\.\.", warning
    )


def test_a_source_is_a_door(folder: Folder) -> None:
    assert FileSource(folder.store).system == "remote"
