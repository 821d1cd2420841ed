"""A server that means harm ends a scan with an error of ours: in bounded time and memory, and without a secret."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

import retl
from retl.connectors import Elasticsearch
from retl.connectors.elasticsearch import connection
from retl.connectors.elasticsearch.source import reader
from retl.connectors.function import FunctionTarget
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError, ConnectionFailed, RetlError, SourceError
from retl.testing import Scans, collect, table_spec
from tests.integration.elasticsearch.test_source import documents
from tests.servers.rogue import Handler, Rogue, bomb, endless, moved, said

DEEP = b'{"a":' * 5000 + b"1" + b"}" * 5000
HIT = b'{"_id":"1","sort":["2024-05-01T00:00:01.000Z",1],"_source":%b}'
PAGE = b'{"_shards":{"total":1,"successful":1},"hits":{"total":{"value":1},"hits":[%b]}}'


@pytest.fixture
async def rogue() -> AsyncIterator[Rogue]:
    async with Rogue().running() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_MOST_PAUSE", 0.0)


async def read(rogue: Rogue, **words: Any) -> int:
    """How many documents a scan brings."""
    return int(
        (await collect(Elasticsearch(rogue.url, read_slices=1, **words), documents("orders", cursor="at"))).num_rows
    )


async def test_without_harm_all_of_it_comes(rogue: Rogue) -> None:
    rogue.documents = 50
    assert await read(rogue) == 50


# Redirects -------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["GET /", "POST /orders/_search", "POST /_search"])
async def test_a_redirect_is_an_error_that_names_the_address(rogue: Rogue, where: str, status: int) -> None:
    async with Rogue().running() as other:
        rogue.harm[where] = moved(f"{other.url}/elsewhere", status)
        with pytest.raises(ConfigError, match=f"redirects to {other.url}/elsewhere"):
            await read(rogue, user="ann", password="s3cret-word")
        assert other.asked == []


async def test_documents_go_to_nobody_else(rogue: Rogue) -> None:
    async with Rogue().running() as other:
        rogue.harm["POST /orders/_bulk"] = moved(f"{other.url}/_bulk", 308)
        opened = await connection.Client.open(Elasticsearch(rogue.url), "target")
        with pytest.raises(ConfigError, match="redirects to"):
            await opened.request("POST", "/orders/_bulk", body=b'{"index":{}}\n{}\n', ndjson=True)
        await opened.close()
        assert other.asked == []


# Answers without an end --------------------------------------------------------------


@pytest.mark.parametrize(
    "where", ["GET /", "GET /orders", "POST /orders/_search", "POST /orders/_pit", "POST /_search"]
)
async def test_what_is_packed_or_has_no_end_is_not_read(
    rogue: Rogue, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(connection, "_MOST_BYTES", 2**20)
    for harm, why in ((bomb(2**26), "packed"), (endless(b" " * 2**16), "more than 1 MB")):
        rogue.harm[where] = harm
        tracemalloc.start()
        with pytest.raises(ConnectionFailed, match=why):
            await read(rogue)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
        tracemalloc.stop()


@pytest.mark.parametrize("where", ["POST /orders/_pit", "GET /orders"])
async def test_a_small_answer_that_is_large_is_not_decoded(
    rogue: Rogue, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(connection, "_MOST_DECODED", 1000)
    rogue.harm[where] = said({"id": "x" * 1000})
    with pytest.raises(ConnectionFailed, match="more than"):
        await read(rogue)


async def test_pages_that_stand_still_are_not_read_for_ever(rogue: Rogue) -> None:
    async def again(request: Any) -> Any:
        size = (await request.json())["size"]
        hits = [{"_id": str(n), "_source": {}, "sort": ["2024-05-01T00:00:01.000Z", 1]} for n in range(size)]
        return await said({"_shards": {}, "hits": {"total": {"value": 2**60}, "hits": hits}})(request)

    rogue.harm["POST /_search"] = again
    with anyio.fail_after(20), pytest.raises(ConnectionFailed, match="the same documents again"):
        await read(rogue)


async def test_a_document_without_its_source_is_none(rogue: Rogue) -> None:
    rogue.harm["POST /_search"] = said(PAGE % b'{"_id":"1","sort":["2024-05-01T00:00:01.000Z",1]}')
    with pytest.raises(SourceError, match="'1' came without its source"):
        await read(rogue)


@pytest.mark.parametrize("whole", [True, False])
async def test_a_mapping_of_many_fields_is_read_in_no_time(rogue: Rogue, whole: bool) -> None:
    fields = {f"field{n}": {"type": "long"} for n in range(20_000)}
    about = {"mappings": {"properties": fields}, "settings": {"index": {"number_of_shards": "1"}}}
    rogue.harm["GET /orders"] = said({"orders": about})
    source = Scans(Elasticsearch(rogue.url).source())
    table = documents if whole else table_spec
    began = time.thread_time()
    plan = await source.plan(table("orders", exclude=["field7"], where="field9:1"), Checkpoint())
    assert time.thread_time() - began < 2
    assert whole or len(plan.schema) == 20_000
    await source.aclose()


async def test_an_answer_that_drips_is_waited_for_no_longer_than_any(rogue: Rogue) -> None:
    rogue.harm["GET /orders"] = endless(b" ", 0.01)
    with anyio.fail_after(5), pytest.raises(ConnectionFailed, match="did not answer in time"):
        await read(rogue, request_timeout=0.3)


@pytest.mark.parametrize("cursor", [None, "at"])
async def test_pages_that_never_end_are_counted(rogue: Rogue, cursor: str | None) -> None:
    async def again(request: Any) -> Any:
        asked = await request.json()
        hits = [{"_id": str(n), "_source": {}, "sort": ["2024-05-01T00:00:01.000Z", n]} for n in range(asked["size"])]
        return await said({"_shards": {}, "hits": {"total": {"value": 70}, "hits": hits}})(request)

    rogue.harm["POST /_search"] = again
    with anyio.fail_after(20), pytest.raises(ConnectionFailed, match="counted 70 documents and gave 450"):
        await collect(Elasticsearch(rogue.url, read_slices=1), documents("orders", cursor=cursor))


@pytest.mark.parametrize("total", [{}, {"total": {"value": 4}}])
async def test_a_page_that_is_cut_short_is_never_the_end(rogue: Rogue, total: dict[str, Any]) -> None:
    hits = [{"_id": str(n), "_source": {}, "sort": ["2024-05-01T00:00:01.000Z", n]} for n in range(3)]
    rogue.harm["POST /_search"] = said({"_shards": {}, "hits": {"hits": hits, **total}})
    with pytest.raises(ConnectionFailed, match="of one and the same moment"):
        await read(rogue)


# Answers of a strange form -------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False])
async def test_json_without_a_ground_is_an_error_of_ours(rogue: Rogue, whole: bool) -> None:
    rogue.harm["POST /_search"] = said(PAGE % (HIT % DEEP))
    table = documents("orders") if whole else table_spec("orders")
    with pytest.raises(SourceError, match="nested deeper than can be read"):
        await collect(Elasticsearch(rogue.url, read_slices=1), table)


@pytest.mark.parametrize(
    ("where", "harm"),
    [
        ("POST /orders/_pit", said({"id": "x" * 5 * 2**20})),
        ("POST /_search", said(PAGE[:-1] % (HIT % b"{}") + b',"pit_id":"%b"}' % (b"x" * 5 * 2**20))),
    ],
)
async def test_a_name_for_a_point_in_time_as_long_as_a_book_is_not_sent_back(
    rogue: Rogue, where: str, harm: Handler
) -> None:
    rogue.harm[where] = harm
    with pytest.raises(SourceError, match="names a point in time by 5,242,880 signs"):
        await read(rogue)


@pytest.mark.parametrize(
    "where", ["GET /", "GET /orders", "POST /orders/_search", "POST /orders/_pit", "POST /_search"]
)
@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"null",
            b"[]",
            b"[1]",
            b"7",
            b'"text"',
            b"{}",
            b'{"a":1}',
            b"<html>",
            b"\xff\xfe",
            DEEP,
            b'{"\\ud800":1}',
        ),
        b'{"orders":null}',
        b'{"orders":{"mappings":[],"settings":7,"aliases":""}}',
        b'{"orders":{"mappings":{"properties":{"at":{"type":"date"},"x":[1]}},"settings":{"index":{"number_of_shards":"many"}}}}',
        b'{"version":{"number":"x"}}',
        b'{"version":{"number":[]},"id":[],"hits":{}}',
        b'{"hits":{"total":{"value":1},"hits":[{"_id":7}]}}',
        b'{"hits":{"total":{"value":1},"hits":[{"_id":"1","sort":[]}]}}',
        b'{"hits":{"total":{"value":1},"hits":[{"_id":"1","sort":[{}]}]}}',
        b'{"hits":{"total":{"value":1},"hits":[{"_id":"1","sort":["yesterday",1],"_source":{}}]}}',
        b'{"hits":{"total":{"value":-1},"hits":[]},"_shards":{"failures":[7],"failed":1}}',
    ],
)
async def test_whatever_is_answered_ends_in_an_error_of_ours(rogue: Rogue, where: str, body: bytes) -> None:
    rogue.harm[where] = said(body)
    with anyio.fail_after(10), pytest.raises(RetlError):
        await read(rogue)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 429, 500, 502, 503])
async def test_errors_are_cut_and_without_secrets(rogue: Rogue, status: int) -> None:
    key = "VnVhQ2ZHY0JDZGJrUG0="
    reason = f"the key ApiKey {key} is wrong " + "x" * 100_000
    rogue.harm["GET /orders"] = said({"error": {"type": "t" * 100_000, "reason": reason}}, status)
    with pytest.raises(RetlError) as error:
        await read(rogue, api_key=key)
    assert len(str(error.value)) < 3000
    assert key not in str(error.value) + repr(error.value)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"error":{"type":"","reason":" "}}', b'{"error":""}', b'{"error":{"reason":null}}']
)
async def test_an_error_without_a_reason_says_so(rogue: Rogue, body: bytes) -> None:
    rogue.harm["GET /orders"] = said(body, 503)
    with pytest.raises(ConnectionFailed, match=r"cannot answer now: .*no reason was given \(HTTP 503\)"):
        await read(rogue)


# What others may read on the way ---------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "warned"),
    [
        ({"url": "http://es.example:9200", "api_key": "a-long-key"}, "the login goes to es.example:9200 without TLS"),
        ({"url": "http://ann:s3cret-word@10.0.0.7"}, "without TLS"),
        ({"url": "https://es", "tls": "insecure", "user": "ann", "password": "s3cret-word"}, "proves nothing"),
        ({"url": "http://localhost:9200", "tls_fingerprint": "ab" * 32}, "mean nothing with http://"),
        ({"url": "http://127.0.0.1:9200", "api_key": "a-long-key"}, None),
        ({"url": "http://es.example:9200"}, None),
        ({"url": "https://es.example", "api_key": "a-long-key"}, None),
    ],
)
def test_a_login_that_others_may_read_is_told(words: dict[str, Any], warned: str | None) -> None:
    told = Elasticsearch(**words).login().warnings()
    assert len(told) == (warned is not None)
    assert warned is None or warned in told[0]


async def test_check_tells_it(rogue: Rogue) -> None:
    source = Elasticsearch(rogue.url, tls_fingerprint="ab" * 32)
    async with retl.Pipeline(
        "p", source=source, target=FunctionTarget(print), tables=[retl.Table("orders")], state=retl.MemoryStore()
    ) as pipeline:
        found = await pipeline.check()
    (warned,) = [each for each in found if each.level == "warning" and each.subject == "source"]
    assert "mean nothing with http://" in warned.message


async def test_a_warning_is_no_error(rogue: Rogue) -> None:
    source = Scans(Elasticsearch(rogue.url, tls_fingerprint="ab" * 32).source())
    assert (await source.ping()).warnings
    assert (await source.plan(table_spec("orders"), Checkpoint())).rows == 3
    await source.aclose()
