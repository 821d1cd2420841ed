"""One document read: its answer, or those of all pages of a data table, as a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio.to_thread

from retl.connectors.yuque.answers import Object
from retl.connectors.yuque.catalog import Catalog, Listed, is_draft
from retl.connectors.yuque.errors import NotThere
from retl.connectors.yuque.listing import Listing
from retl.connectors.yuque.rows import Told, decode, kind_of, row_of, unread_times
from retl.connectors.yuque.sheets import DataTable

TABLE_PAGE = 200
_ROUNDS = 3
"""How often a data table is read until its rows are as many as it says."""

Row = dict[str, Any]


class DocumentReader:
    """Reads documents of a listing."""

    def __init__(self, catalog: Catalog, listing: Listing, site: str, warn: Callable[[str], None]) -> None:
        self._catalog = catalog
        self._listing = listing
        self._site = site
        self._warn = warn

    async def row(self, listed: Listed) -> Row | None:
        """The row of a document; ``None`` where it is no published one any more. Raises ``NotThere``."""
        what = listed.what
        is_table = listed.kind == "Table"
        body = await self._catalog.document(listed.book.id, listed.id, what, page_size=TABLE_PAGE if is_table else None)
        item = await anyio.to_thread.run_sync(decode, body, what)
        if item.get("deleted_at"):
            raise NotThere(f"{what}: it was deleted.")
        if is_draft(item):
            return None
        if kind_of(item) == "Table" and not is_table:  # the list told another kind
            return await self.row(_as_table(listed))
        table = await self._table(item, listed, what) if is_table else None
        told = Told(listed.book, self._listing.path(listed.book.id, listed.id), self._site)
        row = await anyio.to_thread.run_sync(row_of, item, told, table)
        self._look_at(row, item, what)
        return row

    async def _table(self, item: Object, listed: Listed, what: str) -> DataTable:
        """All pages of a data table, read again where rows came or went between."""
        for _ in range(_ROUNDS):
            table = DataTable(item.get("body"))
            page = 1
            while table.add(item.get("body_table")) and not table.is_full:
                page += 1
                body = await self._catalog.document(listed.book.id, listed.id, what, page=page, page_size=TABLE_PAGE)
                item = await anyio.to_thread.run_sync(decode, body, what)
            if table.total is None or len(table.records) == table.total:
                return table
            body = await self._catalog.document(listed.book.id, listed.id, what, page_size=TABLE_PAGE)
            item = await anyio.to_thread.run_sync(decode, body, what)
        self._warn(f"{what}: the data table says it has {table.total:,} rows, and shows {len(table.records):,}.")
        return table

    def _look_at(self, row: Row, item: Object, what: str) -> None:
        if row["body"] is None and (row["body_raw"] or row["type"] not in ("Doc", "Sheet", "Table")):
            self._warn(f"{what} is a {row['type']} without a text form; its raw form is in body_raw.")
        for word in unread_times(item):
            self._warn(
                f"{what}: {word} is {str(item[word])[:40]!r}, which cannot be read as a time; the row holds NULL."
            )


def _as_table(listed: Listed) -> Listed:
    return Listed(listed.id, listed.book, listed.identity, listed.changed, "Table", listed.slug, draft=False)
