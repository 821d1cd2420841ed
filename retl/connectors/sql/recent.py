"""What a step of a scan has found of a table, for the next step, which comes a moment later."""

from __future__ import annotations

import time
from typing import Generic, TypeVar

T = TypeVar("T")

_FRESH_SECONDS = 1.0
"""Maximum age of what the next step may use: somebody may change the table at any time."""


class Recent(Generic[T]):
    """The last finding of each table. It is used once, and only soon; else its table is looked at again."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, T]] = {}

    def put(self, table: str, found: T) -> None:
        self._found[table] = time.monotonic(), found

    def take(self, table: str) -> T | None:
        since, found = self._found.pop(table, (-_FRESH_SECONDS, None))
        return found if time.monotonic() - since < _FRESH_SECONDS else None
