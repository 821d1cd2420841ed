"""Questions to one bucket: over one wire for all scans, asked again where that helps, with errors of retl."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
import anyio
import anyio.to_thread

from retl.connectors.files.stores.objects.credentials import Credentials, base_url, new_session, region_of
from retl.connectors.files.stores.objects.download import Taker
from retl.connectors.files.stores.objects.errors import DRIVER, EXPIRED, code_of, to_retl
from retl.connectors.files.stores.objects.options import Limits, Location, Login
from retl.connectors.files.stores.objects.wire import Method, Wire
from retl.connectors.net.retry import RetryBudget
from retl.model.errors import ConfigError, TransientError
from retl.threads import shielded

ATTEMPTS = 5
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0
_RENEWED = "nothing: they are looked up afresh, and it is tried again."

T = TypeVar("T")


def budget() -> RetryBudget:
    """How often something is tried before its scan fails, which is then tried again as a whole."""
    return RetryBudget(attempts=ATTEMPTS, first=FIRST_PAUSE, longest=LONGEST_PAUSE)


def begin(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task whose error is raised where its result is asked for, and nowhere else."""
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


class ObjectClient:
    """The wire to a bucket, opened when it is first needed, and anew where its credentials have expired."""

    def __init__(self, location: Location, login: Login, limits: Limits, requester_pays: bool = False) -> None:
        self.location = location
        self._login = login
        self._limits = limits
        self._payer = {"x-amz-request-payer": "requester"} if requester_pays else {}
        self._lock = anyio.Lock()
        self._wire: Wire | None = None
        self._expired: list[Wire] = []
        self._renewed = False

    @property
    def place(self) -> str:
        """The endpoint, for messages."""
        return self.location.endpoint or f"S3 in {self.location.region or 'its region'}"

    async def patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What an attempt gives, which is made again after a ``TransientError``, a few times."""
        spent = budget()
        while True:
            try:
                return await attempt()
            except TransientError as error:
                await spent.wait(error, exactly=error.retry_after)

    async def get(self, what: str, query: Mapping[str, str], headers: Mapping[str, str]) -> bytes:
        """The whole answer of the bucket itself to a question."""

        async def attempt() -> bytes:
            async with self.ask("GET", "", what, query, headers) as answer:
                return await answer.read()

        return await self.patiently(attempt)

    async def head(self, key: str, what: str) -> Mapping[str, str]:
        """What the store says of an object."""

        async def attempt() -> Mapping[str, str]:
            async with self.ask("HEAD", key, what) as answer:
                return answer.headers

        return await self.patiently(attempt)

    @asynccontextmanager
    async def ask(
        self, method: Method, key: str, what: str, query: Mapping[str, str] = {}, headers: Mapping[str, str] = {}
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to one question, asked once. What is raised within the block becomes an error of retl as well."""
        async with (
            self._asking(what) as wire,
            wire.ask(method, key, query, {**headers, **self._payer}) as answer,
        ):
            self._answered(wire)
            yield answer

    async def fetch(self, key: str, what: str, headers: Mapping[str, str], taker: Taker, *, large: bool) -> None:
        """The answer to a GET of an object, asked once and given to a taker. ``large``: it is received by a thread."""
        async with self._asking(what) as wire:
            await wire.fetch(key, {**headers, **self._payer}, taker, large=large)
            self._answered(wire)

    @asynccontextmanager
    async def _asking(self, what: str) -> AsyncIterator[Wire]:
        wire = None
        try:
            wire = await self._connected()
            yield wire
        except DRIVER as error:
            if code_of(error) in EXPIRED and await self._renew(wire):
                raise TransientError(f"the credentials have expired while {what}.", remedy=_RENEWED) from error
            raise to_retl(error, what, self.place) from error

    async def _renew(self, wire: Wire | None) -> bool:
        """Whether other credentials may help: those of the environment are looked up afresh, but not again where the fresh
        ones were refused, whichever of many readers was told so."""
        async with self._lock:
            if wire is None:
                return True
            if self._wire is wire:
                # Others may still read by it.
                self._expired.append(wire)
                self._wire = None
            self._renewed = True
            return not wire.last_hope

    def _answered(self, wire: Wire) -> None:
        self._renewed = wire.last_hope = False

    async def _connected(self) -> Wire:
        async with self._lock:
            if self._wire is None:
                self._wire = await self._connect()
                self._wire.last_hope = self._renewed
            return self._wire

    async def _connect(self) -> Wire:
        session = await anyio.to_thread.run_sync(new_session, self._login)
        region = await anyio.to_thread.run_sync(region_of, session, self.location)
        if region is None:
            raise ConfigError(
                f"{self.location.root} needs a region.", remedy='name that of the bucket: region = "eu-central-1".'
            )
        url = await base_url(session, self.location, region)
        return await Wire.open(url, region, Credentials(session, self._login, region), self._limits)

    async def aclose(self) -> None:
        wires = [*self._expired, *([] if self._wire is None else [self._wire])]
        self._expired, self._wire = [], None
        for wire in wires:
            await shielded(wire.aclose())
