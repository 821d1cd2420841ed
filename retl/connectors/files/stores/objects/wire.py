"""Requests to one bucket over HTTP, signed. Connections are kept."""

from __future__ import annotations

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
from retl.connectors.files.stores.objects.answers import Refused, read_error
from retl.connectors.files.stores.objects.credentials import Credentials
from retl.connectors.files.stores.objects.options import Limits
from retl.connectors.net import tls

Method = Literal["GET", "HEAD"]

_BUFFER = 256 << 10
_LONGEST_ERROR = 64 << 10
# What stands for the answer to a HEAD, which has no body.
_CODES = {403: "AccessDenied", 404: "NoSuchKey", 412: "PreconditionFailed", 416: "InvalidRange"}
_SECURE = "https"


class Wire:
    """A bucket at an address, asked by whom ``credentials`` names."""

    def __init__(
        self, url: str, region: str, credentials: Credentials, http: aiohttp.ClientSession, proxy: str | None
    ) -> None:
        self._url = url
        place = urlsplit(url)
        self._host = place.netloc
        self._path = place.path
        self._region = region
        self._credentials = credentials
        self._http = http
        self._proxy = proxy

    @classmethod
    async def open(cls, url: str, region: str, credentials: Credentials, limits: Limits) -> Wire:
        """Connects nowhere yet. Raises ``ConfigError`` for authorities that cannot be read."""
        secure = urlsplit(url).scheme == _SECURE
        context = await anyio.to_thread.run_sync(tls.context, limits.tls_ca) if secure else None
        proxy = await anyio.to_thread.run_sync(_proxy, url)
        return cls(url, region, credentials, _http(context, limits), proxy)

    @asynccontextmanager
    async def ask(
        self, method: Method, key: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a question, whose body is not read yet. Raises ``Refused``, and the driver's errors."""
        question = signing.query_string(query)
        path = f"{self._path}/{signing.escaped(key, keep='/')}"
        # A host is part of what is signed, so it is sent as it is signed.
        sent = await self._signed(method, path, question, {"host": self._host, **headers})
        address = f"{self._url}{path[len(self._path) :]}" + (f"?{question}" if question else "")
        async with self._http.request(
            method, URL(address, encoded=True), headers=sent, proxy=self._proxy, allow_redirects=False
        ) as answer:
            if answer.status >= 300:
                raise await _error(method, answer)
            yield answer

    async def _signed(self, method: Method, path: str, question: str, headers: dict[str, str]) -> dict[str, str]:
        keys = await self._credentials.keys()
        if keys is None:
            return headers
        headers = signing.to_sign(keys, datetime.now(UTC), headers)
        authorization = signing.authorization(keys, self._region, method, path, question, headers)
        return {**headers, "authorization": authorization}

    async def aclose(self) -> None:
        await self._http.close()


def _http(context: ssl.SSLContext | None, limits: Limits) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=limits.connections, ssl=context or True),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_seconds, sock_read=limits.idle_seconds),
        # An object comes as it is stored.
        auto_decompress=False,
        headers={"accept-encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=_BUFFER,
    )


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for an address. Blocks: on some systems it looks into a registry."""
    place = urlsplit(url)
    return None if proxy_bypass(place.hostname or "") else getproxies().get(place.scheme)


async def _error(method: Method, answer: aiohttp.ClientResponse) -> Refused:
    body = b"" if method == "HEAD" else await answer.content.read(_LONGEST_ERROR)
    found = read_error(body) or {"Code": _CODES.get(answer.status, str(answer.status))}
    # The detailed code of OSS, and the region of a bucket, stand in headers where there is no body.
    for name, header in (("EC", "x-oss-ec"), ("Region", "x-amz-bucket-region")):
        if value := answer.headers.get(header):
            found.setdefault(name, value)
    after = answer.headers.get("retry-after", "")
    return Refused(answer.status, found, float(after) if after.isdecimal() else None)
