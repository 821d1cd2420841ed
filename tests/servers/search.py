"""A running Elasticsearch or OpenSearch, as tests see it."""

from __future__ import annotations

import base64
import copy
import http.client
import json
import os
import secrets
import ssl
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import anyio.to_thread
import msgspec

from tests.servers.process import Owned, Process

START_SECONDS = 300.0
ANSWER_SECONDS = 60.0


class Refused(Exception):
    """The server's answer to a question that it does not like."""

    def __init__(self, asked: str, status: int, answer: Any) -> None:
        super().__init__(f"{asked}: {status} {answer}")
        self.status = status
        self.answer = answer


class Hit(msgspec.Struct, rename={"id": "_id", "index": "_index", "routing": "_routing", "source": "_source"}):
    """A document as the server keeps it: its source to the byte."""

    id: str
    index: str
    routing: str | None = None
    source: msgspec.Raw = msgspec.Raw(b"null")


class _Hits(msgspec.Struct):
    hits: list[Hit]


class _Page(msgspec.Struct):
    scroll_id: str = msgspec.field(name="_scroll_id")
    timed_out: bool
    hits: _Hits


class SearchServer(Owned):
    """A server that a test may do everything with. Its questions go through the standard library, never through retl.

    All methods block but ``run``; a test whose scan has to go on meanwhile calls them in a thread.
    """

    def __init__(self, product: str, url: str, process: Process | None = None, ca: str | None = None) -> None:
        self.product = product
        # With user and password, where it wants them.
        self.url = url
        self.version = ""
        # The file of the authority that signed its certificate.
        self.ca = ca
        self._process = process

    def __repr__(self) -> str:
        return f"<{self.product} {self.version} on {self.host}:{self.port}>"

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 9200)

    def at(self, host: str, port: int) -> SearchServer:
        """The same server, reached by another way: through a proxy."""
        other = copy.copy(self)
        other.url = self.url.replace(f"{self.host}:{self.port}", f"{host}:{port}")
        return other

    def ask(self, method: str, path: str, body: Any = None, *, allow: Collection[int] = ()) -> Any:
        """One request in a connection of its own; the answer's JSON, decoded.

        ``body`` is a value, or the bytes of many lines. ``Refused`` for a status of 400 and above that is not allowed.
        """
        status, answer = self._exchange(method, path, body)
        found = json.loads(answer) if answer.strip() else None
        if status >= 400 and status not in allow:
            raise Refused(f"{method} {path}", status, found)
        return found

    async def run(self, method: str, path: str, body: Any = None, *, allow: Collection[int] = ()) -> Any:
        """``ask`` in a thread: scans go on meanwhile."""
        return await anyio.to_thread.run_sync(lambda: self.ask(method, path, body, allow=allow))

    def put(self, index: str, documents: Mapping[str, Any], *, routing: str | None = None, op: str = "index") -> None:
        """Write documents by their ids and make them visible. A value of ``bytes`` is JSON as it is to be kept."""
        action = {"routing": routing} if routing else {}
        self.bulk(index, (({op: {"_id": key, **action}}, document) for key, document in documents.items()))

    def bulk(self, index: str, items: Iterable[tuple[Mapping[str, Any], Any]]) -> None:
        """Write actions with their documents in one request, and make them visible. All of them must succeed."""
        lines = [json.dumps(action).encode() + b"\n" + _json(document) + b"\n" for action, document in items]
        if lines:
            answer = self.ask("POST", f"/{quote(index)}/_bulk?refresh=true", b"".join(lines))
            failed = [item for item in answer["items"] for result in item.values() if "error" in result]
            assert not failed, failed[:3]

    def each(self, index: str, *, refresh: bool = True) -> Iterator[Hit]:
        """All documents of an index, an alias, a pattern or a data stream, in no order."""
        path = quote(index, safe=",*")
        if refresh:
            self.ask("POST", f"/{path}/_refresh")
        body = {"size": 2000, "sort": ["_doc"]}
        if self.product == "Elasticsearch" and tuple(map(int, self.version.split(".")[:2])) >= (9, 2):
            body["_source"] = {"exclude_vectors": False}
        page = self._page(f"/{path}/_search?scroll=1m", body)
        while page.hits.hits:
            yield from page.hits.hits
            page = self._page("/_search/scroll", {"scroll": "1m", "scroll_id": page.scroll_id})
        self.ask("DELETE", "/_search/scroll", {"scroll_id": page.scroll_id})

    def hits(self, index: str, *, refresh: bool = True) -> list[Hit]:
        """``each``, as a list."""
        return list(self.each(index, refresh=refresh))

    def texts(self, index: str, *, refresh: bool = True) -> dict[str, bytes]:
        """The documents of an index by their ids, each to the byte. None is there twice."""
        found: dict[str, bytes] = {}
        for hit in self.each(index, refresh=refresh):
            assert hit.id not in found, f"{hit.id} is twice in {index}"
            found[hit.id] = bytes(hit.source)
        return found

    def documents(self, index: str, *, refresh: bool = True) -> dict[str, Any]:
        """The documents of an index by their ids, decoded. None is there twice."""
        return {key: json.loads(text) for key, text in self.texts(index, refresh=refresh).items()}

    @contextmanager
    def fresh_names(self) -> Iterator[str]:
        """A prefix that no name begins with; everything whose name does, with a dot or "retl-" before it or not, is gone afterwards."""
        prefix = f"retl{secrets.token_hex(6)}"
        try:
            yield prefix
        finally:
            self.remove(prefix)

    def remove(self, prefix: str) -> None:
        """Delete everything whose name begins so, with a dot or "retl-" before it or not."""
        found = self.ask("GET", f"/_resolve/index/{prefix}*,.{prefix}*,retl-{prefix}*?expand_wildcards=all")
        for stream in found["data_streams"]:
            # An Elasticsearch without the module for data streams has them, but lets nobody delete them.
            self.ask("DELETE", f"/_data_stream/{quote(stream['name'])}", allow=(400, 404, 405))
        for index in found["indices"]:
            if "data_stream" not in index:
                self.ask("DELETE", f"/{quote(index['name'])}", allow=(404,))
        for kind in ("_index_template", "_component_template", "_template", "_ingest/pipeline"):
            # 400: a data stream that is still there needs it.
            self.ask("DELETE", f"/{kind}/{prefix}*", allow=(400, 404))

    def start(self) -> None:
        """Start the server and wait until it answers."""
        process = self._own()
        process.start()
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.ask("GET", "/_cluster/health?wait_for_status=yellow&timeout=30s")
                self.look()
            except (OSError, http.client.HTTPException, Refused, ValueError) as error:
                if not process.running or time.monotonic() > deadline:
                    process.kill()
                    raise RuntimeError(f"{self.product} does not start: {error}\n{process.log()}") from error
                time.sleep(0.05)
            else:
                return

    def look(self) -> None:
        """Ask for the version: the server is up."""
        self.version = self.ask("GET", "/")["version"]["number"]

    def _page(self, path: str, body: Any) -> _Page:
        status, answer = self._exchange("POST", path, body)
        if status != 200:
            raise Refused(f"POST {path}", status, answer.decode(errors="replace"))
        page = msgspec.json.decode(answer, type=_Page)
        assert not page.timed_out
        return page

    def _exchange(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        parts = urlsplit(self.url)
        headers = {"Content-Type": "application/x-ndjson" if isinstance(body, bytes) else "application/json"}
        if parts.username:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        connection = http.client.HTTPConnection(self.host, self.port, timeout=ANSWER_SECONDS)
        if parts.scheme == "https":
            trust = ssl.create_default_context(cafile=self.ca)
            connection = http.client.HTTPSConnection(self.host, self.port, timeout=ANSWER_SECONDS, context=trust)
        with closing(connection):
            connection.request(method, path, None if body is None else _json(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()


def _json(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def given(product: str, variable: str) -> SearchServer | None:
    """The server that an environment variable names instead of one of our own."""
    url = os.environ.get(variable)
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{variable} is not of the form http://user:password@host:port")
    server = SearchServer(product, url.rstrip("/"))
    server.look()
    return server
