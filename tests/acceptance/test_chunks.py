"""Documents into a table of each system, chunk by chunk: what is written, what stays, and what leaves."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

import retl
from retl.connectors import LocalFiles, SQLite
from retl.model.errors import ConfigError
from retl.model.report import ScanReport
from tests.routes.ends import PostgresEnd, ServerEnd, SqlEnd, SQLiteEnd
from tests.routes.fixtures import make_end
from tests.routes.route import End, Row

TARGETS = ("sqlite", "duckdb", "mysql", "mariadb", "postgres", "postgres15")


class Shelf:
    """A table of documents in SQLite, and a table of their chunks in a target."""

    def __init__(self, folder: Path, target: End) -> None:
        self.path = folder / "shelf.db"
        self.target = target
        self.words: dict[str, Any] = {"cursor": "changed", "chunks": retl.Chunks(size=200)}
        self._clock = 0
        self.run("CREATE TABLE docs (id INTEGER PRIMARY KEY, title TEXT, body TEXT, changed INTEGER)")

    def run(self, sql: str, *values: Any) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(sql, values)

    def put(self, number: int, *sections: str, title: str = "Title") -> None:
        self._clock += 1
        text = "\n\n".join(sections)
        self.run("INSERT OR REPLACE INTO docs VALUES (?, ?, ?, ?)", number, title, text, self._clock)

    def pipeline(self, **options: Any) -> retl.Pipeline:
        table = retl.Table("docs", to=self.target.called("chunks"), **self.words)
        return retl.Pipeline(
            "shelf", source=SQLite(path=str(self.path)), target=self.target.connector(), tables=[table], **options
        )

    async def scan(self, **options: Any) -> ScanReport:
        (report,) = (await self.pipeline(**options).run_once()).scans
        return report

    def rows(self, *columns: str) -> list[Row]:
        return sorted(self.target.rows("chunks", *(columns or ("document", "position", "heading_path", "content"))))


@pytest.fixture(params=TARGETS)
def shelf(request: pytest.FixtureRequest, tmp_path: Path, at_once: None) -> Iterator[Shelf]:
    with ExitStack() as stack:
        yield Shelf(tmp_path, make_end(request.param, "app", request, tmp_path, stack))


async def test_each_document_becomes_its_chunks(shelf: Shelf) -> None:
    shelf.put(1, "# A\n\nfirst", "# B\n\nsecond", title="One")
    shelf.put(2, "alone", title="Two")
    report = await shelf.scan()
    assert (report.status, report.rows) == ("done", 3)
    assert shelf.rows("document", "document_id", "title", "position", "heading_path", "content") == [
        ("1", 1, "One", 0, "A", "# A\n\nfirst"),
        ("1", 1, "One", 1, "B", "# B\n\nsecond"),
        ("2", 2, "Two", 0, None, "alone"),
    ]


async def test_only_changed_chunks_are_written_and_those_that_vanished_leave(shelf: Shelf) -> None:
    shelf.put(1, "# A\n\nfirst", "# B\n\nsecond", "# C\n\nthird")
    shelf.put(2, "alone")
    await shelf.scan()
    ids: dict[Any, Any] = dict(shelf.rows("content", "id"))
    shelf.put(1, "# A\n\nfirst", "# B\n\nchanged", "# C\n\nthird")
    report = await shelf.scan()
    assert (report.changed, report.unchanged) == (2, report.rows - 2)  # the third has moved by a character
    shelf.put(1, "# A\n\nfirst")
    await shelf.scan()
    assert shelf.rows() == [("1", 0, "A", "# A\n\nfirst"), ("2", 0, None, "alone")]
    assert {content: ids[content] for content, _ in shelf.rows("content", "id")} == dict(shelf.rows("content", "id"))


async def test_a_document_that_loses_its_text_loses_its_chunks(shelf: Shelf) -> None:
    shelf.put(1, "text")
    shelf.put(2, "other")
    await shelf.scan()
    shelf.put(1)
    report = await shelf.scan()
    assert report.status == "done"
    assert shelf.rows("document") == [("2",)]


async def test_names_that_differ_in_case_alone_are_two_documents(shelf: Shelf) -> None:
    shelf.run("CREATE TABLE named (name TEXT NOT NULL PRIMARY KEY, body TEXT, changed INTEGER)")
    for name in ("a", "A"):
        shelf.run("INSERT INTO named VALUES (?, 'text', 1)", name)
    table = retl.Table("named", to=shelf.target.called("chunks"), **shelf.words)
    source, target = SQLite(path=str(shelf.path)), shelf.target.connector()
    pipeline = retl.Pipeline("named", source=source, target=target, tables=[table])
    await pipeline.run_once()
    shelf.run("UPDATE named SET body = 'new', changed = 2 WHERE name = 'a'")
    await pipeline.run_once()
    assert shelf.rows("document", "content") == [("A", "text"), ("a", "new")]


@pytest.mark.parametrize("shelf", ["sqlite", "mysql", "mariadb", "postgres"], indirect=True)
async def test_a_new_table_finds_the_chunks_of_a_document_by_an_index(shelf: Shelf) -> None:
    shelf.put(1, "text")
    await shelf.scan()
    assert isinstance(shelf.target, SqlEnd)
    asked = {
        SQLiteEnd: "SELECT i.name FROM pragma_index_list('chunks') AS l, pragma_index_info(l.name) AS i WHERE l.origin = 'c'",
        ServerEnd: "SELECT column_name FROM information_schema.statistics WHERE table_name = 'chunks' "
        "AND table_schema = DATABASE() AND index_name <> 'PRIMARY'",
        PostgresEnd: "SELECT substring(indexdef FROM '[(](.*)[)]') FROM pg_indexes WHERE tablename = 'chunks' "
        "AND indexname NOT LIKE '%pkey'",
    }[type(shelf.target)]
    assert shelf.target.run(asked) == [("document",)]
    shelf.put(1, "other")
    await shelf.scan()
    assert shelf.rows("content") == [("other",)]


async def test_a_full_scan_keeps_what_has_not_changed(shelf: Shelf) -> None:
    del shelf.words["cursor"]
    shelf.words["exclude"] = ["changed"]
    shelf.put(1, "# A\n\nfirst", "# B\n\nsecond")
    await shelf.scan()
    shelf.put(1, "# A\n\nfirst", "# B\n\nother")
    report = await shelf.scan()
    assert (report.rows, report.changed, report.unchanged) == (2, 1, 1)
    assert shelf.rows("content") == [("# A\n\nfirst",), ("# B\n\nother",)]


@pytest.mark.parametrize("pre_action", ["mirror", "swap"])
async def test_a_refresh_replaces_the_whole_table(shelf: Shelf, pre_action: str) -> None:
    shelf.words = {"pre_action": pre_action, "chunks": retl.Chunks(column="body")}
    shelf.put(1, "one")
    shelf.put(2, "two")
    await shelf.scan()
    shelf.run("DELETE FROM docs WHERE id = 1")
    shelf.put(3, "three")
    await shelf.scan()
    assert shelf.rows("document", "content") == [("2", "two"), ("3", "three")]


async def test_a_blacklist_without_delete_is_refused(shelf: Shelf) -> None:
    shelf.put(1, "text")
    with pytest.raises(ConfigError, match="the blacklist forbids DELETE"):
        await shelf.scan(blacklist=["DELETE"])


async def test_files_are_replaced_chunk_by_chunk(shelf: Shelf, tmp_path: Path) -> None:
    root = tmp_path / "files"
    root.mkdir()
    table = retl.Table("*.jsonl", to=shelf.target.called("chunks"), chunks=retl.Chunks(), vanished="delete")

    async def scan() -> ScanReport:
        source, target = LocalFiles(path=str(root)), shelf.target.connector()
        (report,) = (await retl.Pipeline("files", source=source, target=target, tables=[table]).run_once()).scans
        return report

    (root / "a.jsonl").write_text('{"n": 1, "body": "# A\\n\\none\\n\\n# B\\n\\ntwo"}\n{"n": 2, "body": "three"}\n')
    (root / "b.jsonl").write_text('{"n": 3, "body": "four"}\n')
    await scan()
    (root / "a.jsonl").write_text('{"n": 1, "body": "# A\\n\\none\\n\\n# B\\n\\nTwo"}\n')
    (root / "b.jsonl").unlink()
    report = await scan()
    assert (report.rows, report.changed, report.unchanged) == (2, 1, 1)
    assert shelf.rows("_file", "n", "content") == [("a.jsonl", 1, "# A\n\none"), ("a.jsonl", 1, "# B\n\nTwo")]
