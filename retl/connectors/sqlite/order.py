"""Check that a cursor kept as text sorts in the order of its meaning. No I/O."""

from __future__ import annotations

import re
from datetime import date, timedelta

import pyarrow as pa

from retl.connectors.sqlite.dialect import affinity
from retl.model.cursor import CursorFamily
from retl.model.errors import SourceError
from retl.model.schema import native_type

_TIME = re.compile(
    r"(?P<whole>\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?P<fraction>\.\d+)?(?P<zone>Z|[+-]\d\d:?\d\d)?|\d{4}-\d\d-\d\d([ T]\d\d:\d\d)?",
    re.ASCII,
)
A_TIME = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*"
_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
_OFFSETS = timedelta(days=2)
"""Texts whose dates are further apart are in order, whatever their zones."""


def out_of_order(cursor: pa.Field, family: CursorFamily, reference: str) -> tuple[str, str] | None:
    """Conditions on ``c``, for a lowest value and for others: the text does not sort as ``reference`` does.

    ``None`` if any text is in order.
    """
    if family in ("time", "date", "text") and (found := _TIME.fullmatch(reference)):
        # An old date is older in any form.
        no_date = f"c NOT GLOB '{A_TIME}'"
        return no_date, f"NOT ({_same_form(reference, found)})"
    text = family == "text" or (family == "decimal" and affinity(native_type(cursor)) == "TEXT")
    if text and _NUMBER.fullmatch(reference):
        other = f"c NOT GLOB '{_form(reference)}'"
        return other, other
    return None


def _same_form(reference: str, found: re.Match[str]) -> str:
    if found["whole"] is None or found["zone"]:
        return f"c GLOB '{_form(reference.removesuffix(found['zone'] or ''))}{found['zone'] or ''}'"
    # Fractions of any length are in order if nothing follows them.
    whole = _form(found["whole"])
    return f"c GLOB '{whole}' OR (c GLOB '{whole}.[0-9]*' AND SUBSTR(c, 21) NOT GLOB '*[^0-9]*')"


def _form(text: str) -> str:
    return re.sub(r"\d", "[0-9]", text)


def from_day(value: str) -> str | None:
    """The day from which another form could be out of order with a time; ``None`` if every value must be checked."""
    if not _TIME.fullmatch(value):
        return None
    day = date.fromisoformat(value[:10])
    return (day - min(_OFFSETS, day - date.min)).isoformat()


def no_time(cursor: str, table: str, value: str) -> SourceError:
    """The error of a cursor that is declared as a time and holds something else."""
    return SourceError(
        f"the cursor {cursor!r} is declared as a time, but it holds {value!r}.",
        remedy=f'if that counts time, let a query make a number of it: query = "SELECT *, CAST({cursor} AS INTEGER) AS changed FROM {table}" '
        'with cursor = "changed" and the table\'s key; or correct the rows.',
        system="sqlite",
    )


def is_time(value: str) -> bool:
    return _TIME.fullmatch(value) is not None


def mixed_forms(cursor: str, table: str, odd: object, reference: str) -> SourceError:
    """The error of a cursor whose text is out of order."""
    what, cast = "times", f"STRFTIME('%Y-%m-%d %H:%M:%f', {cursor})"
    if _NUMBER.fullmatch(reference):
        unit = "1" + "0" * len(reference.partition(".")[2])
        what, cast = (
            "numbers",
            f"CAST(ROUND({cursor} * {unit}) AS INTEGER)" if len(unit) > 1 else f"CAST({cursor} AS INTEGER)",
        )
    return SourceError(
        f"the cursor {cursor!r} holds {what} in more than one form, such as {odd!r} and {reference!r}, "
        f"which SQLite orders as text: rows that change would be missed.",
        remedy=f'let a query give them one form, such as query = "SELECT *, {cast} AS changed FROM {table}" '
        'with cursor = "changed" and the table\'s key; or write them alike.',
        system="sqlite",
    )
