"""End a scan that hangs: no row comes, nothing answers, and nobody would ever notice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio

from retl.model.duration import Duration, format_duration, parse_duration
from retl.model.errors import TransientError
from retl.pulse import Pulse, pulse
from retl.threads import Grace, graced

STALL_TIMEOUT = "10m"
_TOLD_SECONDS = 60.0
_CLEAN_UP_SECONDS = 10.0
"""How long a scan that hung may take to close its connections; then they are left behind."""


def parse_stall_timeout(value: Duration) -> float:
    """``stall_timeout`` in seconds; 0 turns it off. Raises ``ConfigError``."""
    return parse_duration(value, what="stall_timeout").total_seconds()


async def unless_stalled(work: Callable[[], Awaitable[None]], limit: float, tell: Callable[[float], None]) -> None:
    """Do ``work``, unless it stands still for ``limit`` seconds: then it is cancelled, and a ``TransientError`` raised.

    ``tell`` is called once for each time that it stands still for a minute, or for half of the limit.
    """
    if not limit:
        await work()
        return
    failure: Exception | None = None
    stalled = False
    with pulse() as beats, graced() as grace:
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                nonlocal stalled
                await _until_still(beats, limit, tell)
                stalled = True
                _lose_patience(grace)
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            try:
                await work()
            except Exception as error:  # raised again outside the group, so that it stays plain
                failure = error
            tasks.cancel_scope.cancel()
    if stalled:
        raise TransientError(
            f"no row came and nothing answered for {format_duration(limit)}, so the scan was given up.",
            remedy="look for what hangs; if it is a query that takes so long, raise stall_timeout.",
        ) from failure
    if failure is not None:
        raise failure


async def _until_still(beats: Pulse, limit: float, tell: Callable[[float], None]) -> None:
    warn_after = min(_TOLD_SECONDS, limit / 2)
    told = False
    while (still := beats.still) < limit:
        if still >= warn_after and not told:
            tell(still)
        told = still >= warn_after
        await anyio.sleep(min(1.0, limit / 10))


def _lose_patience(grace: Grace) -> None:
    asyncio.get_running_loop().call_later(_CLEAN_UP_SECONDS, grace.end)
