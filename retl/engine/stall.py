"""End a scan that hangs: no row comes, nothing answers, and nobody would ever notice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio

from retl.model.duration import Duration, format_duration, parse_duration
from retl.model.errors import TransientError
from retl.pulse import Pulse, pulse
from retl.threads import Grace, end_task, graced

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
    stalled = False
    with pulse() as beats, graced() as grace, anyio.CancelScope() as scope:

        async def watch() -> None:
            nonlocal stalled
            await _until_still(beats, limit, tell)
            stalled = True
            _lose_patience(grace)
            scope.cancel()

        # A task of its own, and no task group: a scope that is cancelled at every end would have to be told from a
        # cancellation that the work, or a driver below it, has answered by an error.
        watching = asyncio.get_running_loop().create_task(watch())
        try:
            await work()
        except Exception:
            if not stalled:
                raise
        finally:
            await end_task(watching, patience=_CLEAN_UP_SECONDS)
    if stalled:
        raise TransientError(
            f"no row came and nothing answered for {format_duration(limit)}, so the scan was given up.",
            remedy="look for what hangs; if it is a query that takes so long, raise stall_timeout.",
        )


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
