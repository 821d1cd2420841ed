"""A folder of files into a table, file by file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import retl
from retl.connectors import LocalFiles, SQLite
from retl.model.errors import RetlError
from retl.model.report import ScanReport


class Scene:
    """A folder, a table of a SQLite file, and a pipeline between them."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "exports"
        self.root.mkdir()
        self.database = folder / "app.db"
        self.words: dict[str, Any] = {"pre_action": "truncate"}

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def pipeline(self) -> retl.Pipeline:
        return retl.Pipeline(
            "files",
            source=LocalFiles(path=str(self.root)),
            target=SQLite(path=str(self.database)),
            tables=[retl.Table("*.csv", to="sales", **self.words)],
        )

    async def scan(self) -> ScanReport:
        report = await self.pipeline().run_once()
        (scan,) = report.scans
        return scan

    def rows(self, sql: str = "SELECT * FROM sales ORDER BY _file, _row") -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(sql).fetchall()

    def entries(self) -> list[str]:
        return [name for (name,) in self.rows("SELECT name FROM retl_manifest ORDER BY name")]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_files_become_rows_with_the_place_that_each_came_from(scene: Scene) -> None:
    scene.write("a.csv", "id,city\n1,Rome\n2,Oslo\n")
    scene.write("b.csv", "id,city\n3,Lima\n")
    report = await scene.scan()
    assert (report.status, report.rows) == ("done", 3)
    assert scene.rows() == [(1, "Rome", "a.csv", 1), (2, "Oslo", "a.csv", 2), (3, "Lima", "b.csv", 1)]
    assert scene.entries() == ["a.csv", "b.csv"]


async def test_an_unchanged_folder_is_not_read_again(scene: Scene) -> None:
    scene.write("a.csv", "id\n1\n")
    await scene.scan()
    report = await scene.scan()
    assert (report.status, report.rows, report.slices) == ("done", 0, 0)


async def test_a_changed_file_replaces_its_own_rows_and_no_others(scene: Scene) -> None:
    scene.write("a.csv", "id\n1\n2\n3\n")
    scene.write("b.csv", "id\n4\n")
    await scene.scan()
    scene.write("a.csv", "id\n1\n9\n")
    report = await scene.scan()
    assert report.rows == 2
    assert scene.rows() == [(1, "a.csv", 1), (9, "a.csv", 2), (4, "b.csv", 1)]


async def test_a_file_that_is_gone_keeps_its_rows(scene: Scene) -> None:
    path = scene.write("a.csv", "id\n1\n")
    scene.write("b.csv", "id\n2\n")
    await scene.scan()
    path.unlink()
    assert (await scene.scan()).rows == 0
    assert scene.rows() == [(1, "a.csv", 1), (2, "b.csv", 1)]


async def test_a_file_that_is_gone_loses_its_rows_where_that_is_asked_for(scene: Scene) -> None:
    scene.words["vanished"] = "delete"
    path = scene.write("a.csv", "id\n1\n")
    scene.write("b.csv", "id\n2\n")
    await scene.scan()
    path.unlink()
    assert (await scene.scan()).status == "done"
    assert scene.rows() == [(2, "b.csv", 1)]
    assert scene.entries() == ["b.csv"]


async def test_an_empty_listing_deletes_nothing_unless_it_is_allowed(scene: Scene) -> None:
    scene.words["vanished"] = "delete"
    path = scene.write("a.csv", "id\n1\n")
    await scene.scan()
    path.unlink()
    with pytest.raises(RetlError, match="are gone, with 1 of the 1 rows"):
        await scene.scan()
    assert scene.rows() == [(1, "a.csv", 1)]
    scene.words["max_shrink"] = "100%"
    await scene.scan()
    assert scene.rows() == [] == scene.entries()
