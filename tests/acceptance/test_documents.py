"""A folder of documents into a table of each system: whole, and chunk by chunk."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

import retl
from retl.connectors.documents.text.workers import WORKERS
from retl.connectors.files.reading import SMALL_BYTES
from retl.connectors.files.store import FileInfo
from retl.connectors.files.stores.local import LocalStore
from tests import documents
from tests.integration.files.folder import Folder
from tests.routes.ends import PostgresEnd
from tests.routes.fixtures import make_end

TARGETS = ("sqlite", "duckdb", "mysql", "mariadb", "postgres", "postgres15")
CHUNKS = {"format": "documents", "chunks": retl.Chunks(size=300)}


class Library(Folder):
    """A folder of documents."""

    def put(self, name: str, data: bytes) -> Path:
        path = self.write(name)
        path.write_bytes(data)
        os.utime(path, (self._clock, self._clock))
        return path


@pytest.fixture(params=TARGETS)
def library(request: pytest.FixtureRequest, tmp_path: Path, at_once: None) -> Iterator[Library]:
    with ExitStack() as stack:
        made = Library(tmp_path, make_end(request.param, "app", request, tmp_path, stack))
        made.pattern = "**"
        made.words = dict(CHUNKS)
        yield made
        WORKERS.release(made)  # nobody holds them, so none is left
        assert [child for child in psutil.Process().children() if "text.process" in " ".join(child.cmdline())] == []


def fill(library: Library) -> None:
    library.put("a.md", b"# Fruit\n\nApples.\n\n## Citrus\n\nLemons.\n")
    library.put("b/c.docx", documents.word(("Trees", 1, "Oaks."), title="On trees"))
    library.put("d.pdf", documents.pdf("A page"))
    library.put("e.py", b"def f():\n    return 1\n")
    library.put("f.png", b"\x89PNG\0")


@pytest.mark.parametrize("library", [*TARGETS, "elasticsearch"], indirect=True)
async def test_documents_become_rows_with_their_text(library: Library) -> None:
    library.words = {"format": "documents"}
    fill(library)
    report = await library.scan()
    assert (report.status, report.rows) == ("done", 4)
    assert library.rows("_file", "title", "text") == [
        ("a.md", "Fruit", "# Fruit\n\nApples.\n\n## Citrus\n\nLemons.\n"),
        ("b/c.docx", "On trees", "# Trees\n\nOaks."),
        ("d.pdf", None, "A page"),
        ("e.py", None, "def f():\n    return 1\n"),
    ]
    library.put("d.pdf", documents.pdf("Another page"))
    report = await library.scan()
    assert report.rows == 1 and report.changed in (1, None)  # an index does not tell
    assert library.rows("_file", "text")[2] == ("d.pdf", "Another page")


async def test_a_document_with_the_same_bytes_is_neither_cut_nor_written_again(library: Library) -> None:
    library.words["identity"] = "content"
    fill(library)
    await library.scan()
    before = library.rows("_file", "position", "content")
    for name in ("b/c.docx", "d.pdf", "e.py"):
        library.put(name, (library.root / name).read_bytes())
    library.put("a.md", b"# Fruit\n\nPears.\n")
    assert (await library.scan()).rows == 1
    after = library.rows("_file", "position", "content")
    assert after == [("a.md", 0, "# Fruit\n\nPears."), *before[2:]]
    library.put("d.pdf", (library.root / "d.pdf").read_bytes())  # alone
    assert (await library.scan()).rows == 0


@pytest.mark.parametrize("library", [*TARGETS, "elasticsearch"], indirect=True)
async def test_documents_become_chunks_below_their_headings(library: Library) -> None:
    fill(library)
    await library.scan()
    assert library.rows("_file", "position", "title", "heading_path", "content") == [
        ("a.md", 0, "Fruit", "Fruit", "# Fruit\n\nApples."),
        ("a.md", 1, "Fruit", "Fruit > Citrus", "## Citrus\n\nLemons."),
        ("b/c.docx", 0, "On trees", "Trees", "# Trees\n\nOaks."),
        ("d.pdf", 0, None, None, "A page"),
        ("e.py", 0, None, None, "def f():\n    return 1"),
    ]
    assert all(file == document for file, document in library.rows("_file", "document"))
    report = await library.scan()
    assert (report.rows, report.slices) == (0, 0)


@pytest.mark.parametrize("library", ["sqlite"], indirect=True)
async def test_many_texts_are_read_at_once_and_one_that_is_none_stops_no_other(library: Library) -> None:
    library.words = {"format": "documents", "hive": True, "provenance": {"file": "_file", "hash": "digest"}}
    for number in range(250):
        library.put(f"year={2020 + number % 2}/{number:03}.md", f"# Title {number}\n\nText {number}.".encode())
    library.put("year=2020/bad.txt", b"\0\1\2")
    library.put("year=2021/page.docx", documents.word(("Word", 1, "Oaks.")))
    library.put("year=2021/sjis.txt", "日本語のテキスト".encode("shift_jis"))
    assert "1 file could not be read" in str((await library.failed()).error)
    rows = {row[0]: row[1:] for row in library.rows("_file", "title", "text", "year", "digest")}
    assert set(rows) == {f"year={2020 + number % 2}/{number:03}.md" for number in range(250)} | {
        "year=2021/page.docx",
        "year=2021/sjis.txt",
    }
    text = "# Title 101\n\nText 101."
    assert rows["year=2021/101.md"] == ("Title 101", text, "2021", hashlib.sha256(text.encode()).hexdigest())
    assert rows["year=2021/sjis.txt"][1] == "日本語のテキスト"
    assert rows["year=2021/page.docx"][1] == "# Word\n\nOaks."
    assert len(library.entries()) == 252


@pytest.mark.parametrize("library", ["sqlite"], indirect=True)
async def test_files_of_kinds_without_a_text_are_counted_and_named_by_the_report(library: Library) -> None:
    for name in ("a.md", "b.png", "c/D.PNG", "e.mp4", "f.tar.gz", "g.zip", "h.iso", ".git/i.png"):
        library.put(name, b"bytes")
    report = await library.scan()
    assert [warning for warning in report.warnings if "without a text" in warning] == [
        (
            "files of kinds without a text are not read: 2 .png, 1 .mp4, 1 .tar, ... (6 in all). Name them in ignore, and they "
            "are passed over in silence."
        )
    ]
    (plan,) = await library.pipeline().plan()
    assert plan.preview[0].endswith("1 unchanged, 0 vanished, 0 waiting, 0 archived, 6 without a text")
    library.words["ignore"] = ["*.png", "**/*.PNG", "*.mp4", "*.tar.gz", "*.zip", "*.iso"]
    assert not [warning for warning in (await library.scan()).warnings if "without a text" in warning]


@pytest.mark.parametrize("library", ["sqlite"], indirect=True)
async def test_a_plan_shows_the_columns_and_the_first_rows_of_chunks(library: Library) -> None:
    library.put("a.md", b"# Fruit\n\nApples.\n\n## Citrus\n\nLemons.\n")
    (plan,) = await library.pipeline().plan()
    assert plan.preview[0] == "1 new, 0 changed, 0 unchanged, 0 vanished, 0 waiting, 0 archived"
    columns = [line.split()[1] for line in plan.preview if line.startswith("column ")]
    own = ["id:", "document:", "position:", "heading_path:", "starts:", "ends:", "content:", "content_hash:"]
    assert columns == [*own, "title:", "_file:"]
    rows = [line.partition(", position")[2] for line in plan.preview if line.startswith("row ")]
    assert [row.partition(", content_hash")[0] for row in rows] == [
        " = 0, heading_path = Fruit, starts = 0, ends = 16, content = # Fruit Apples.",
        " = 1, heading_path = Fruit > Citrus, starts = 18, ends = 36, content = ## Citrus Lemons.",
    ]


async def test_a_broken_document_keeps_its_rows_and_costs_one_line(library: Library) -> None:
    fill(library)
    await library.scan()
    before = library.rows("_file", "content")
    library.put("b/c.docx", b"PK\x03\x04 broken")
    library.put("a.md", b"# Fruit\n\nPears.\n")
    report = await library.failed()
    assert "1 file could not be read, and the target keeps what it had of them: b/c.docx: it is broken" in str(
        report.error
    )
    after = [("a.md", "# Fruit\n\nPears."), *(row for row in before if row[0] != "a.md")]
    assert library.rows("_file", "content") == after


async def test_a_document_that_is_gone_loses_its_chunks_where_that_is_asked_for(library: Library) -> None:
    library.words["vanished"] = "delete"
    fill(library)
    await library.scan()
    (library.root / "a.md").unlink()
    await library.scan()
    assert {file for (file,) in library.rows("_file")} == {"b/c.docx", "d.pdf", "e.py"}


async def test_names_of_columns_may_be_those_of_a_preset(library: Library) -> None:
    embeddings = retl.Embeddings(of="__content", url="local:hashing", dimensions=2, preset="cc")
    library.words |= {"chunks": retl.Chunks(preset="cc"), "provenance": "cc", "embeddings": embeddings}
    if isinstance(library.target, PostgresEnd):
        library.words["embeddings"] = None  # not each of them has pgvector
    library.put("a.md", b"text")
    await library.scan()
    (row,) = library.rows("__content", "__cc_src_file", "__cc_src_url", "__document")
    assert row[:2] == ("text", "a.md")
    assert row[2].endswith("/a.md")
    if library.words["embeddings"] is not None:
        ((stamp,),) = library.rows("__vector_of")
        assert stamp.startswith("hashing 2 ")


def pages(number: int) -> list[str]:
    """Pages of sections of paragraphs, none of which is like another."""
    return [
        f"# Page {page}\n\n"
        + "\n\n".join(f"Paragraph {page}.{place} says what none else says. " * 8 for place in range(9))
        for page in range(number)
    ]


@pytest.mark.parametrize("library", ["postgres"], indirect=True)
async def test_a_changed_paragraph_of_a_hundred_pages_rewrites_only_its_chunks(library: Library) -> None:
    assert isinstance(library.target, PostgresEnd)
    library.words["chunks"] = retl.Chunks(size=1000, names={"position": False, "starts": False, "ends": False})
    text = pages(100)
    library.put("book.md", "\n\n".join(text).encode())
    library.put("other.md", b"# Other\n\nNot touched.")
    await library.scan()
    before: dict[Any, Any] = dict(library.target.run("SELECT id, CAST(xmin AS text) FROM sales"))
    text[50] = text[50].replace("Paragraph 50.4 says what none", "Paragraph 50.4 now says at some length what none")
    library.put("book.md", "\n\n".join(text).encode())
    report = await library.scan()
    after: dict[Any, Any] = dict(library.target.run("SELECT id, CAST(xmin AS text) FROM sales"))
    new = after.keys() - before.keys()
    assert {name: after[name] for name in after if name not in new} == {
        name: before[name] for name in after if name not in new
    }
    assert len(before) > 300
    assert 1 <= len(new) <= 5
    assert (report.changed, report.unchanged) == (len(new), report.rows - len(new))


@pytest.mark.parametrize("library", ["postgres"], indirect=True)
async def test_chunks_that_only_move_keep_all_but_their_place(library: Library) -> None:
    assert isinstance(library.target, PostgresEnd)
    text = pages(3)
    library.put("book.md", "\n\n".join(text).encode())
    await library.scan()
    library.target.run("ALTER TABLE sales ADD COLUMN computed int", "UPDATE sales SET computed = position + 100")
    before: dict[Any, Any] = dict(library.target.run("SELECT id, computed FROM sales"))
    library.put("book.md", "\n\n".join(["Some words before.", *text]).encode())
    await library.scan()
    after: dict[Any, Any] = dict(library.target.run("SELECT id, computed FROM sales"))
    assert len(after) == len(before) + 1
    assert {name: value for name, value in after.items() if value is not None} == before
    ((first, last),) = library.target.run("SELECT MIN(position), MAX(position) FROM sales WHERE computed IS NOT NULL")
    assert (first, last) == (1, len(before))


class _Elsewhere(LocalStore):
    """A store whose files do not lie on this disk: their bytes have to come."""

    def path(self, file: FileInfo) -> Path | None:
        return None


@pytest.mark.parametrize("library", ["sqlite"], indirect=True)
async def test_documents_of_a_store_elsewhere_are_fetched_and_parsed(library: Library) -> None:
    fill(library)
    large = documents.word(
        *((f"Part {number}", 1, random.Random(number).randbytes(3_000).hex()) for number in range(400))
    )
    assert len(large) > SMALL_BYTES
    library.put("large.docx", large)
    library.put("packed.md.gz", gzip.compress(b"# Packed\n\ntext"))
    library.store = _Elsewhere(library.root)
    library.words["chunks"] = retl.Chunks(size=10_000)
    report = await library.scan()
    assert (report.status, report.rejects) == ("done", 0)
    counts = Counter(file for (file,) in library.rows("_file"))
    assert counts == {"a.md": 2, "b/c.docx": 1, "d.pdf": 1, "e.py": 1, "large.docx": 400, "packed.md.gz": 1}
