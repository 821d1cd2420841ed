"""Requests over HTTP: one at a time or a few at once, with the headers that the service wants."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import anyio
import anyio.to_thread
import msgspec

from retl.connectors.net import tls
from retl.connectors.yuque.errors import lost_line, moved, refused, too_large
from retl.connectors.yuque.settings import Login

_LONGEST_ERROR = 64 << 10
_EPOCH = 1_000_000_000
"""A reset above it is a time of day, below it a number of seconds."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What the last answer said of the quota; ``None`` where it said nothing."""

    limit: int | None = None
    left: int | None = None


class Wire:
    """The connections of one event loop of one process to the service."""

    def __init__(self, login: Login, http: aiohttp.ClientSession, proxy: str | None) -> None:
        self._login = login
        self._http = http
        self._proxy = proxy
        self._places = anyio.Semaphore(login.at_once)
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self.quota = Quota()

    @property
    def is_here(self) -> bool:
        """Whether it belongs to this process and event loop."""
        return self._process == os.getpid() and self._loop is asyncio.get_running_loop()

    @property
    def is_ours(self) -> bool:
        """Whether it belongs to this process: one of the parent's is neither used nor closed."""
        return self._process == os.getpid()

    @classmethod
    async def open(cls, login: Login) -> Wire:
        """Connects nowhere yet. Raises ``ConfigError`` for authorities that cannot be read."""
        secure = urlsplit(login.api).scheme == "https"
        context = await anyio.to_thread.run_sync(tls.context, login.tls_ca) if secure else None
        proxy = await anyio.to_thread.run_sync(_proxy, login.api)
        http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=login.at_once, ssl=context or True),
            timeout=aiohttp.ClientTimeout(total=login.timeout),
            headers={"x-auth-token": login.token, "user-agent": "retl", "accept": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return cls(login, http, proxy)

    async def get(self, path: str, query: Mapping[str, str], what: str) -> bytes:
        """The whole answer to a question, asked once. Raises errors of retl."""
        async with self._places:
            try:
                async with self._http.get(
                    self._login.api + path, params=query, proxy=self._proxy, allow_redirects=False
                ) as answer:
                    self.quota = _quota(answer.headers)
                    if answer.status == 200:
                        return await self._body(answer, what)
                    if "location" in answer.headers:
                        raise moved(answer.headers["location"], what)
                    message = _message(await answer.content.read(_LONGEST_ERROR))
                    raise refused(answer.status, message, what, pause_of(answer.headers))
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise lost_line(error, what, urlsplit(self._login.api).netloc) from None

    async def _body(self, answer: aiohttp.ClientResponse, what: str) -> bytes:
        pieces: list[bytes] = []
        size = 0
        async for piece in answer.content.iter_any():
            size += len(piece)
            if size > self._login.most_bytes:
                raise too_large(what, self._login.most_bytes)
            pieces.append(piece)
        return b"".join(pieces)

    async def aclose(self) -> None:
        await self._http.close()


def pause_of(headers: Mapping[str, str]) -> float | None:
    """The seconds that an answer asks to wait: ``Retry-After`` in either form, else when the quota begins anew."""
    after = headers.get("retry-after", "").strip()
    if (seconds := _number(after)) is not None:
        return seconds
    if after:
        try:
            due = parsedate_to_datetime(after)
        except ValueError:
            due = None
        if due is not None:
            return max(0.0, (due - _now_there(headers)).total_seconds())
    reset = _number(headers.get("x-ratelimit-reset", ""))
    if reset is None:
        return None
    return max(0.0, reset - _now_there(headers).timestamp()) if reset > _EPOCH else reset


def _now_there(headers: Mapping[str, str]) -> datetime:
    """The time of day by the clock of the server, which need not be ours."""
    try:
        return parsedate_to_datetime(headers.get("date", ""))
    except ValueError:
        return datetime.fromtimestamp(time.time(), UTC)


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if 0 <= found < float("inf") else None


def _quota(headers: Mapping[str, str]) -> Quota:
    limit, left = (_number(headers.get(f"x-ratelimit-{name}", "")) for name in ("limit", "remaining"))
    return Quota(None if limit is None else int(limit), None if left is None else int(left))


def _message(body: bytes) -> str:
    """What an error says of itself, in one line; empty where it says nothing that can be read."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ""
    said = found.get("message") or found.get("error") if isinstance(found, dict) else None
    return " ".join(str(said).split())[:300].rstrip(". ") if said else ""


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for an address. Blocks: on some systems it looks into a registry."""
    place = urlsplit(url)
    return None if proxy_bypass(place.hostname or "") else getproxies().get(place.scheme)
