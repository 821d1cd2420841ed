"""Forget old rejects: they hold people's data and are not kept for ever."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from datetime import timedelta

from retl.engine.context import now
from retl.model.errors import RetlError
from retl.state.base import StateStore

_MOST_REJECTS = 5_000
"""Most rejects of a table that are kept."""
_PRUNE_SECONDS = 3600.0


class Pruning:
    """Forgets the old rejects of one pipeline, once an hour."""

    def __init__(self, store: StateStore, pipeline: str, keep: timedelta) -> None:
        self._store = store
        self._pipeline = pipeline
        self._keep = keep
        self._pruned = -math.inf

    async def run(self) -> None:
        """After a run: prune, if it is time. Never fails."""
        if time.monotonic() - self._pruned < _PRUNE_SECONDS:
            return
        with suppress(RetlError):  # nothing depends on it, and the next run tries again
            await self._store.prune_rejects(self._pipeline, now() - self._keep, _MOST_REJECTS)
            self._pruned = time.monotonic()
