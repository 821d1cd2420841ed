"""What a row tells of its place: ``row`` counts, ``line`` is what a reject names."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.files.folder import Folder
from tests.routes.ends import SQLiteEnd


@pytest.fixture
def folder(tmp_path: Path, at_once: None) -> Folder:
    found = Folder(tmp_path, SQLiteEnd(tmp_path / "app.db"))
    found.words["provenance"] = {"line": "_line"}
    return found


async def test_the_line_is_that_in_which_a_row_begins_and_that_a_reject_names(folder: Folder) -> None:
    folder.words.update(format={"skip_lines": 2, "comment": "#", "types": {"id": "integer"}}, max_rejects=2)
    folder.write("a.csv", "a title", "of two lines", "id,text", '1,"two', 'lines"', "# no row", "2,x", "three,y", "4,z")
    report = await folder.scan()
    assert (report.rows, report.rejects) == (4, 1)
    assert folder.rows("id", "text", "_row", "_line") == [(1, "two\nlines", 1, 4), (2, "x", 2, 7), (4, "z", 4, 9)]
    assert "line 8: 'three' is not of type int64" in (await rejected(folder))


async def rejected(folder: Folder) -> str:
    ((reason,),) = folder.target.rows("retl_rejects", "reason")
    return str(reason)


async def test_a_broken_row_counts_where_it_stands(folder: Folder) -> None:
    folder.words["max_rejects"] = 2
    folder.write("a.csv", "id,n", "1,1", "2,2,2", "3,3", "4", "5,5")
    await folder.scan()
    assert folder.rows("id", "_row", "_line") == [(1, 1, 2), (3, 3, 4), (5, 5, 6)]


async def test_rows_that_are_filled_up_keep_their_place(folder: Folder) -> None:
    folder.words["format"] = {"ragged": "fill"}
    folder.write("a.csv", "id,n", "1", "2,2", "3", "4,4")
    await folder.scan()
    assert folder.rows("id", "_row", "_line") == [(number, number, number + 1) for number in range(1, 5)]


async def test_documents_of_one_line_have_numbers_of_their_own(folder: Folder) -> None:
    folder.pattern = "*"
    folder.write("a.json", '[{"id": 1}, {"id": 2},', '{"id": 3}]')
    folder.write("b.jsonl", '{"id": 4}', "", '{"id": 5}')
    await folder.scan()
    assert folder.rows("id", "_row", "_line") == [(1, 1, 1), (2, 2, 1), (3, 3, 2), (4, 1, 1), (5, 2, 3)]


async def test_where_there_are_no_lines_the_line_is_the_row(folder: Folder) -> None:
    folder.pattern = "*"
    pq.write_table(pa.table({"id": [7, 8]}), folder.root / "a.parquet")
    await folder.scan()
    assert folder.rows("id", "_row", "_line") == [(7, 1, 1), (8, 2, 2)]
