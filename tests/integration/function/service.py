"""A small service with an API, as users of function connectors have one, and looks into SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import retl
from retl.connectors import IteratorSource, SQLite
from retl.connectors.function import ReadWindow

START = datetime(2024, 5, 1, tzinfo=UTC)
Row = dict[str, Any]


def order(number: int, **words: Any) -> Row:
    row = {"id": number, "name": f"order {number}", "amount": number * 1.5, "at": START + timedelta(seconds=number)}
    return {**row, **words}


def orders(numbers: Iterable[int]) -> list[Row]:
    return [order(number) for number in numbers]


class Api:
    """Pages of rows at or above a moment, in its order; counts what it is asked."""

    def __init__(self, rows: Iterable[Row] = (), *, page: int = 100) -> None:
        self.rows = {row["id"]: row for row in rows}
        self.page = page
        self.windows: list[ReadWindow] = []
        self.served = 0
        self.fail_at: int | None = None
        self.error: Exception = retl.SourceError("the line was cut")

    async def read(self, window: ReadWindow) -> AsyncIterator[list[Row]]:
        self.windows.append(window)
        since = datetime.fromisoformat(window.lower) if window.lower else None
        rows = [row for row in self.rows.values() if since is None or row["at"] is None or row["at"] >= since]
        rows.sort(key=lambda row: (row["at"] is not None, row["at"] or START))
        for start in range(0, len(rows), self.page):
            if self.fail_at is not None and self.served >= self.fail_at:
                self.fail_at = None
                raise self.error
            page = rows[start : start + self.page]
            self.served += len(page)
            yield page

    def source(self, **words: Any) -> IteratorSource:
        return IteratorSource(self.read, **{"key": "id", **words})


def into_sqlite(source: Any, path: Path, **words: Any) -> retl.Pipeline:
    """A pipeline of one incremental table ``orders``; ``words`` are the table's."""
    table = retl.Table("orders", **{"cursor": "at", **words})
    return retl.Pipeline("sync", source=source, target=SQLite(str(path)), tables=[table])


def rows_in(path: Path, table: str = "orders", columns: str = "id, name, amount, at") -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT {columns} FROM {table} ORDER BY id").fetchall()


def expected(rows: Iterable[Row]) -> list[tuple[Any, ...]]:
    """What SQLite shows of such rows."""
    return [
        (row["id"], row["name"], row["amount"], row["at"] and f"{row['at']:%Y-%m-%d %H:%M:%S.%f}Z")
        for row in sorted(rows, key=lambda row: row["id"])
    ]
