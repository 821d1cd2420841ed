"""The connection to a cluster: one client for Elasticsearch 8 and 9 and for OpenSearch. Bodies stay bytes.

The only module that touches the client library. It sends nothing twice but what only reads: callers
know what may be asked twice. A node that cannot be reached has been sent nothing, so the next one is asked.
"""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import os
import ssl
import time
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import anyio
import anyio.to_thread
import elastic_transport
import msgspec
from elastic_transport import AiohttpHttpNode, HttpHeaders, NodeConfig, Serializer
from elastic_transport.client_utils import DEFAULT, parse_cloud_id
from elasticsearch import AsyncElasticsearch

from retl.connectors.base import SystemInfo
from retl.connectors.elasticsearch.errors import Role, moved, server_error, too_large, understood, unexpected
from retl.connectors.elasticsearch.options import Login, Node, ServerOptions
from retl.connectors.elasticsearch.server import Server
from retl.connectors.net import tls
from retl.connectors.net.tls import unreachable, untrusted, was_cut
from retl.model.errors import ConfigError

_JSON = "application/json"
_NDJSON = "application/x-ndjson"
_EVERY_ERROR = range(300, 600)
_LARGE_BODY = 2**20
_MOST_BYTES = 2**29
"""The longest answer that is read: larger than any page of documents."""
_MOST_DECODED = 2**26
"""The longest answer that is decoded as a whole, where no documents are asked for."""


def is_text(text: str) -> bool:
    """Whether a text is free of lone surrogates, which can neither be sent nor kept as text."""
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def quoted(name: str) -> str:
    """An index's name, a pattern or a list of them as a part of a path."""
    return quote(name, safe=",*")


class Answer(NamedTuple):
    """What the server said: the body is what came, not decoded."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body, decoded. Raises ``ConnectionFailed`` where it does not come from a search server, or is too long."""
        if len(self.body) > _MOST_DECODED:
            raise too_large("the server", _MOST_DECODED)
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            pass
        try:
            # It takes lone surrogates, which the names of fields may hold.
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise unexpected(self.body) from None


class Client:
    """A cluster that answers. Opened by ``open``; ``close`` may be called more than once."""

    def __init__(self, client: AsyncElasticsearch, server: Server, role: Role, login: Login) -> None:
        self._client = client
        self.server = server
        self.role: Role = role
        self.place = login.place
        self.warnings = login.warnings()
        self.timeout = login.timeout
        """Maximum seconds for one answer."""
        self._closed = False
        self.process = os.getpid()
        self._loop = asyncio.get_running_loop()

    @property
    def is_here(self) -> bool:
        """Whether it belongs to this process and event loop: a session does not pass to another one."""
        return self.process == os.getpid() and self._loop is asyncio.get_running_loop()

    @classmethod
    async def open(cls, options: ServerOptions, role: Role) -> Client:
        """Reach the cluster and ask who it is. Raises ``ConnectionFailed`` or ``ConfigError``."""
        try:
            login = await _login(options)
            client = await anyio.to_thread.run_sync(_build, login)
            opened = cls(client, Server("", (), ""), role, login)
            try:
                answer = await opened.call("GET", "/")
                with understood(login.place):
                    opened.server = Server.of(answer)
            except BaseException:
                await opened.close()
                raise
        except ConfigError as error:
            error.with_context(system=options.type_name)
            raise
        return opened

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: bytes | Mapping[str, Any] | None = None,
        ndjson: bool = False,
        allow: Collection[int] = (),
        timeout: float | None = None,
    ) -> Answer:
        """The answer to one request, sent once. A status of 300 or more that is not in ``allow`` raises.

        ``timeout`` is for what takes longer than the options say of everything else.
        """
        if self._closed:
            raise unreachable("it was closed", self.place)
        headers = {"accept": _JSON}
        if body is not None:
            headers["content-type"] = _NDJSON if ndjson else _JSON
            if not isinstance(body, bytes):
                body = msgspec.json.encode(body)
        client = self._client if timeout is None else self._client.options(request_timeout=timeout)
        for nodes_left in reversed(range(len(self._client.transport.node_pool))):
            try:
                answer = await client.perform_request(method, path, params=params, headers=headers, body=body)
                break
            except _Moved as error:
                raise moved(error.message, self.place) from None
            except _TooLarge:
                raise too_large(self.place, _MOST_BYTES) from None
            except elastic_transport.TlsError as error:
                raise untrusted(error.message, self.place) from None
            except elastic_transport.ConnectionTimeout:
                raise unreachable("it did not answer in time", self.place) from None
            except elastic_transport.TransportError as error:
                if not nodes_left or not isinstance(error, _NotReached):
                    raise unreachable(error.message or type(error).__name__, self.place) from None
            except (OSError, RuntimeError) as error:  # aiohttp: the session was closed in between
                raise unreachable(str(error) or type(error).__name__, self.place) from None
        found = Answer(answer.meta.status, answer.body if isinstance(answer.body, bytes) else b"")
        if found.status >= 300 and found.status not in allow:
            raise server_error(found.status, found.body, self.role, self.place)
        return found

    async def call(self, method: str, path: str, **words: Any) -> Any:
        """The decoded JSON of a small answer; ``words`` are those of ``request``."""
        return (await self.request(method, path, **words)).json()

    async def close(self) -> None:
        self._closed = True
        await self._client.close()


class _Received(NamedTuple):
    """An answer as the client library expects it from a node."""

    meta: elastic_transport.ApiResponseMeta
    body: bytes


class _NotReached(elastic_transport.ConnectionError):
    """No connection was made, so nothing was sent."""


class _Moved(elastic_transport.TransportError):
    """The server names another address."""


class _TooLarge(elastic_transport.TransportError):
    """The answer is too long to wait for its end."""


class _Bytes(Serializer):
    """Passes a body on as it is."""

    def loads(self, data: bytes) -> bytes:
        return data

    def dumps(self, data: bytes) -> bytes:
        return data


class _PlainNode(AiohttpHttpNode):
    """Speaks plain JSON, which every version accepts, and lets every product pass the client's check."""

    async def perform_request(  # type: ignore[override]
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: HttpHeaders | None = None,
        request_timeout: Any = DEFAULT,
    ) -> Any:
        sent = HttpHeaders(headers or {})
        for name in ("accept", "content-type"):
            if name in sent:
                sent[name] = _NDJSON if "ndjson" in sent[name] else _JSON
        # aiohttp would write a large body in one go, while the loop waits.
        data: Any = io.BytesIO(body) if body is not None and len(body) > _LARGE_BODY else body
        seconds = self.config.request_timeout if request_timeout is DEFAULT else request_timeout
        try:
            return await self._exchange(method, target, data, sent, seconds)
        except TimeoutError:
            raise elastic_transport.ConnectionTimeout("it did not answer in time") from None
        except (ssl.SSLError, aiohttp.ClientSSLError) as error:
            if was_cut(getattr(error, "os_error", error)):
                raise _NotReached(str(error)) from None
            raise elastic_transport.TlsError(str(error)) from None
        except (aiohttp.ClientError, OSError) as error:
            reached = not isinstance(error, aiohttp.ClientConnectorError)
            raise (elastic_transport.ConnectionError if reached else _NotReached)(str(error)) from None

    def _make_session(self) -> aiohttp.ClientSession:
        """A session whose idle connections are kept for as long as the options say."""
        seconds = self.config._extras["keep_idle"]
        kept: dict[str, Any] = {"keepalive_timeout": seconds} if seconds else {"force_close": True}
        connector = aiohttp.TCPConnector(
            limit=0, limit_per_host=self.config.connections_per_node, ssl=self.config.ssl_context or False, **kept
        )
        unsaid = ("accept", "accept-encoding", "user-agent")
        jar = aiohttp.DummyCookieJar()
        return aiohttp.ClientSession(
            headers=self.headers, skip_auto_headers=unsaid, cookie_jar=jar, connector=connector
        )

    async def _exchange(self, method: str, target: str, data: Any, sent: HttpHeaders, seconds: float | None) -> Any:
        """One request and its answer. No redirect is followed, and the length of the answer is limited."""
        if self.session is None:
            self.session = self._make_session()
        headers = self.headers.copy()
        headers.update(sent)
        began = time.monotonic()
        async with self.session.request(
            method,
            self.base_url + target,
            data=data or None,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=seconds),
            middlewares=(_sent_once,),
            allow_redirects=False,
            auto_decompress=False,
        ) as answer:
            if "location" in answer.headers and 300 <= answer.status < 400:
                raise _Moved(answer.headers["location"])
            body = await _read(answer)
        received = HttpHeaders(answer.headers)
        received["x-elastic-product"] = "Elasticsearch"
        received["content-type"] = _JSON
        received.pop("warning", None)  # about our own requests, which no user has written
        meta = elastic_transport.ApiResponseMeta(answer.status, "1.1", received, time.monotonic() - began, self.config)
        return _Received(meta, body)


async def _sent_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a request, and not once more where the connection is lost.

    aiohttp sends a PUT or DELETE again over another connection: what the first one did would look like a conflict.
    """
    try:
        return await send(request)
    except (aiohttp.ClientConnectorError, TimeoutError):
        raise
    except aiohttp.ClientConnectionError as error:
        if request.method in ("GET", "HEAD"):
            raise
        raise aiohttp.ClientConnectionError(str(error)) from error


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """The body as it comes: compressed ones are refused, since they may expand without end."""
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise aiohttp.ClientPayloadError("the answer is packed, though nobody has asked for that")
    pieces = []
    size = 0
    async for piece in answer.content.iter_any():
        size += len(piece)
        if size > _MOST_BYTES:
            raise _TooLarge("")
        pieces.append(piece)
    return b"".join(pieces)


async def _login(options: ServerOptions) -> Login:
    """The login with every address, and with the certificates that are to be trusted."""
    # Files are read.
    login = await anyio.to_thread.run_sync(options.login)
    if login.cloud_id is not None:
        login = dataclasses.replace(login, nodes=(_cloud(login.cloud_id),))
    secured = [node for node in login.nodes if node.scheme == "https"]
    if login.fingerprint is not None and secured:
        login = dataclasses.replace(
            login, tls=await tls.pinned([(node.host, node.port) for node in secured], login.fingerprint, login.timeout)
        )
    return login


def _cloud(cloud_id: str) -> Node:
    """The address that a cloud id stands for."""
    try:
        host, port = parse_cloud_id(cloud_id).es_address or ("", 0)
    except ValueError:
        host, port = "", 0
    if not host:
        raise ConfigError("cloud_id is not valid.", remedy="copy it from the deployment's page.")
    return Node("https", host, port)


def _build(login: Login) -> AsyncElasticsearch:
    serializer = _Bytes()
    media = (_JSON, _NDJSON, "application/vnd.elasticsearch+json", "application/vnd.elasticsearch+x-ndjson")
    client = AsyncElasticsearch(
        [_node(node, login) for node in login.nodes],
        node_class=_PlainNode,
        serializers=dict.fromkeys(media, serializer),
        max_retries=0,
        retry_on_status=(),
        retry_on_timeout=False,
    )
    # Not by the client's own options, which accept passwords of ASCII only.
    headers = {} if login.authorization is None else {"authorization": login.authorization}
    return client.options(headers=headers, ignore_status=_EVERY_ERROR)


def _node(node: Node, login: Login) -> NodeConfig:
    """One address; bodies are not compressed, since compression would block the event loop."""
    secured: dict[str, Any] = {"ssl_context": login.tls, "ssl_show_warn": False} if node.scheme == "https" else {}
    return NodeConfig(
        node.scheme,
        node.host,
        node.port,
        path_prefix=node.path,
        request_timeout=login.timeout,
        connections_per_node=login.max_connections,
        _extras={"keep_idle": login.keep_idle},
        **secured,
    )


class SharedClient:
    """The one client of a door, opened with the first request and shared by all that the door does."""

    def __init__(self, options: ServerOptions, role: Role) -> None:
        self._options = options
        self._role: Role = role
        self._client: Client | None = None
        self._opening = anyio.Lock()

    async def client(self) -> Client:
        """The client; a new one after ``close``, in another event loop and in a process that was forked."""
        async with self._opening:
            if self._client is not None and not self._client.is_here:
                await self._abandon(self._client)
            if self._client is None:
                self._client = await Client.open(self._options, self._role)
            return self._client

    async def ping(self) -> SystemInfo:
        """Who answers now."""
        client = await Client.open(self._options, self._role)
        await client.close()
        return SystemInfo(client.server.name, client.server.number, warnings=client.warnings)

    async def _abandon(self, client: Client) -> None:
        self._client = None
        if client.process == os.getpid():
            await client.close()
        else:
            _of_parents.append(client)

    async def close(self) -> None:
        """Close the client at once. It may be called more than once, and the next use opens it again."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


_of_parents: list[Client] = []
"""Clients of the process that forked this one: here they are neither used nor closed."""
