"""A part of a cursor's values, given by people: typed as the cursor is, and written as the source writes it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TypeAlias

from retl.model.cursor import CursorFamily, compare, in_form_of
from retl.model.errors import ConfigError, SourceError
from retl.model.typed import wrong_type

Bound: TypeAlias = "datetime | date | int | Decimal | str"
"""A value of a cursor, as people give it."""

_MINUTES = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d", re.ASCII)
_REMEDIES = {
    "time": 'write a time such as "2024-05-01" or "2024-05-01 12:30:00", or give a datetime',
    "date": 'write a day such as "2024-05-01", or give a date',
    "integer": "give a whole number",
    "decimal": "give a number",
    "text": "give text as the column holds it",
}


@dataclass(frozen=True, slots=True)
class CursorRange:
    """The rows with ``since <= cursor < until``; an end that is ``None`` is open. Rows without a cursor value are in none."""

    since: str | None = None
    until: str | None = None

    @classmethod
    def of(cls, since: Bound | None, until: Bound | None) -> CursorRange:
        """Raises ``ConfigError`` for values that no cursor has, and where both ends are open."""
        if since is None and until is None:
            raise ConfigError(
                "neither since nor until is given.",
                remedy="give one of them, or both; `retl reset` lets the next scan read everything.",
            )
        return cls(_text("since", since), _text("until", until))

    def typed(self, reference: str | None, family: CursorFamily, *, utc: bool = False) -> CursorRange:
        """The same as the source writes a value such as ``reference``: with its separator and its zone.

        ``utc``: its times are in UTC, though their text has no zone. Raises ``ConfigError`` for an end that is no value of such a cursor, and for ends in the wrong order.
        """
        form = (reference, family, utc)
        found = CursorRange(_typed("since", self.since, *form), _typed("until", self.until, *form))
        ends = (found.since, found.until)
        if ends[0] is not None and ends[1] is not None and family != "text" and compare(ends[0], ends[1], family) >= 0:
            raise ConfigError(
                f"since is {self.since} and until is {self.until}, so no row lies between them.",
                remedy="since is the first value that is read, and until the first one that is not.",
            )
        return found

    def __str__(self) -> str:
        return " ".join(f"{word} {value}" for word, value in (("since", self.since), ("until", self.until)) if value)


def _text(word: str, value: Bound | None) -> str | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise wrong_type(word, value, "a value of the cursor: a datetime, a date, a whole number or text")
    if not str(value).strip():
        raise ConfigError(f"{word} is empty.", remedy="give a value of the cursor, or leave it out.")
    return str(value).strip()


def _typed(word: str, text: str | None, reference: str | None, family: CursorFamily, utc: bool) -> str | None:
    if text is None:
        return None
    if _MINUTES.fullmatch(text):
        text += ":00"
    try:
        found = in_form_of(text, reference, family, utc=utc)
        compare(found, found, family)
    except SourceError:
        raise ConfigError(f"{word} is {text!r}, not a value of the cursor.", remedy=_REMEDIES[family] + ".") from None
    return found
