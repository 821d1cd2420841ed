"""Documents in chunks with vectors: what a change costs, and what a restore costs."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

import retl
from retl.connectors import LocalFiles
from retl.model.report import ScanReport
from tests.fake_embeddings import KEY, EmbeddingService, Fault
from tests.fake_embeddings.server import vector
from tests.integration.embeddings.conftest import numbers
from tests.routes.ends import DuckDBEnd, PostgresEnd, SQLiteEnd
from tests.routes.fixtures import make_end
from tests.routes.route import End, Row

WORDS = [
    "bread",
    "butter",
    "trains",
    "Prague",
    "river",
    "bridge",
    "winter",
    "summer",
    "garden",
    "stone",
    "paper",
    "window",
    "letter",
    "music",
]


class Library:
    """A folder of Markdown, and a target that holds its chunks with their vectors."""

    def __init__(self, folder: Path, target: End, service: EmbeddingService) -> None:
        self.root = folder / "library"
        self.root.mkdir()
        self.target = target
        self.service = service
        self.words: dict[str, Any] = {"pre_action": "truncate", "slice_rows": 200}
        self.options: dict[str, Any] = {}

    def write(self, name: str, *sections: str) -> None:
        (self.root / name).write_text("\n\n".join(sections), encoding="utf-8")

    def pipeline(self, **options: Any) -> retl.Pipeline:
        table = retl.Table(
            "**/*.md",
            to=self.target.called("chunks"),
            format={"type": "documents"},
            chunks=retl.Chunks(size=400),
            embeddings=retl.Embeddings(
                of="content", url=self.service.url, model="small", dimensions=8, api_key=KEY, batch=16
            ),
            **self.words,
        )
        return retl.Pipeline(
            "library",
            source=LocalFiles(path=str(self.root)),
            target=self.target.connector(),
            tables=[table],
            **{**self.options, **options},
        )

    async def scan(self, **options: Any) -> ScanReport:
        (report,) = (await self.pipeline(**options).run_once()).scans
        return report

    def chunks(self) -> list[Row]:
        return sorted(self.target.rows("chunks", "document", "position", "content"))

    def check_vectors(self) -> None:
        """Each chunk has the vector of its own text."""
        for content, found in self.target.rows("chunks", "content", "embedding"):
            assert numbers(found) == numbers(vector(content, 8))


TRANSACTIONAL = ("sqlite", "duckdb", "postgres")
EVERYWHERE = (*TRANSACTIONAL, "elasticsearch")


@pytest.fixture(params=TRANSACTIONAL)
def library(
    request: pytest.FixtureRequest, tmp_path: Path, service: EmbeddingService, at_once: None
) -> Iterator[Library]:
    with ExitStack() as stack:
        end = make_end(request.param, "app", request, tmp_path, stack)
        if isinstance(end, PostgresEnd):
            request.getfixturevalue("postgres_server").query("CREATE EXTENSION vector", database=end.database)
        yield Library(tmp_path, end, service)


def section(chance: random.Random, number: int) -> str:
    """A page: a heading and some paragraphs, which no other page has."""
    paragraphs = [" ".join(chance.choices(WORDS, k=40)) + f" {number}-{place}." for place in range(6)]
    return "\n\n".join([f"# Page {number}", *paragraphs])


@pytest.mark.parametrize("library", EVERYWHERE, indirect=True)
async def test_a_changed_paragraph_of_a_hundred_pages_asks_for_its_chunks_alone(library: Library) -> None:
    chance = random.Random("pages")
    pages = [section(chance, number) for number in range(100)]
    library.write("book.md", *pages)
    await library.scan()
    before = {content for _, _, content in library.chunks()}
    assert len(before) > 300
    library.service.forget()
    pages[41] = pages[41].replace("41-3.", "41-3, as was found later.")
    library.write("book.md", *pages)

    report = await library.scan()

    after = {content for _, _, content in library.chunks()}
    assert set(library.service.asked) == after - before
    assert 1 <= library.service.asked.total() <= 2
    assert report.embeddings is not None and report.embeddings.reused == len(after) - library.service.asked.total()
    library.check_vectors()


@pytest.mark.parametrize("library", EVERYWHERE, indirect=True)
async def test_text_that_moves_to_another_document_is_not_asked_for_again(library: Library) -> None:
    chance = random.Random("move")
    library.write("a.md", section(chance, 1), section(chance, 2))
    await library.scan()
    library.service.forget()
    (library.root / "a.md").rename(library.root / "b.md")

    await library.scan()

    assert library.service.requests == 0
    library.check_vectors()


async def test_a_target_restored_from_yesterday_asks_only_for_what_it_lacks(
    library: Library, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    chance = random.Random("restore")
    for number in range(6):
        library.write(f"{number}.md", section(chance, number))
    await library.scan()
    kept = backup(library.target, request, tmp_path)
    yesterday = {content for _, _, content in library.chunks()}
    library.write("2.md", section(chance, 22))
    library.write("6.md", section(chance, 6))
    await library.scan()
    today = library.chunks()
    restore(library.target, kept, request)
    assert {content for _, _, content in library.chunks()} == yesterday
    library.service.forget()

    await library.scan()

    assert library.chunks() == today
    assert set(library.service.asked) == {content for _, _, content in today} - yesterday
    assert library.service.twice == []
    library.check_vectors()


def backup(target: End, request: pytest.FixtureRequest, folder: Path) -> Any:
    """A copy of a whole database, its checkpoints and manifest included."""
    if isinstance(target, PostgresEnd):
        name = f"{target.database[:40]}_kept"
        server = request.getfixturevalue("postgres_server")
        server.query(f'CREATE DATABASE "{name}" TEMPLATE "{target.database}"')
        return name
    assert isinstance(target, SQLiteEnd | DuckDBEnd)
    return shutil.copy(target.path, folder / "kept")


def restore(target: End, kept: Any, request: pytest.FixtureRequest) -> None:
    if isinstance(target, PostgresEnd):
        server = request.getfixturevalue("postgres_server")
        server.query(f'DROP DATABASE "{target.database}" WITH (FORCE)')
        server.query(f'ALTER DATABASE "{kept}" RENAME TO "{target.database}"')
        return
    assert isinstance(target, SQLiteEnd | DuckDBEnd)
    for left in target.path.parent.glob(f"{target.path.name}*"):
        left.unlink()
    shutil.copy(kept, target.path)


async def test_an_owner_that_was_taken_over_while_it_waited_asks_for_nothing_more(library: Library) -> None:
    if isinstance(library.target, DuckDBEnd):
        pytest.skip("one process has the file, so nobody takes it over meanwhile")
    chance = random.Random("owners")
    for number in range(40):
        library.write(f"{number:02}.md", section(chance, number))
    asked, go_on = threading.Event(), threading.Event()

    async def hold() -> None:
        asked.set()
        await anyio.to_thread.run_sync(go_on.wait)

    library.service.faults = [Fault(wait=hold, times=4)]
    raised: list[Exception] = []

    async def scan() -> None:
        try:
            await library.scan()
        except Exception as error:
            raised.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scan)
        await anyio.to_thread.run_sync(asked.wait)
        await anyio.to_thread.run_sync(library.target.take_over)
        go_on.set()

    assert [type(error) for error in raised] == [retl.LeaseLost]
    assert library.chunks() == []
    assert library.service.asked.total() <= 200  # what was under way: eight documents
