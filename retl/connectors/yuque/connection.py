"""Questions to the service: over one wire for all scans, patient with its quota, asked again where that helps."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from retl.connectors.net.retry import RetryBudget
from retl.connectors.yuque.errors import QuotaSpent, QuotaUsedUp, no_json
from retl.connectors.yuque.settings import Login
from retl.connectors.yuque.wire import Wire
from retl.model.errors import TransientError
from retl.threads import shielded

ATTEMPTS = 5
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
_TOLD_FROM = 1.0
"""A shorter pause is nothing that people should know."""

Tell = Callable[[str], None]


class YuqueConnection:
    """The service, for all scans of a door: no request is sent while its quota is used up."""

    def __init__(self, login: Login) -> None:
        self.login = login
        self._wire: Wire | None = None
        self._opening = anyio.Lock()
        self._shut_until = 0.0
        """By the monotonic clock; one token, so one quota for all scans."""

    async def get(self, path: str, query: Mapping[str, str], what: str, tell: Tell) -> bytes:
        """The answer to a question, as it came. ``tell`` says to people how long the service makes them wait."""
        budget = RetryBudget(attempts=ATTEMPTS, first=FIRST_PAUSE, longest=LONGEST_PAUSE)
        quota = RetryBudget(seconds=self.login.longest_wait)
        while True:
            await self._wait_for_quota(quota, what, tell)
            try:
                return await (await self._connected()).get(path, query, what)
            except QuotaSpent as error:
                if error.retry_after is None:
                    await budget.wait(error)
                else:
                    self._shut_until = max(self._shut_until, time.monotonic() + error.retry_after)
            except TransientError as error:
                await budget.wait(error, exactly=error.retry_after)

    async def _wait_for_quota(self, quota: RetryBudget, what: str, tell: Tell) -> None:
        """Wait as long as the service has asked for, in full; raises where that is longer than the options allow."""
        while (left := self._shut_until - time.monotonic()) > 0:
            until = f"{datetime.now(UTC) + timedelta(seconds=left):%Y-%m-%d %H:%M:%S} UTC"
            error = QuotaUsedUp(
                f"{what}: the quota of requests{self._limit()} is used up until {until}.",
                remedy="nothing: the first scan after that goes on behind what is in the target. Raise longest_wait to wait for it "
                "within one scan.",
            )
            if left >= _TOLD_FROM:
                tell(f"the quota of requests{self._limit()} is used up: waiting until {until}, as the service asks.")
            await quota.wait(error, exactly=left)

    def _limit(self) -> str:
        limit = None if self._wire is None else self._wire.quota.limit
        return "" if limit is None else f" ({limit:,})"

    async def _connected(self) -> Wire:
        async with self._opening:
            if self._wire is not None and not self._wire.is_here:
                await self._abandon(self._wire)
            if self._wire is None:
                self._wire = await Wire.open(self.login)
            return self._wire

    async def _abandon(self, wire: Wire) -> None:
        self._wire = None
        if wire.is_ours:
            await wire.aclose()
        else:
            _of_parents.append(wire)

    async def aclose(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            await shielded(wire.aclose())


_of_parents: list[Wire] = []
"""Those of the process that forked this one."""


async def decoded(body: bytes, what: str) -> Any:
    """An answer as Python values. Raises ``SourceError`` where it is not JSON."""
    return await anyio.to_thread.run_sync(_decode, body, what)


def _decode(body: bytes, what: str) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    try:
        # Half a character of one document must not hide the others.
        whole = json.dumps(json.loads(body), ensure_ascii=False).encode("utf-8", "replace")
        return msgspec.json.decode(whole)
    except (ValueError, RecursionError):
        raise no_json(what) from None
