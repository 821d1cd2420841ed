"""What a target must hold, worked out in memory by the plain meaning of each mode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


class Oracle:
    """The rows of one table. Feed it what a scan delivered, then compare ``rows`` with the target's.

    ``key`` identifies a row; without one every row is another.
    """

    def __init__(self, key: Sequence[str] = ("id",)) -> None:
        self._key = tuple(key)
        self._rows: dict[Any, dict[str, Any]] = {}
        self._number = 0

    def upsert(self, rows: Iterable[Row]) -> None:
        """Rows are added, or take the place of those with their key; what a row does not name it keeps."""
        for row in rows:
            identity = tuple(row[name] for name in self._key) if self._key else self._next()
            self._rows[identity] = {**self._rows.get(identity, {}), **row}

    def append(self, rows: Iterable[Row]) -> None:
        """Every row is a new one."""
        for row in rows:
            self._rows[self._next()] = dict(row)

    def replace(self, rows: Iterable[Row]) -> None:
        """These are all there is."""
        self._rows = {}
        self.append(rows)

    def delete(self, *keys: Any) -> None:
        """The rows with these keys are gone; a key of one column is given as its value."""
        gone = {key if isinstance(key, tuple) else (key,) for key in keys}
        self._rows = {
            identity: row
            for identity, row in self._rows.items()
            if tuple(row.get(name) for name in self._key) not in gone
        }

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows, in an order that depends on their content alone."""
        return in_order(self._rows.values())

    def _next(self) -> str:
        self._number += 1
        return f"#{self._number}"


def in_order(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows as dicts, in an order that depends on their content alone."""
    return sorted((dict(row) for row in rows), key=lambda row: repr(sorted(row.items())))
