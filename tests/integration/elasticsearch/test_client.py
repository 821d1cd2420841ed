"""The line to a cluster: what is sent, what comes back, and what its errors mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from retl.connectors import Elasticsearch
from retl.connectors.elasticsearch.connection import Client, SharedClient
from retl.connectors.elasticsearch.errors import Role
from retl.model.errors import (
    ConfigError,
    ConnectionFailed,
    RetlError,
    SourceError,
    TargetBusy,
    TargetError,
    UnsupportedError,
)

Handler = Callable[[web.Request], Awaitable[web.Response]]


def _root(number: str, **more: Any) -> dict[str, Any]:
    return {"version": {"number": number, **more}}


@asynccontextmanager
async def playing(answer: Handler) -> AsyncIterator[str]:
    """A server that answers as it is told; its URL."""
    application = web.Application(client_max_size=2**28)
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def client_of(answer: Handler, role: Role = "target", **options: Any) -> AsyncIterator[Client]:
    """A client of a server that is an OpenSearch, and otherwise answers as it is told."""

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/":
            return web.json_response(_root("3.1.0", distribution="opensearch"))
        return await answer(request)

    async with playing(handle) as url:
        client = await Client.open(Elasticsearch(url, **options), role)
        try:
            yield client
        finally:
            await client.close()


@pytest.mark.parametrize(
    ("root", "name", "version"),
    [
        (_root("8.19.13"), "Elasticsearch", (8, 19, 13)),
        (_root("9.4.3", build_flavor="default"), "Elasticsearch", (9, 4, 3)),
        (_root("2.19.1", distribution="opensearch"), "OpenSearch", (2, 19, 1)),
        (_root("7.10.2", distribution="opensearch"), "OpenSearch", (2, 0)),
    ],
)
async def test_every_product_is_recognised(root: dict[str, Any], name: str, version: tuple[int, ...]) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(root, headers={"warning": '299 Elasticsearch "old"'})

    async with playing(answer) as url:
        client = await Client.open(Elasticsearch(url), "source")
        assert (client.server.name, client.server.version) == (name, version)
        await client.close()


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ('{"version": {"number": "7.17.0"}}', UnsupportedError),
        ("<html>", ConnectionFailed),
        ('{"a": 1}', ConnectionFailed),
    ],
)
async def test_what_is_too_old_or_something_else_is_refused(body: str, error: type[Exception]) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=body, content_type="text/html")

    async with playing(answer) as url:
        with pytest.raises(error):
            await Client.open(Elasticsearch(url), "source")


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_bodies_travel_as_they_are_in_plain_media_types(size: int) -> None:
    body = b'{"index":{}}\n{"a":"' + b"x" * size + b'"}\n'
    seen: dict[str, Any] = {}

    async def answer(request: web.Request) -> web.Response:
        seen.update(headers=request.headers, body=await request.read(), path=request.path_qs)
        return web.Response(body=body, content_type="application/octet-stream")

    async with client_of(answer, user="ann", password="p:ü@,") as client:
        found = await client.request("POST", "/a/_bulk", params={"refresh": "false"}, body=body, ndjson=True)
        assert found == (200, body)
    assert seen["body"] == body
    assert seen["path"] == "/a/_bulk?refresh=false"
    assert seen["headers"]["content-type"] == "application/x-ndjson"
    assert seen["headers"]["accept"] == "application/json"
    assert seen["headers"]["authorization"] == "Basic YW5uOnA6w7xALA=="
    assert "content-encoding" not in seen["headers"]


@pytest.mark.parametrize(
    ("status", "kind", "role", "error", "said"),
    [
        (401, "security_exception", "source", ConfigError, "refused the login"),
        (403, "security_exception", "target", ConfigError, "lacks a privilege"),
        (403, "cluster_block_exception", "target", ConnectionFailed, "does not allow this now"),
        (404, "index_not_found_exception", "source", ConfigError, "no such index"),
        (404, "search_context_missing_exception", "source", ConnectionFailed, "point in time"),
        (408, "", "source", ConnectionFailed, "cannot answer now"),
        (429, "es_rejected_execution_exception", "target", TargetBusy, "overloaded"),
        (429, "circuit_breaking_exception", "source", ConnectionFailed, "overloaded"),
        (502, "", "target", ConnectionFailed, "cannot answer now"),
        (503, "no_shard_available_action_exception", "source", ConnectionFailed, "cannot answer now"),
        (400, "parsing_exception", "source", SourceError, "the reason"),
        (400, "mapper_parsing_exception", "target", TargetError, "the reason"),
        (500, "null_pointer_exception", "target", TargetError, "the reason"),
    ],
)
async def test_statuses_become_our_errors_and_nothing_is_sent_twice(
    status: int, kind: str, role: Role, error: type[RetlError], said: str
) -> None:
    asked = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        inner = {"type": kind, "reason": "the reason"}
        return web.json_response({"error": {"type": "outer", "reason": "x", "root_cause": [inner]}}, status=status)

    async with client_of(answer, role) as client:
        with pytest.raises(error, match=said) as found:
            await client.request("GET", "/a")
        assert "the reason" in str(found.value)
        assert asked == 1
        assert (await client.request("GET", "/a", allow=(status,))).status == status


async def test_a_server_that_does_not_answer_or_hangs_up() -> None:
    with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:1"):
        await Client.open(Elasticsearch("http://127.0.0.1:1"), "source")

    async def hang_up(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async with client_of(hang_up) as client:
        with pytest.raises(ConnectionFailed):
            await client.request("GET", "/a")
        await client.close()
        with pytest.raises(ConnectionFailed, match="closed"):
            await client.request("GET", "/a")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "needs a url or a cloud_id"),
        ({"url": "http://a:1", "cloud_id": "x"}, "one of them"),
        ({"url": "es:9200"}, "not one of elasticsearch"),
        ({"url": "http://a:port"}, "not an address"),
        ({"url": "ann:s3cret@es:9200"}, "not one of elasticsearch"),
        ({"url": "https:/ann:s3cret@es"}, "not one of elasticsearch"),
        ({"url": "https://an/n:s3cret@es"}, "not one of elasticsearch"),
        ({"url": "https://ann:12/s3cret@es"}, "not one of elasticsearch"),
        ({"url": "http://ann:s3cret@a", "api_key": "s3cret"}, "an api_key and a user"),
        ({"url": "http://a", "password": "s3cret"}, "no user"),
        ({"url": "http://a", "user": "ann", "password": "s3cret\n"}, "holds a line break"),
        ({"url": "http://ann%0a:s3cret@a"}, "holds a line break"),
        ({"url": "http://a", "api_key": "s3cr\net"}, "api_key is empty"),
        ({"url": "http://a", "api_key": "\n"}, "api_key is empty"),
        ({"url": "https://a", "tls_fingerprint": "12:34"}, "fingerprint"),
        ({"url": "https://a", "tls_ca": "/nowhere.pem"}, "cannot be read"),
        ({"cloud_id": "no id"}, "cloud_id"),
    ],
)
async def test_options_that_make_no_sense_are_refused_without_showing_a_secret(
    options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        await Client.open(Elasticsearch(**options), "source")
    assert "s3cret" not in str(error.value) + repr(error.value) + repr(Elasticsearch(**options))


def test_an_api_key_may_be_given_in_both_of_its_forms() -> None:
    for given in ("VnVhQ2ZHY0JDZGJrU", "id:key"):
        shown = Elasticsearch("http://a", api_key=given).login()
        assert shown.authorization == f"ApiKey {given if ':' not in given else 'aWQ6a2V5'}"
        assert given not in repr(shown)


def test_an_api_key_is_taken_without_the_end_of_its_line() -> None:
    assert (
        Elasticsearch("http://a", api_key="VnVhQ2ZHY0JDZGJrU\r\n").login().authorization == "ApiKey VnVhQ2ZHY0JDZGJrU"
    )
    assert Elasticsearch("http://a", api_key="id:key\n").login().authorization == "ApiKey aWQ6a2V5"


def test_a_password_is_never_shown() -> None:
    shown = repr(Elasticsearch("http://ann:s3:c@r,et@a:1,http://bob:x@b:2"))
    assert shown == "Elasticsearch('http://ann:***@a:1,http://bob:***@b:2')"
    login = Elasticsearch("http://ann:s3cret@a:1,http://b:2/es").login()
    assert "s3cret" not in repr(login)
    assert login.basic == ("ann", "s3cret")
    assert [(node.host, node.port, node.path) for node in login.nodes] == [("a", 1, ""), ("b", 2, "/es")]


@pytest.mark.parametrize(
    ("options", "most"),
    [({"max_connections": 1}, 1), ({"max_connections": 3}, 3), ({"keep_idle": 0, "max_connections": 1}, 7)],
)
async def test_connections_are_limited_and_kept_as_the_options_say(options: dict[str, Any], most: int) -> None:
    seen = set()

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        seen.add(request.transport.get_extra_info("peername"))
        return web.json_response({})

    async with client_of(answer, **options) as client:
        for _ in range(2):
            await asyncio.gather(*(client.request("GET", "/a") for _ in range(3)))
        await client.request("GET", "/a")
    assert len(seen) <= most and (most < 7 or len(seen) == most)


def test_a_shared_client_is_opened_once_and_anew_in_another_event_loop() -> None:
    async def use(shared: SharedClient, url: str) -> None:
        both = await asyncio.gather(shared.client(), shared.client())
        assert both[0] is both[1] and both[0].place in url

    async def serve(shared: SharedClient | None, *, close: bool) -> SharedClient:
        roots = 0

        async def answer(request: web.Request) -> web.Response:
            nonlocal roots
            roots += 1
            return web.json_response(_root("3.1.0", distribution="opensearch"))

        async with playing(answer) as url:
            made = shared or SharedClient(Elasticsearch(url), "target")
            made._options = Elasticsearch(url)
            await use(made, url)
            await use(made, url)
            assert roots == 1
            if close:
                await made.close()
                await made.close()
                await use(made, url)
                assert roots == 2
                await made.close()
        return made

    shared = asyncio.run(serve(None, close=False))
    asyncio.run(serve(shared, close=True))


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
async def test_what_was_sent_over_a_line_that_is_cut_is_not_sent_again(method: str) -> None:
    """The client library would: an index that a first request has created would then be there already."""
    sent: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        sent.append(request.method)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with client_of(answer) as client:
        with pytest.raises(ConnectionFailed):
            await client.request(method, "/orders", body={})
        assert sent == [method]
