"""The line to a cluster: one client for Elasticsearch 8 and 9 and for OpenSearch. Bodies stay bytes.

The only module that touches the client library. It tries nothing again: whoever asks
knows what may be asked twice.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import anyio.to_thread
import elastic_transport
import msgspec
from elastic_transport import AiohttpHttpNode, HttpHeaders, NodeConfig, Serializer
from elastic_transport.client_utils import DEFAULT, parse_cloud_id
from elasticsearch import AsyncElasticsearch

from retl.connectors.elasticsearch.errors import Role, server_error, unexpected, unreachable, untrusted
from retl.connectors.elasticsearch.options import Login, ServerOptions
from retl.connectors.elasticsearch.products import Product
from retl.model.errors import ConfigError

_JSON = "application/json"
_NDJSON = "application/x-ndjson"
_EVERY_ERROR = range(300, 600)
_LARGE_BODY = 2**20
_CONNECTIONS = 32


def quoted(name: str) -> str:
    """An index's name, a pattern or a list of them as a part of a path."""
    return quote(name, safe=",*")


class Answer(NamedTuple):
    """What the server said: the body is what came, not decoded."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body, decoded. Raises ``ConnectionFailed`` where it is none of a search server."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise unexpected(self.body) from None


class Client:
    """A cluster, reached. Opened by ``open``; ``close`` may be called more than once."""

    def __init__(self, client: AsyncElasticsearch, product: Product, role: Role, place: str) -> None:
        self._client = client
        self.product = product
        self.role: Role = role
        self.place = place
        self._closed = False

    @classmethod
    async def open(cls, options: ServerOptions, role: Role) -> Client:
        """Reach the cluster and ask who it is. Raises ``ConnectionFailed`` or ``ConfigError``."""
        # Certificates are read from files.
        login, client = await anyio.to_thread.run_sync(_build, options)
        opened = cls(client, Product("", (), ""), role, login.place)
        try:
            answer = await opened.call("GET", "/")
            try:
                opened.product = Product.of(answer)
            except (KeyError, TypeError, IndexError):
                raise unexpected(msgspec.json.encode(answer)) from None
        except BaseException as error:
            await opened.close()
            if isinstance(error, ConfigError):
                error.located(system=options.type_name)
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
        try:
            answer = await client.perform_request(method, path, params=params, headers=headers, body=body)
        except elastic_transport.TlsError as error:
            raise untrusted(error.message, self.place) from None
        except elastic_transport.ConnectionTimeout:
            raise unreachable("it did not answer in time", self.place) from None
        except elastic_transport.TransportError as error:
            raise unreachable(error.message or type(error).__name__, self.place) from None
        except (OSError, RuntimeError) as error:  # of aiohttp: a session closed in between
            raise unreachable(str(error) or type(error).__name__, self.place) from None
        found = Answer(answer.meta.status, answer.body if isinstance(answer.body, bytes) else b"")
        if found.status >= 300 and found.status not in allow:
            raise server_error(found.status, found.body, self.role, self.place)
        return found

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: bytes | Mapping[str, Any] | None = None,
        ndjson: bool = False,
        allow: Collection[int] = (),
        timeout: float | None = None,
    ) -> Any:
        """The decoded JSON of a small answer."""
        answer = await self.request(method, path, params=params, body=body, ndjson=ndjson, allow=allow, timeout=timeout)
        return answer.json()

    async def close(self) -> None:
        self._closed = True
        await self._client.close()


class _Bytes(Serializer):
    """Hands a body through as it is."""

    def loads(self, data: bytes) -> bytes:
        return data

    def dumps(self, data: bytes) -> bytes:
        return data


class _PlainNode(AiohttpHttpNode):
    """Speaks plain JSON, which every version takes, and lets every product pass the client's check."""

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
        try:
            answer = await super().perform_request(method, target, data, sent, request_timeout)
        except elastic_transport.ConnectionError as error:
            if any(type(cause).__name__ == "ServerFingerprintMismatch" for cause in error.errors):
                raise elastic_transport.TlsError("its certificate has another fingerprint") from None
            raise
        received = HttpHeaders(answer.meta.headers)
        received["x-elastic-product"] = "Elasticsearch"
        received["content-type"] = _JSON
        received.pop("warning", None)  # said of our requests to us, not to whoever runs a pipeline
        return answer._replace(meta=dataclasses.replace(answer.meta, headers=received))

    def _log_request(self, *arguments: Any, **words: Any) -> None:
        """Nothing: it would decode whole bodies, and documents have no place in a log."""


def _build(options: ServerOptions) -> tuple[Login, AsyncElasticsearch]:
    login = options.login()
    serializer = _Bytes()
    media = (_JSON, _NDJSON, "application/vnd.elasticsearch+json", "application/vnd.elasticsearch+x-ndjson")
    client = AsyncElasticsearch(
        _nodes(login),
        node_class=_PlainNode,
        serializers=dict.fromkeys(media, serializer),
        max_retries=0,
        retry_on_status=(),
        retry_on_timeout=False,
    )
    # Not by the client's own options, which take a password of ASCII only.
    headers = {} if login.authorization is None else {"authorization": login.authorization}
    return login, client.options(headers=headers, ignore_status=_EVERY_ERROR)


def _nodes(login: Login) -> list[NodeConfig]:
    """Every address; a body is never compressed, which would hold the loop for as long as it takes."""
    addresses = [(node.scheme, node.host, node.port, node.path) for node in login.nodes]
    if login.cloud_id is not None:
        try:
            host, port = parse_cloud_id(login.cloud_id).es_address or (None, None)
        except ValueError:
            host = port = None
        if host is None or port is None:
            raise ConfigError("cloud_id is none.", remedy="copy it from the deployment's page.", system="elasticsearch")
        addresses = [("https", host, port, "")]
    common: dict[str, Any] = {"request_timeout": login.timeout, "connections_per_node": _CONNECTIONS}
    secured: dict[str, Any] = {
        "ssl_context": login.tls,
        "ssl_assert_fingerprint": login.fingerprint,
        "ssl_show_warn": False,
    }
    return [
        NodeConfig(scheme, host, port, path_prefix=path, **common, **(secured if scheme == "https" else {}))
        for scheme, host, port, path in addresses
    ]
