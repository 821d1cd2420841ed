"""The bulk loop: storms, items judged one by one, lines that are cut. No document missing, none doubled."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest

from retl.connectors import Elasticsearch
from retl.connectors.elasticsearch.connection import Client
from retl.connectors.elasticsearch.target import loader
from retl.connectors.elasticsearch.target.encode import Encoder, Lines
from retl.connectors.elasticsearch.target.loader import Bulk, keep_existing
from retl.connectors.elasticsearch.types import document_schema
from retl.model.errors import ConfigError, ConnectionFailed, TargetBusy, TargetError
from retl.model.plan import WriteSpec
from retl.testing import table_spec
from tests.integration.elasticsearch.standin import (
    StandIn,
    cut_after,
    cut_before,
    cut_down,
    cut_half_way,
    judged,
    refused,
    told,
)
from tests.servers.search import SearchServer


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    async with StandIn().running() as server:
        yield server


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_FIRST_WAIT", 0.001)
    monkeypatch.setattr(loader, "_LONGEST_WAIT", 0.01)


def documents(first: int, last: int, size: int = 10) -> Lines:
    schema = document_schema()
    names = [str(number) for number in range(first, last)]
    sources = [b'{"n":%d,"x":"%s"}' % (number, b"x" * size) for number in range(first, last)]
    batch = pa.RecordBatch.from_arrays(
        [pa.array(names, pa.string()), pa.nulls(len(names), pa.string()), pa.array(sources, pa.binary())], schema=schema
    )
    load = WriteSpec("p", table_spec("t"), schema, ("_id",), "scan", unique_key=True)
    lines, _ = Encoder(load, schema.names, operation="index", versions=False)(batch)
    return lines


def wanted(first: int, last: int, size: int = 10) -> dict[str, bytes]:
    return {str(number): b'{"n":%d,"x":"%s"}' % (number, b"x" * size) for number in range(first, last)}


class RejectCollector(list[tuple[str, str, str]]):
    def __call__(self, lines: Lines, number: int, reason: str, column: str) -> None:
        self.append((lines.ids[number].as_py(), reason, column))


@asynccontextmanager
async def loop(url: str, refuse: Any = None, **words: Any) -> AsyncIterator[Bulk]:
    client = await Client.open(Elasticsearch(url), "target")
    refuse = RejectCollector() if refuse is None else refuse
    made = Bulk(client, "/t/_bulk", {}, refuse, **{"writers": 3, "indices": ["t"], **words})
    try:
        yield made
    finally:
        await made.stop()
        await client.close()


async def test_several_requests_are_under_way_and_no_more_than_allowed(standin: StandIn) -> None:
    standin.crowd = 3
    async with loop(standin.url, writers=3) as bulk:
        bulk.size = 2_000
        for first in range(0, 1000, 250):
            await bulk.send(documents(first, first + 250))
        await bulk.settle()
        assert bulk.written == 1000
    assert standin.documents == wanted(0, 1000)
    assert standin.most_at_once == 3


async def test_a_document_larger_than_a_request_goes_alone(standin: StandIn) -> None:
    async with loop(standin.url) as bulk:
        bulk.size = 20_000
        await bulk.send(documents(0, 5, size=30_000))
        await bulk.settle()
    assert standin.documents == wanted(0, 5, size=30_000)
    assert standin.items == [1] * 5


async def test_a_storm_halves_the_requests_and_they_grow_again(standin: StandIn) -> None:
    standin.scripts = [refused(429)] * 3
    async with loop(standin.url, writers=1) as bulk:
        await bulk.send(documents(0, 1000, size=1000))
        await bulk.settle()
        assert (bulk.written, bulk.unchanged) == (1000, 0)
        storm = standin.sizes[:4]
        assert all(after <= before / 2 + 2000 for before, after in pairwise(storm))
        small = bulk.size
        await bulk.send(documents(1000, 2000, size=1000))
        await bulk.settle()
        assert bulk.size > small
    assert standin.documents == wanted(0, 2000, size=1000)


async def test_a_storm_without_end_is_told(standin: StandIn) -> None:
    standin.scripts = [refused(429)] * 1000
    async with loop(standin.url, patience=0.2) as bulk:
        with pytest.raises(TargetBusy, match="rejected execution"):
            await bulk.send(documents(0, 100))
            await bulk.settle()
    assert standin.documents == {}


@pytest.mark.parametrize("status", [429, 503])
async def test_items_that_found_no_room_are_sent_again_and_only_those(standin: StandIn, status: int) -> None:
    some = random.Random(status)
    times: dict[str, int] = {}

    def judge(number: int, name: str) -> int:
        times[name] = times.get(name, 0) + 1
        return 200 if some.random() < 0.6 else status

    standin.scripts = [judged(judge)] * 50
    async with loop(standin.url) as bulk:
        await bulk.send(documents(0, 500))
        await bulk.settle()
        assert bulk.written == 500
    assert standin.documents == wanted(0, 500)
    assert max(times.values()) > 1 and min(times.values()) == 1


async def test_an_item_that_is_refused_is_told_and_the_others_are_taken(standin: StandIn) -> None:
    standin.scripts = [judged(lambda number, name: 400 if name == "7" else 200)]
    refuse = RejectCollector()
    async with loop(standin.url, refuse) as bulk:
        await bulk.send(documents(0, 20))
        await bulk.settle()
        assert bulk.written == 19
    ((name, reason, column),) = refuse
    assert (name, column) == ("7", "n")
    assert reason.startswith("document_parsing_exception: [1:9] failed to parse field [n] of type [long]")
    assert 'For input string: "x"' in reason
    assert standin.documents == {name: text for name, text in wanted(0, 20).items() if name != "7"}


async def test_what_is_there_already_counts_as_unchanged_where_that_is_meant(standin: StandIn) -> None:
    standin.scripts = [judged(lambda number, name: 409 if number % 2 else 200)]
    async with loop(standin.url, conflict=keep_existing) as bulk:
        await bulk.send(documents(0, 10))
        await bulk.settle()
        assert (bulk.written, bulk.unchanged) == (5, 5)
    standin.scripts = [judged(lambda number, name: 409)]
    async with loop(standin.url) as bulk:
        with pytest.raises(TargetBusy, match="somebody else"):
            await bulk.send(documents(0, 10))
            await bulk.settle()


@pytest.mark.parametrize(("status", "kind"), [(403, ConnectionFailed), (404, ConfigError)])
async def test_what_concerns_the_whole_index_is_an_error(standin: StandIn, status: int, kind: type[Exception]) -> None:
    standin.scripts = [judged(lambda number, name: status)]
    refuse = RejectCollector()
    async with loop(standin.url, refuse) as bulk:
        with pytest.raises(kind):
            await bulk.send(documents(0, 10))
            await bulk.settle()
    assert refuse == []


@pytest.mark.parametrize("status", [200, 400], ids=["without errors", "with errors"])
@pytest.mark.parametrize("number", [0, 19, 21], ids=["none", "one less", "one more"])
async def test_an_answer_of_another_number_of_items_is_believed_in_nothing(
    standin: StandIn, number: int, status: int
) -> None:
    """A proxy has cut it down, or mixed two: what is not answered was not acknowledged."""
    cut = cut_down(number, status)

    def padded(server: StandIn, items: Any) -> Any:
        return cut(server, [*items, *items[: max(0, number - len(items))]])

    standin.scripts = [padded]
    refuse = RejectCollector()
    async with loop(standin.url, refuse) as bulk:
        with pytest.raises(TargetError, match=f"answered {number} items of a request of 20"):
            await bulk.send(documents(0, 20))
            await bulk.settle()
        assert (bulk.written, refuse) == (0, [])


def item(**about: Any) -> dict[str, Any]:
    return {"_index": "t", "result": "created", "status": 201, **about}


def failed(status: int, kind: str, reason: str) -> dict[str, Any]:
    return {"_index": "t", "status": status, "error": {"type": kind, "reason": reason}}


async def test_what_was_acknowledged_and_not_kept_is_counted_apart(standin: StandIn) -> None:
    standin.scripts = [told(lambda number, name: item() if number % 3 else item(result="noop", status=200))]
    async with loop(standin.url) as bulk:
        await bulk.send(documents(0, 30))
        await bulk.settle()
        assert (bulk.written, bulk.created, bulk.dropped) == (20, 20, 10)


async def test_a_document_in_the_failure_store_is_refused(standin: StandIn) -> None:
    standin.scripts = [told(lambda number, name: item(**({"failure_store": "used"} if name == "7" else {})))]
    refuse = RejectCollector()
    async with loop(standin.url, refuse) as bulk:
        await bulk.send(documents(0, 20))
        await bulk.settle()
        assert bulk.written == 19
    ((name, reason, _),) = refuse
    assert name == "7" and "failure store" in reason


ALIKE = [
    (item(_index="other"), "were sent on to other: an ingest pipeline"),
    (item(_index="tt"), "were sent on to tt"),
    (item(result="deleted"), "answered 'deleted' to a document"),
    (failed(400, "illegal_argument_exception", "pipeline with id [p] does not exist"), "create the ingest pipeline"),
    (failed(400, "index_closed_exception", "closed"), "open the index again"),
    (failed(400, "script_exception", "compile error"), "not the document's: compile error"),
    (failed(400, "some_new_exception", "hm"), "not the document's: hm"),
    (failed(403, "security_exception", "no"), "lacks a privilege"),
    (failed(401, "security_exception", "no"), "refused the login"),
]


@pytest.mark.parametrize(("answer", "match"), ALIKE, ids=[match for _, match in ALIKE])
async def test_what_is_not_the_fault_of_a_document_is_no_reject(
    standin: StandIn, answer: dict[str, Any], match: str
) -> None:
    standin.scripts = [told(lambda number, name: answer if name == "7" else item())]
    refuse = RejectCollector()
    async with loop(standin.url, refuse) as bulk:
        with pytest.raises((TargetError, ConfigError), match=match):
            await bulk.send(documents(0, 20))
            await bulk.settle()
    assert refuse == []


OWN = [
    failed(500, "fail_processor_exception", "no"),
    failed(400, "script_exception", "runtime error"),
    failed(400, "illegal_argument_exception", "unable to convert [x] to integer"),
    failed(400, "illegal_argument_exception", 'Document contains at least one immense term in field="n"'),
    failed(400, "strict_dynamic_mapping_exception", "[1:2] mapping set to strict, dynamic introduction of [n]"),
]


@pytest.mark.parametrize("answer", OWN, ids=[str(one["error"]) for one in OWN])
async def test_what_a_document_causes_itself_is_its_reject(standin: StandIn, answer: dict[str, Any]) -> None:
    standin.scripts = [told(lambda number, name: answer if name == "7" else item())]
    refuse = RejectCollector()
    async with loop(standin.url, refuse, patience=0.1) as bulk:
        await bulk.send(documents(0, 20))
        await bulk.settle()
        assert bulk.written == 19
    assert [(name, answer["error"]["reason"] in reason) for name, reason, _ in refuse] == [("7", True)]


def in_document(number: int, name: str) -> dict[str, Any]:
    reason = f"[1:{number}] failed to parse field [n] of type [long] in document with id '{name}'"
    return failed(400, "document_parsing_exception", reason)


async def test_where_every_document_is_refused_for_one_reason_it_is_not_theirs(standin: StandIn) -> None:
    refuse = RejectCollector()
    async with loop(standin.url, refuse) as bulk:
        standin.scripts = [told(in_document)]
        with pytest.raises(TargetError, match=r"refused all 10 documents of a request for one reason.* field \[n\]"):
            await bulk.send(documents(0, 10))
            await bulk.settle()
        assert refuse == []
        standin.scripts = [told(in_document)]
        await bulk.send(documents(0, 1))
        await bulk.settle()
    assert [name for name, _, _ in refuse] == ["0"], "of one alone nobody can tell"


@pytest.mark.parametrize("cut", [cut_before, cut_after, cut_half_way])
async def test_a_request_whose_answer_never_comes_is_sent_again(standin: StandIn, cut: Any) -> None:
    standin.scripts = [cut, judged(lambda number, name: 200), cut]
    async with loop(standin.url, writers=1) as bulk:
        bulk.size = 10_000
        await bulk.send(documents(0, 1000))
        await bulk.settle()
        assert bulk.written == 1000
    assert standin.documents == wanted(0, 1000)


async def test_a_line_that_is_always_cut_is_told(standin: StandIn) -> None:
    standin.scripts = [cut_after] * 100
    async with loop(standin.url) as bulk:
        with pytest.raises(ConnectionFailed):
            await bulk.send(documents(0, 10))
            await bulk.settle()
    assert len(standin.items) == 4


async def test_requests_become_as_small_as_the_server_takes(standin: StandIn) -> None:
    def small(server: StandIn, items: Any) -> Any:
        if server.sizes[-1] > 50_000:
            return refused(413)(server, items)
        return judged(lambda number, name: 200)(server, items)

    standin.scripts = [small] * 1000
    refuse = RejectCollector()
    async with loop(standin.url, refuse) as bulk:
        await bulk.send(documents(0, 500, size=1000))
        await bulk.send(documents(500, 501, size=100_000))
        await bulk.settle()
        assert bulk.written == 500
    assert [name for name, _, _ in refuse] == ["500"]
    assert standin.documents == wanted(0, 500, size=1000)


async def test_stopping_waits_for_what_is_under_way(standin: StandIn) -> None:
    async with loop(standin.url) as bulk:
        await bulk.send(documents(0, 1000))
        await bulk.stop()
        assert bulk.written == 1000
    assert standin.documents == wanted(0, 1000)


async def test_a_real_server_takes_documents_to_the_byte(elasticsearch_server: SearchServer, prefix: str) -> None:
    client = await Client.open(Elasticsearch(elasticsearch_server.url), "target")
    bulk = Bulk(client, f"/{prefix}/_bulk", {}, RejectCollector(), writers=3)
    bulk.size = 20_000
    await bulk.send(documents(0, 3000))
    await bulk.settle()
    await bulk.stop()
    await client.close()
    assert elasticsearch_server.texts(prefix) == wanted(0, 3000)
