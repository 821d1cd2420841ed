"""Documents of Yuque into PostgreSQL, by a job file and the command line; and into the other targets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import retl
from retl.connectors import Yuque
from retl.connectors.yuque.catalog import Catalog
from retl.connectors.yuque.connection import YuqueConnection
from retl.model.actions import PreAction
from tests import tiers
from tests.fake_yuque import FakeYuque
from tests.fake_yuque.library import Document
from tests.routes.fixtures import make_end
from tests.routes.route import End
from tests.support import Command, Database

JOB = """
[pipelines.handbook]
lease_ttl = 2
source = {{ type = "yuque", url = "{url}", token = "${{YUQUE_TOKEN}}" }}
target = {{ type = "postgres", url = "{target}", password = "${{PG_PASSWORD}}" }}

[[pipelines.handbook.tables]]
name = "team/handbook"
to = "documents"
pre_action = "truncate"                   # the row of that document only
vanished = "{vanished}"
"""
COLUMNS = ("id", "book", "path", "title", "slug", "type", "body", "public", "word_count", "updated_at")


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[End]:
    with ExitStack() as stack:
        yield make_end("postgres", "app", request, tmp_path, stack)


@pytest.fixture
def job(yuque: FakeYuque, target: End, command: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes the job file."""
    server = target.server  # type: ignore[attr-defined]
    monkeypatch.setenv("PG_PASSWORD", server.password)
    monkeypatch.setenv("YUQUE_TOKEN", yuque.token)
    url = f"postgres://{server.user}@{server.host}:{server.port}/{target.database}"  # type: ignore[attr-defined]

    def write(vanished: str = "delete") -> None:
        Path("jobs.toml").write_text(JOB.format(url=yuque.url, target=url, vanished=vanished))

    write()
    return write


def expected(documents: list[Document], paths: dict[int, str] | None = None) -> list[tuple[Any, ...]]:
    """The rows of some documents, from what the service holds."""
    found = [
        (
            one.id,
            one.book.namespace,
            (paths or {}).get(one.id, one.title),
            one.title,
            one.slug,
            one.type,
            one.bodies["body"],
            one.public,
            len(one.bodies["body"]),
            one.updated,
        )
        for one in documents
    ]
    return sorted(found)


def test_each_document_replaces_its_own_row(
    yuque: FakeYuque, job: Callable[[str], None], target: End, command: Command
) -> None:
    book = yuque.library.book("team/handbook", "手册")
    documents = [
        book.write(f"页 {number}", f"# 正文 {number}\n\n'quoted' \"text\" \\ | 🎉\t{number}") for number in range(50)
    ]
    assert "Yuque" in command("check", "jobs.toml")
    assert "50 new" in command("plan", "jobs.toml")
    command("run", "--once", "jobs.toml")
    assert sorted(target.rows("documents", *COLUMNS)) == expected(documents)
    changed, renamed, moved, gone = documents[:4]
    changed.change(body="another body")
    renamed.change(title="another title", slug="another-slug")
    book.contents = [("Part", [moved]), *[one for one in book.contents if one is not moved]]
    gone.delete()
    yuque.forget()
    command("run", "--once", "jobs.toml")
    assert sorted(yuque.documents_read()) == sorted([changed.id, renamed.id, moved.id])
    kept = [one for one in documents if one is not gone]
    assert sorted(target.rows("documents", *COLUMNS)) == expected(kept, {moved.id: f"Part/{moved.title}"})
    assert {name for (name,) in target.rows("retl_manifest", "name")} == {str(one.id) for one in kept}
    for _ in range(2):
        yuque.forget()
        command("run", "--once", "jobs.toml")
        assert yuque.documents_read() == []
    job("keep")
    changed.delete()
    command("run", "--once", "jobs.toml")
    assert len(target.rows("documents", "id")) == 49


@pytest.mark.processes
def test_a_process_that_is_killed_goes_on_at_the_next_document(
    yuque: FakeYuque, job: Callable[[str], None], target: End, command: Command, tmp_path: Path
) -> None:
    book = yuque.library.book("team/handbook")
    documents = [book.write(f"page {number:03}", f"text {number}") for number in range(400)]
    yuque.moods.silent = 0.005
    before = [0]
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "retl", "run", "--once", "jobs.toml"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while _count(target) <= before[-1] and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        before.append(_count(target))
    assert before == sorted(set(before)) and before[-1] < 400
    done = {number for (number,) in target.rows("documents", "id")}
    yuque.moods.silent = 0
    yuque.forget()
    command("run", "--once", "jobs.toml")
    assert not done & set(yuque.documents_read())
    assert sorted(target.rows("documents", *COLUMNS)) == expected(documents)


def _count(target: End) -> int:
    """The rows of the table, which may not be there yet."""
    tables = {name for (name,) in target.rows("information_schema.tables", "table_name")}
    return len(target.rows("documents", "id")) if "documents" in tables else 0


@pytest.mark.parametrize("system", ["sqlite", "duckdb", "mysql", "postgres", "elasticsearch"])
async def test_documents_reach_every_target_and_leave_it(
    yuque: FakeYuque, request: pytest.FixtureRequest, tmp_path: Path, system: str
) -> None:
    book = yuque.library.book("team/handbook")
    documents = [book.write(f"page {number}", f"text {number}") for number in range(30)]
    sheet = book.write("sheet", type="Sheet", body_sheet=json.dumps({"data": [{"name": "S", "table": [["a"], ["1"]]}]}))
    with ExitStack() as stack:
        end = make_end(system, "app", request, tmp_path, stack)
        table = retl.Table("team/*", to=end.called("documents"), pre_action=PreAction.TRUNCATE, vanished="delete")
        source = Yuque(yuque.url, token=yuque.token)
        job = retl.Pipeline("handbook", source=source, target=end.connector(), tables=[table], interval="manual")
        try:
            await job.run_once()
            documents[0].change(body="other")
            documents[1].delete()
            await job.run_once()
        finally:
            await job.aclose()
        rows = {row[0]: row[1:] for row in end.rows("documents", "id", "title", "body")}
        kept = [documents[0], *documents[2:]]
        bodies = {one.id: (one.title, one.bodies["body"]) for one in kept}
        assert rows == bodies | {sheet.id: ("sheet", "## S\n\n| a |\n| --- |\n| 1 |")}


def test_documents_become_chunks_and_only_changed_ones_are_written(
    yuque: FakeYuque, job: Callable[[str], None], target: End, command: Command
) -> None:
    book = yuque.library.book("team/handbook")
    sections = [f"# Part {number}\n\n{'word ' * 30}{number}" for number in range(20)]
    long, gone, _ = book.write("long", "\n\n".join(sections)), book.write("gone", "short"), book.write("kept", "short")
    text = Path("jobs.toml").read_text()
    Path("jobs.toml").write_text(
        f'{text}chunks = {{ by = "markdown", size = 200 }}\ncolumns = ["id", "title", "url", "body"]\n'
    )

    def chunks() -> list[tuple[Any, ...]]:
        return sorted(target.rows("documents", "document_id", "position", "content", "id", "xmin::text"))

    command("run", "--once", "jobs.toml")
    before = chunks()
    assert [row[2] for row in before if row[0] == long.id] == sections
    sections[7] = sections[7].upper().replace("PART", "Part")  # as long as before, so that no other one is moved
    long.change(body="\n\n".join(sections))
    gone.delete()
    command("run", "--once", "jobs.toml")
    after = chunks()
    assert [row[2] for row in after if row[0] == long.id] == sections
    assert gone.id not in {row[0] for row in after}
    # Chunks that have not changed are the very rows that were there.
    assert set(before) - set(after) == {row for row in before if row[0] == gone.id or "Part 7" in row[2]}


async def test_ten_thousand_documents_cost_as_many_requests_and_a_quiet_scan_five(
    yuque: FakeYuque, tmp_path: Path
) -> None:
    number = 10_000 if tiers.every_step() else 1_000
    book = yuque.library.book("team/handbook")
    documents = [book.write(f"page {n:05}", f"# Title {n}\n\n" + "text " * 1_000) for n in range(number)]
    yuque.library.tick(3600)
    table = retl.Table("team/handbook", to="documents", pre_action=PreAction.TRUNCATE, vanished="delete")
    database = Database(tmp_path / "app.db")
    source = Yuque(yuque.url, token=yuque.token)
    job = retl.Pipeline("handbook", source=source, target=database.target(), tables=[table], interval="manual")
    try:
        (report,) = (await job.run_once()).scans
        assert report.rows == number
        assert (
            len(yuque.asked) == number + number // 100 + 3
        )  # each, the lists with an empty page, the book and its contents
        for document in documents[::100]:
            document.change(body="changed")
        await job.run_once()
        yuque.library.tick(3600)
        documents[0].change(body="the last one")
        yuque.library.tick(3600)
        await job.run_once()
        yuque.forget()
        (report,) = (await job.run_once()).scans
        assert (report.rows, len(yuque.asked)) == (0, 5)
    finally:
        await job.aclose()
    assert database.rows("documents", "id, body") == sorted((one.id, one.bodies["body"]) for one in documents)


REAL = "RETL_TEST_YUQUE_TOKEN", "RETL_TEST_YUQUE_BOOK"


@pytest.mark.skipif(not all(map(os.environ.get, REAL)), reason=f"{' and '.join(REAL)} name no book of the real service")
async def test_a_book_of_the_real_service_is_read_as_it_is_listed(tmp_path: Path) -> None:
    """Reads only. ``RETL_TEST_YUQUE_URL`` names another host."""
    token, name = (os.environ[word] for word in REAL)
    url = os.environ.get("RETL_TEST_YUQUE_URL", "https://www.yuque.com")
    database = Database(tmp_path / "app.db")
    table = retl.Table(name, to="documents", pre_action=PreAction.TRUNCATE, vanished="delete")
    job = retl.Pipeline(
        "real", source=Yuque(url, token=token), target=database.target(), tables=[table], interval="manual"
    )
    try:
        first = (await job.run_once()).scans[0]
        second = (await job.run_once()).scans[0]
    finally:
        await job.aclose()
    connection = YuqueConnection(Yuque(url, token=token).login())
    try:
        catalog = Catalog(connection, lambda message: None)
        listed, complete = await catalog.documents(await catalog.book(name))
    finally:
        await connection.aclose()
    published = sorted(one.id for one in listed.values() if not one.draft)
    assert complete
    assert [number for (number,) in database.rows("documents", "id")] == published
    assert (first.rows, second.rows) == (len(published), 0)
