"""What the structs that users get have in common: plain data of them, and their times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

EPOCH = datetime.fromtimestamp(0, UTC)
"""Stands for a time of day that nobody has noted."""


class Plain(msgspec.Struct, frozen=True):
    """A value that is handed to users. Times of day are aware ``datetime`` in UTC; durations are seconds, as ``float``."""

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts, lists, texts and numbers, which FastAPI, pydantic and ``json`` take; times are ISO 8601 in UTC."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


def time_text(moment: datetime) -> str:
    """A time of day as the state store keeps it beside its rows: ISO 8601 in UTC, to the microsecond, so that it sorts by time."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def time_of(text: str) -> datetime:
    """The time of day that a text of the state store says; ``EPOCH`` where it is damaged."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return EPOCH
    return found if found.tzinfo else found.replace(tzinfo=UTC)
