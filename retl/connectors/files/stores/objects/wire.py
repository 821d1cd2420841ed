"""Requests to one bucket over HTTP, signed. Connections are kept."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import anyio.to_thread
from yarl import URL

from retl.connectors.files.stores.objects import signing
from retl.connectors.files.stores.objects.answers import error_answer
from retl.connectors.files.stores.objects.credentials import Credentials
from retl.connectors.files.stores.objects.download import LONGEST_ERROR, Downloads, Taker
from retl.connectors.files.stores.objects.options import Limits
from retl.connectors.net import tls

Method = Literal["GET", "HEAD"]

_BUFFER = 256 << 10
_SECURE = "https"


class Wire:
    """A bucket at an address, asked by whom ``credentials`` names."""

    def __init__(
        self,
        url: str,
        region: str,
        credentials: Credentials,
        http: aiohttp.ClientSession,
        *,
        proxy: str | None,
        downloads: Downloads | None,
        connections: int,
    ) -> None:
        """``downloads``: connections for large answers; without them all come by ``http``."""
        self._url = url
        place = urlsplit(url)
        self._host = place.netloc
        self._path = place.path
        self._region = region
        self._credentials = credentials
        self._http = http
        self._proxy = proxy
        self._downloads = downloads
        self._room = asyncio.Semaphore(connections)
        self.last_hope = False
        """Whether it was opened since credentials had expired, and has not had an answer yet."""

    @classmethod
    async def open(cls, url: str, region: str, credentials: Credentials, limits: Limits) -> Wire:
        """Connects nowhere yet. Raises ``ConfigError`` for authorities that cannot be read."""
        secure = urlsplit(url).scheme == _SECURE
        context = await anyio.to_thread.run_sync(tls.context, limits.tls_ca) if secure else None
        proxy = await anyio.to_thread.run_sync(_proxy, url)
        return cls(
            url,
            region,
            credentials,
            _http(context, limits),
            proxy=proxy,
            downloads=None if proxy else Downloads(url, context, limits),
            connections=limits.connections,
        )

    @asynccontextmanager
    async def ask(
        self, method: Method, key: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a question, whose body is not read yet. Raises ``Refused``, and the driver's errors."""
        question, path = signing.query_string(query), self._path_of(key)
        sent = await self._to_send(method, path, question, headers)
        address = f"{self._url}{path[len(self._path) :]}" + (f"?{question}" if question else "")
        async with (
            self._room,
            self._http.request(
                method, URL(address, encoded=True), headers=sent, proxy=self._proxy, allow_redirects=False
            ) as answer,
        ):
            if answer.status >= 300:
                body = b"" if method == "HEAD" else await answer.content.read(LONGEST_ERROR)
                raise error_answer(answer.status, answer.headers, body)
            yield answer

    async def fetch(self, key: str, headers: Mapping[str, str], taker: Taker, *, large: bool) -> None:
        """The answer to a GET, given to a taker. Errors are those of ``ask``, and those of a socket."""
        if large and self._downloads is not None:
            path = self._path_of(key)
            async with self._room:
                await self._downloads.get(path, await self._to_send("GET", path, "", headers), taker)
            return
        async with self.ask("GET", key, {}, headers) as answer:
            taker.begin(answer.headers)
            async for block in answer.content.iter_any():
                taker.add(block)

    def _path_of(self, key: str) -> str:
        return f"{self._path}/{signing.escaped(key, keep='/')}"

    async def _to_send(self, method: Method, path: str, question: str, headers: Mapping[str, str]) -> dict[str, str]:
        # A host is part of what is signed, so it is sent as it is signed; an object comes as it is stored.
        signed = await self._signed(method, path, question, {"host": self._host, **headers})
        return {**signed, "accept-encoding": "identity"}

    async def _signed(self, method: Method, path: str, question: str, headers: dict[str, str]) -> dict[str, str]:
        keys = await self._credentials.keys()
        if keys is None:
            return headers
        headers = signing.to_sign(keys, datetime.now(UTC), headers)
        authorization = signing.authorization(keys, self._region, method, path, question, headers)
        return {**headers, "authorization": authorization}

    async def aclose(self) -> None:
        if self._downloads is not None:
            self._downloads.close()
        await self._http.close()


def _http(context: ssl.SSLContext | None, limits: Limits) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=limits.connections, ssl=context or True),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_seconds, sock_read=limits.idle_seconds),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=_BUFFER,
    )


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for an address. Blocks: on some systems it looks into a registry."""
    place = urlsplit(url)
    return None if proxy_bypass(place.hostname or "") else getproxies().get(place.scheme)
