"""Bugs that users of well-known tools have met with Elasticsearch, each as a test against a real server. Their names tell the bugs."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import retl
from retl.connectors import Elasticsearch
from retl.connectors.elasticsearch.target.loader import Bulk
from tests.adversity.patches import patch_backoff
from tests.integration.elasticsearch.between import Answer, Asked, between
from tests.integration.elasticsearch.scene import Scene
from tests.servers.search import SearchServer
from tests.support import Database

NANOS = {"properties": {"at": {"type": "date_nanos"}, "v": {"type": "keyword"}}}
Forward = Callable[[], Awaitable[Answer]]


class Notes:
    """An index that is read and one that is written, on one server."""

    def __init__(self, server: SearchServer, prefix: str) -> None:
        self.server = server
        self.scene = Scene(server, prefix)
        self.source, self.target = f"{prefix}-source", f"{prefix}-target"
        self._jobs: list[retl.Pipeline] = []

    def table(self, **words: Any) -> retl.Table:
        return retl.Table(self.source, to=self.target, **words)

    def pipeline(self, table: retl.Table, *, via: str = "", source: Any = None, **words: Any) -> retl.Pipeline:
        """``via`` is another way to the target."""
        target = self.scene.options(**({"url": via} if via else {}))
        words = {"interval": "manual", "lease_ttl": 5, **words}
        source = source or Elasticsearch(self.server.url)
        self._jobs.append(retl.Pipeline("notes", source=source, target=target, tables=[table], **words))
        return self._jobs[-1]

    async def close(self) -> None:
        for job in self._jobs:
            await job.aclose()

    def fill(self, documents: dict[str, Any], mapping: dict[str, Any] | None = None, **settings: Any) -> None:
        body = {"settings": {"number_of_replicas": 0, **settings}, "mappings": NANOS if mapping is None else mapping}
        self.server.ask("PUT", f"/{self.source}", body)
        self.server.put(self.source, documents)

    def equal(self) -> bool:
        return self.server.texts(self.target) == self.server.texts(self.source)

    def versions(self) -> Counter[int]:
        """How often documents of the target have been written."""
        self.server.ask("POST", f"/{self.target}/_refresh")
        body = {"size": 10_000, "version": True, "_source": False}
        hits = self.server.ask("POST", f"/{self.target}/_search", body)["hits"]["hits"]
        return Counter(hit["_version"] for hit in hits)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan that fails is not tried again."""
    patch_backoff(monkeypatch, 0.0)
    monkeypatch.setattr("retl.engine.run._RETRY_SECONDS", 0.0)


@pytest.fixture
async def notes(elasticsearch_server: SearchServer, prefix: str) -> AsyncIterator[Notes]:
    found = Notes(elasticsearch_server, prefix)
    yield found
    await found.close()


def at(nanoseconds: int) -> str:
    return f"2024-01-01T00:00:{nanoseconds // 10**9:02}.{nanoseconds % 10**9:09}Z"


def text_at(nanoseconds: int) -> str:
    """The same as a checkpoint writes it."""
    return at(nanoseconds).replace("T", " ")


def numbered(count: int, step: int = 1) -> dict[str, Any]:
    return {str(n): {"at": at(n * step), "v": "old"} for n in range(count)}


# Storms and large documents -----------------------------------------------------------


class Storm:
    """A server that has no room: it refuses whole requests, and some documents of the others."""

    def __init__(self) -> None:
        self.calls = self.refused = 0
        self.documents = 0
        self.sizes: list[int] = []

    async def __call__(self, asked: Asked, forward: Forward) -> Answer:
        if "/_bulk" not in asked.path or "-state" in asked.path:
            return await forward()
        self.calls += 1
        self.sizes.append(len(asked.body))
        if self.calls % 3 == 1:
            self.refused += 1
            return 429, b'{"error":{"type":"es_rejected_execution_exception","reason":"full"},"status":429}'
        lines = asked.body.split(b"\n")[:-1]
        items = list(zip(lines[::2], lines[1::2], strict=True))
        taken = [n for n in range(len(items)) if n % 4 or self.calls % 3 == 0]
        busy = {"status": 429, "error": {"type": "es_rejected_execution_exception", "reason": "full"}}
        asked.body = b"".join(b"%b\n%b\n" % items[n] for n in taken)
        (op,) = json.loads(items[0][0])
        answered: dict[int, Any] = {}
        if taken:
            status, answer = await forward()
            assert status == 200
            answered = dict(zip(taken, json.loads(answer)["items"], strict=True))
        self.documents += len(items) - len(taken)
        found = [answered.get(n, {op: busy}) for n in range(len(items))]
        return 200, json.dumps({"items": found}).encode()


@pytest.mark.parametrize("mode", [{}, {"cursor": "at"}, {"pre_action": retl.PreAction.SWAP}])
async def test_a_429_neither_loses_nor_repeats_documents(notes: Notes, mode: dict[str, Any]) -> None:
    await anyio.to_thread.run_sync(notes.fill, numbered(3000))
    storm = Storm()
    async with between(notes.server) as line:
        line.hook = storm
        report = (await notes.pipeline(notes.table(**mode), via=line.url, slice_rows=500).run_once()).scans[0]
    assert storm.refused and storm.documents
    assert (report.rows, report.rejects) == (3000, 0)
    assert await anyio.to_thread.run_sync(notes.equal)
    if "cursor" not in mode:
        # What was acknowledged was not sent again.
        assert await anyio.to_thread.run_sync(notes.versions) == {1: 3000}


async def test_a_429_repeats_no_row_that_is_appended(notes: Notes, tmp_path: Path) -> None:
    """The server makes no ids for rows without a key: it could not tell a repeated request from a new one."""
    shop = Database(tmp_path / "shop.db")
    shop.run("CREATE TABLE log (n INT)")
    shop.run(f"INSERT INTO log VALUES {', '.join(f'({n % 10})' for n in range(2000))}")
    table = retl.Table("log", to=notes.target, write=retl.Write.APPEND)
    async with between(notes.server) as line:
        line.hook = Storm()
        await notes.pipeline(table, via=line.url, source=shop.source(), slice_rows=300).run_once()
    found = await anyio.to_thread.run_sync(notes.server.documents, notes.target)
    assert Counter(document["n"] for document in found.values()) == dict.fromkeys(range(10), 200)


@pytest.mark.usefixtures("impatient")
async def test_a_429_without_end_is_told_and_the_next_scan_goes_on(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = Bulk.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "patience", 0.2)
    await anyio.to_thread.run_sync(notes.fill, numbered(100))

    async def full(asked: Asked, forward: Forward) -> Answer:
        if "/_bulk" in asked.path:
            return 429, b'{"error":{"type":"es_rejected_execution_exception","reason":"full"},"status":429}'
        return await forward()

    async with between(notes.server) as line:
        line.hook = full
        job = notes.pipeline(notes.table(cursor="at"), via=line.url)
        with pytest.raises(retl.TargetBusy, match="is overloaded"):
            await job.run_once()
        assert (await job.status()).tables[0].watermark is None
        line.hook = None
        await job.run_once()
    assert await anyio.to_thread.run_sync(notes.equal)


MEMORY = """
import json, resource, sys
import anyio, retl
from retl.connectors import Elasticsearch

url, source, target, state = sys.argv[1:5]
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def run(name, to):
    table = retl.Table(name, to=to, pre_action=retl.PreAction.SWAP)
    job = retl.Pipeline("m", source=Elasticsearch(url), target=Elasticsearch(url, state_index=state), tables=[table])
    anyio.run(job.run_once)
    return peak()
print(json.dumps([run(source + "-few", target + "-few"), run(source, target)]))
"""


@pytest.mark.large
async def test_big_documents_do_not_exhaust_memory(notes: Notes) -> None:
    """They pack so well that what they take on the server's disk says little of what they are."""
    mapping = {"dynamic": False, "properties": {}}

    def document(n: int) -> bytes:
        return b'{"n":%d,"text":"%b"}' % (n, b"x" * 2_000_000)

    def fill() -> None:
        notes.fill({}, mapping)
        notes.server.ask("PUT", f"/{notes.source}-few", {"mappings": mapping})
        notes.server.put(f"{notes.source}-few", {str(n): document(n) for n in range(2)})
        for first in range(0, 90, 6):
            notes.server.put(notes.source, {str(n): document(n) for n in range(first, first + 6)})

    await anyio.to_thread.run_sync(fill)
    arguments = [notes.server.url, notes.source, notes.target, f".{notes.scene.prefix}-state"]
    done = await anyio.run_process([sys.executable, "-c", MEMORY, *arguments])
    few, many = json.loads(done.stdout)
    assert await anyio.to_thread.run_sync(notes.equal)
    assert many - few < 100, f"180 MB of documents took {few:.0f} and then {many:.0f} MB"


# Replacing ---------------------------------------------------------------------------


@pytest.mark.parametrize("pre_action", ["truncate", "swap"])
async def test_a_replace_keeps_alias_mapping_and_settings_and_adds_no_field(notes: Notes, pre_action: str) -> None:
    mapping = {
        "properties": {
            "n": {"type": "integer"},
            "code": {"type": "keyword", "ignore_above": 32},
            "text": {"type": "text", "analyzer": "english"},
            "at": {"type": "date"},
        }
    }
    documents = {str(n): {"n": n, "code": "x", "text": "cats running"} for n in range(5)}

    def prepare() -> None:
        notes.fill(documents, mapping)
        alias = {"filter": {"term": {"n": 1}}, "is_write_index": True}
        settings = {"number_of_shards": 3, "number_of_replicas": 0, "refresh_interval": "13s"}
        body = {"mappings": mapping, "settings": settings, "aliases": {f"{notes.target}-view": alias}}
        notes.server.ask("PUT", f"/{notes.target}-1", body)
        actions = [{"add": {"index": f"{notes.target}-1", "alias": notes.target}}]
        notes.server.ask("POST", "/_aliases", {"actions": actions})
        notes.server.put(notes.target, {"stale": {"n": 7}})

    def found() -> tuple[Any, ...]:
        (about,) = notes.server.ask("GET", f"/{notes.target}").values()
        own = {"uuid", "creation_date", "provided_name", "version"}
        kept = {name: value for name, value in about["settings"]["index"].items() if name not in own}
        return about["aliases"], about["mappings"]["properties"], kept

    await anyio.to_thread.run_sync(prepare)
    before = await anyio.to_thread.run_sync(found)
    job = notes.pipeline(notes.table(pre_action=retl.PreAction(pre_action)))
    for _ in range(2):
        await job.run_once()
        assert await anyio.to_thread.run_sync(found) == before
        assert await anyio.to_thread.run_sync(notes.equal)
    stemmed = {"query": {"match": {"text": "cat"}}}
    count = await notes.server.run("POST", f"/{notes.target}/_count", stemmed)
    assert count["count"] == 5


# Windows -----------------------------------------------------------------------------


async def test_equal_timestamps_across_pages_and_slices_are_neither_lost_nor_doubled(notes: Notes) -> None:
    documents = {str(n): {"at": at(n // 2000), "v": str(n)} for n in range(4000)}
    await anyio.to_thread.run_sync(notes.fill, documents)
    job = notes.pipeline(notes.table(cursor="at"), slice_rows=300)
    assert (await job.run_once()).scans[0].rows == 4000
    assert await anyio.to_thread.run_sync(notes.equal)
    assert (await job.run_once()).scans[0].rows == 2000
    assert await anyio.to_thread.run_sync(notes.equal)


async def test_nanoseconds_are_not_rounded(notes: Notes) -> None:
    """An aggregation would round the highest value to a millisecond, down or up."""
    await anyio.to_thread.run_sync(notes.fill, {"a": {"at": at(999_999_999)}, "b": {"at": at(123_456_789)}})
    job = notes.pipeline(notes.table(cursor="at"))
    report = (await job.run_once()).scans[0]
    assert report.watermark == text_at(999_999_999)
    await anyio.to_thread.run_sync(notes.server.put, notes.source, {"c": {"at": at(10**9)}, "d": {"at": at(5)}})
    assert (await job.run_once()).scans[0].rows == 2  # the tie and the new one
    assert set(await anyio.to_thread.run_sync(notes.server.texts, notes.target)) == {"a", "b", "c"}


async def test_a_document_that_becomes_visible_late_is_not_missed(notes: Notes) -> None:
    """It was written before the scan and no refresh has shown it: the scan asks for one."""
    await anyio.to_thread.run_sync(lambda: notes.fill({"a": {"at": at(1)}}, refresh_interval="-1"))
    job = notes.pipeline(notes.table(cursor="at"))
    await job.run_once()
    await notes.server.run("PUT", f"/{notes.source}/_doc/late", {"at": at(1), "v": "unrefreshed"})
    await job.run_once()
    assert await anyio.to_thread.run_sync(notes.equal)
    assert set(await anyio.to_thread.run_sync(notes.server.texts, notes.target)) == {"a", "late"}


# Fields ------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["add", "ignore", "fail"])
async def test_a_new_field_is_never_lost_in_silence(notes: Notes, policy: Any) -> None:
    await anyio.to_thread.run_sync(notes.fill, {"a": {"at": at(1)}})
    job = notes.pipeline(notes.table(cursor="at", new_columns=policy))
    await job.run_once()
    new = {"properties": {"town": {"type": "keyword", "ignore_above": 9}}}
    await notes.server.run("PUT", f"/{notes.source}/_mapping", new)
    await anyio.to_thread.run_sync(notes.server.put, notes.source, {"b": {"at": at(2), "town": "Köln"}})
    if policy == "fail":
        with pytest.raises(retl.SchemaDrift, match=r"'town'.*new_columns"):
            await job.run_once()
        assert set(await anyio.to_thread.run_sync(notes.server.texts, notes.target)) == {"a"}
        return
    report = (await job.run_once()).scans[0]
    assert await anyio.to_thread.run_sync(notes.equal)  # a document always comes whole
    mapped = (await anyio.to_thread.run_sync(notes.scene.about, notes.target))["mappings"]["properties"]
    if policy == "add":
        assert mapped["town"] == new["properties"]["town"]
    else:
        assert any("'town'" in warning for warning in report.warnings)


# Commits -----------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
async def test_a_first_load_that_fails_resumes_where_it_was(notes: Notes) -> None:
    await anyio.to_thread.run_sync(notes.fill, numbered(1500))
    pages = 0

    async def fail_late(asked: Asked, forward: Forward) -> Answer:
        nonlocal pages
        pages += asked.is_page
        if asked.is_page and pages > 1:
            return 400, b'{"error":{"type":"parsing_exception","reason":"no more"},"status":400}'
        return await forward()

    async with between(notes.server) as line:
        line.hook = fail_late
        source = Elasticsearch(line.url)
        with pytest.raises(retl.SourceError, match="no more"):
            await notes.pipeline(notes.table(cursor="at"), source=source, slice_rows=100).run_once()
    arrived = await anyio.to_thread.run_sync(notes.server.texts, notes.target)
    assert 100 <= len(arrived) < 1500
    report = (await notes.pipeline(notes.table(cursor="at"), slice_rows=100).run_once()).scans[0]
    assert report.lower is not None and report.lower >= text_at(99)
    assert report.rows <= 1500 - int(re.search(r"\.(\d+)Z", report.lower)[1])  # type: ignore[index]
    assert await anyio.to_thread.run_sync(notes.equal)
