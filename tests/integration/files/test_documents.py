"""The text of documents, found in another process: of every kind, and of files that mean harm."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from retl.connectors.documents.text.kinds import kind_of
from retl.connectors.documents.text.parsed import Parsed, Unreadable
from retl.connectors.documents.text.workers import Interrupted, Limits, Parse, Workers
from tests import documents

MIB = 1024 * 1024


class Reader:
    """Parses in processes of its own."""

    def __init__(self, folder: Path) -> None:
        self.workers = Workers()
        self.workers.hold(self)
        self._folder = folder

    def read(self, name: str, data: bytes, *, encoding: str | None = None, **limits: Any) -> Parsed:
        path = self._folder / name
        path.write_bytes(data)
        kind = kind_of(name)
        assert kind is not None
        with path.open("rb") as file:
            return Parse(Limits(**limits), self.workers).run(file, name, kind, encoding)

    def why_not(self, name: str, data: bytes, **limits: Any) -> str:
        with pytest.raises(Unreadable) as error:
            self.read(name, data, **limits)
        return str(error.value)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    made = Reader(tmp_path)
    yield made
    made.workers.release(made)
    assert children() == []


def children() -> list[int]:
    return [child.pid for child in psutil.Process().children() if "documents.text.process" in " ".join(child.cmdline())]


# Kinds ----------------------------------------------------------------------


def test_word_becomes_markdown_with_its_headings_and_tables(reader: Reader) -> None:
    data = documents.word(
        ("Top", 1, "One.\n\nTwo."), ("Sub", 2, "Three."), title="A title", table=[("a", "b"), ("1", "x|y")]
    )
    table = "| a | b |\n| --- | --- |\n| 1 | x&#124;y |"
    assert reader.read("a.docx", data) == Parsed(f"# Top\n\nOne.\n\nTwo.\n\n## Sub\n\nThree.\n\n{table}", "A title")


def test_slides_come_below_their_titles(reader: Reader) -> None:
    data = documents.slides(("First", "a\nb"), ("", "c"), notes="said")
    assert reader.read("a.pptx", data).text == "# First\n\na\nb\n\nsaid\n\n# Slide 2\n\nc\n\nsaid"


def test_sheets_are_tables_below_their_names(reader: Reader) -> None:
    data = documents.workbook(Prices=[("fruit", "price"), ("fig", 2.5), ("nut", 3), (None, None)], Empty=[])
    expected = "# Prices\n\n| fruit | price |\n| --- | --- |\n| fig | 2.5 |\n| nut | 3 |\n\n# Empty"
    assert reader.read("a.xlsx", data).text == expected


def test_pages_of_a_pdf_follow_each_other(reader: Reader) -> None:
    found = reader.read("a.pdf", documents.pdf("Page one\nsecond line", "Page (two)", title="Paper"))
    assert found == Parsed("Page one\nsecond line\n\nPage (two)", "Paper")


def test_a_book_is_read_in_the_order_of_its_spine(reader: Reader) -> None:
    data = documents.book("A book", "<h1>One</h1><p>a</p>", "<h1>Two</h1><p>b</p>")
    assert reader.read("a.epub", data) == Parsed("# One\n\na\n\n# Two\n\nb", "A book")


def test_a_page_of_the_web_becomes_markdown(reader: Reader) -> None:
    data = (
        b"<html><head><title> My\n page</title><style>x</style></head><body><nav>menu</nav><h1>A</h1><p>x <b>y</b> &amp; z"
        b"<script>bad()</script><ul><li>one<li>two</ul><h2>B</h2><table><tr><th>a<th>b<tr><td>1<td>2</table></body>"
    )
    found = reader.read("a.html", data)
    table = "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert found == Parsed(f"# A\n\nx **y** & z\n\n- one\n- two\n\n## B\n\n{table}", "My page")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gb18030", "shift_jis", "windows-1252"])
def test_text_of_any_encoding_is_understood(reader: Reader, encoding: str) -> None:
    text = {
        "shift_jis": "これは日本語の文章です。文字コードを当てます。",
        "windows-1252": "Die Größe der Äpfel hängt von der Sonne ab, und über den Winter müssen sie kühl liegen. ",
    }.get(encoding, "这是一个测试文件，里面有中文。日本語の文章です。")
    assert reader.read("a.txt", (text * 20).encode(encoding)).text == text * 20


def test_an_encoding_may_be_said(reader: Reader) -> None:
    assert reader.read("a.txt", "é".encode("latin-1"), encoding="latin-1").text == "é"
    with pytest.raises(Unreadable, match="not text of the encoding ascii"):
        reader.read("a.txt", b"\xff", encoding="ascii")


def test_names_tell_kinds() -> None:
    names = ["a/README", "b.PDF", "x.tar.gz", "img.png", "c.Py", ".env", "d.docx", "a.b/c"]
    assert [kind_of(name) for name in names] == ["text", "pdf", None, None, "text", "text", "docx", "text"]


# Harm -----------------------------------------------------------------------


def test_files_that_cannot_be_read_say_why(reader: Reader) -> None:
    word = documents.word(("A", 1, "text"))
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
    assert "it is encrypted" in reader.why_not("a.pdf", documents.pdf("x", encrypted=True))
    assert "no PDF that can be read" in reader.why_not("a.pdf", b"%PDF-1.4 and nothing else")
    assert "none of its 1 pages has text" in reader.why_not("a.pdf", documents.pdf(""))
    assert "it is encrypted" in reader.why_not("a.docx", ole)
    assert "it is broken" in reader.why_not("a.docx", word[: len(word) // 2])
    assert "it is broken" in reader.why_not("a.pptx", b"")
    assert "no workbook" in reader.why_not("a.xlsx", b"PK\x03\x04 cut")
    assert "no EPUB" in reader.why_not("a.epub", documents.packed(a_txt=b"x"))
    assert "it is not text" in reader.why_not("a.md", b"\x89PNG\0\0\0")
    assert reader.read("b.txt", b"and it lives").text == "and it lives"


def test_a_bomb_is_refused_by_what_it_says_it_unpacks_to(reader: Reader) -> None:
    data = documents.bomb(1_140_850_688)
    assert "unpacks to 1,140,850,688 bytes" in reader.why_not("a.docx", data)
    assert "unpacks to 1,140,850,688 bytes" in reader.why_not("a.epub", data)


def test_a_document_that_takes_too_much_memory_costs_only_itself(reader: Reader) -> None:
    bomb = documents.packed(
        **{"[Content]_xml": b"", "_rels___rels": b""}, word__document_xml=b"<a>" * (24 * MIB) + b"</a>" * (24 * MIB)
    )
    found = reader.why_not("a.docx", bomb, max_memory_bytes=64 * MIB)
    assert found
    assert "takes more memory" in reader.why_not("a.txt", b"x" * (40 * MIB), max_memory_bytes=32 * MIB)
    assert reader.read("b.txt", b"and it lives").text == "and it lives"


def test_a_hundred_megabytes_of_text_are_too_long(reader: Reader) -> None:
    assert "its text has 104,857,600 bytes" in reader.why_not("a.txt", b"word " * (20 * MIB))


def test_pages_that_hold_themselves_end(reader: Reader) -> None:
    """PDFium sees through it; what did not would be ended by ``max_seconds``."""
    assert reader.read("a.pdf", documents.pdf("x", loop=True), max_seconds=10.0).text == "x"


def test_nested_tags_without_end_cost_only_their_file(reader: Reader) -> None:
    assert reader.why_not("a.html", b"<div>" * 200_000, max_seconds=3.0)
    assert reader.read("b.html", b"<p>and it lives</p>").text == "and it lives"


def test_entities_that_grow_do_not(reader: Reader) -> None:
    levels = "".join(f'<!ENTITY l{level} "{f"&l{level - 1};" * 20}">' for level in range(1, 12))
    package = f'<!DOCTYPE p [<!ENTITY l0 "lol">{levels}]><package><spine/>&l11;</package>'
    container = b'<container><rootfiles><rootfile full-path="c.opf"/></rootfiles></container>'
    data = documents.packed(**{"META-INF__container_xml": container, "c_opf": package.encode()})
    assert reader.read("a.epub", data, max_seconds=10.0).text == ""


# Processes ------------------------------------------------------------------


class _Hanging(Parse):
    """A parser that never ends: its process is stopped as soon as it has the file."""

    def hold_up(self) -> None:
        while self._worker is None:
            time.sleep(0.001)
        os.kill(self._worker.process.pid, signal.SIGSTOP)


def test_a_parser_that_hangs_is_killed_when_its_time_is_over(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_bytes(b"<p>x</p>" * 200_000)
    parse = _Hanging(Limits(max_seconds=0.5), reader.workers)
    threading.Thread(target=parse.hold_up).start()
    with path.open("rb") as file, pytest.raises(Unreadable, match=r"longer to read than the 0\.5 seconds"):
        parse.run(file, "a.html", "html", None)
    assert children() == []
    assert reader.read("b.txt", b"and it lives").text == "and it lives"


def test_a_parser_that_dies_is_told_and_replaced(reader: Reader, tmp_path: Path) -> None:
    reader.read("b.txt", b"first")
    (pid,) = children()
    path = tmp_path / "a.html"
    path.write_bytes(b"<p>x</p>" * 200_000)
    threading.Timer(0.2, os.kill, (pid, signal.SIGSEGV)).start()
    with path.open("rb") as file, pytest.raises(Unreadable, match="died of signal SIGSEGV"):
        Parse(Limits(), reader.workers).run(file, "a.html", "html", None)
    assert reader.read("b.txt", b"and it lives").text == "and it lives"
    assert children() != [pid]


def test_one_that_died_while_it_was_idle_costs_no_document(reader: Reader) -> None:
    reader.read("a.txt", b"first")
    (pid,) = children()
    os.kill(pid, signal.SIGKILL)
    psutil.Process(pid).wait(5) if psutil.pid_exists(pid) else None
    assert reader.read("b.txt", b"second").text == "second"


def test_nobody_waits_for_a_document_that_is_not_wanted_any_more(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_bytes(b"<p>x</p>" * 400_000)
    parse = Parse(Limits(), reader.workers)
    began = time.monotonic()
    threading.Timer(0.3, parse.stop).start()
    with path.open("rb") as file, pytest.raises(Interrupted):
        parse.run(file, "a.html", "html", None)
    assert time.monotonic() - began < 5


def test_a_process_has_no_secrets_and_writes_no_file(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "secret")
    reader.read("a.txt", b"x")
    (pid,) = children()
    assert "DB_PASSWORD" not in psutil.Process(pid).environ()
    assert psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE) == (0, 0)


def test_processes_are_shared_and_end_with_the_last_that_holds_them(reader: Reader) -> None:
    other = object()
    reader.workers.hold(other)
    for number in range(4):
        reader.read("a.txt", b"x%d" % number)
    assert len(children()) == 1
    reader.workers.release(other)
    assert len(children()) == 1
    reader.workers.release(reader)
    assert children() == []
