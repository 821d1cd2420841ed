"""What the checkpoint remembers of a table of documents."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from retl.connectors.yuque.answers import as_time

FACTS = "yuque"
"""Where the checkpoint's detail keeps them."""


@dataclass
class Facts:
    """Up to when the changes of each book are in the target, and when all documents were last listed."""

    words: str
    """A fingerprint of what is read of a document."""
    since: dict[int, datetime] = field(default_factory=dict)
    """By book: the last change that was seen, by the clock of the service, to its full precision."""
    listed_at: float = 0.0
    """The time of day here when all were last listed: it only decides when that is done again."""
    unfinished: bool = False
    """Whether a scan that replaces the whole table has not ended."""

    def is_due(self, every: float) -> bool:
        """Whether all documents are to be listed again. A clock that was set back makes it due, too."""
        return not 0 <= time.time() - self.listed_at < every

    def packed(self) -> dict[str, Any]:
        """The same for the checkpoint."""
        since = {str(book): moment.isoformat() for book, moment in self.since.items()}
        told: dict[str, Any] = {"words": self.words, "since": since, "listed_at": self.listed_at}
        return {FACTS: told | ({"unfinished": True} if self.unfinished else {})}


def unpacked(detail: Mapping[str, Any]) -> Facts | None:
    """What a checkpoint remembers; ``None`` where it knows nothing of the table."""
    told = detail.get(FACTS)
    if not isinstance(told, dict):
        return None
    since = told.get("since")
    return Facts(
        words=str(told.get("words", "")),
        since={
            int(book): moment
            for book, text in (since.items() if isinstance(since, dict) else ())
            if str(book).isdecimal() and (moment := as_time(text)) is not None
        },
        listed_at=float(told.get("listed_at") or 0.0),
        unfinished=bool(told.get("unfinished")),
    )
