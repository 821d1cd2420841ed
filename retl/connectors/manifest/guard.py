"""A guard against a listing that is empty, or short, by mistake."""

from __future__ import annotations

from retl.model.errors import GuardStopped
from retl.model.table import TableSpec


def check_vanished(
    table: TableSpec, things: str, *, vanished: int, vanished_rows: int, known: int, known_rows: int
) -> None:
    """Stop before more rows are deleted than the table allows. ``things``: what is gone, such as ``"files"``."""
    allowed = table.max_shrink
    what, gone, there = ("rows", vanished_rows, known_rows) if known_rows else (things, vanished, known)
    if gone < there if allowed is None else gone <= round(there * allowed):
        return
    limit = "" if allowed is None else f', more than max_shrink = "{allowed:.0%}" allows'
    raise GuardStopped(
        f"{vanished:,} {things} are gone, with {gone:,} of the {there:,} {what} in the table {table.to!r}{limit}; "
        "their rows were left there.",
        remedy=f'look at the place of the {things}; if they are gone for good, allow it with max_shrink = "100%".',
    )
