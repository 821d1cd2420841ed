"""Yuque as a source: tables of documents, found by what has changed since they were read."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import ClassVar

import anyio.to_thread
import pyarrow as pa

from retl.connectors.base import Source, SourceScan, SystemInfo
from retl.connectors.net.tls import is_here
from retl.connectors.rows.columns import choose_columns
from retl.connectors.yuque.answers import as_text
from retl.connectors.yuque.catalog import Catalog, digest
from retl.connectors.yuque.changes import Changes
from retl.connectors.yuque.connection import YuqueConnection
from retl.connectors.yuque.facts import Facts, unpacked
from retl.connectors.yuque.listing import Capabilities, listing_of
from retl.connectors.yuque.reading import DocumentReader
from retl.connectors.yuque.scan import DocumentScan, Prepared
from retl.connectors.yuque.selection import NoSuchBook, Selection
from retl.connectors.yuque.settings import Login, Reading
from retl.connectors.yuque.types import KEY, columns
from retl.model.actions import PreAction, Write
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError, UnsupportedError
from retl.model.plan import SourcePlan
from retl.model.schema import TableSchema
from retl.model.table import TableSpec
from retl.state.base import Manifest

_OTHER_WORDS = (
    "kinds or attachments have changed since the last scan; documents that have not changed are not read again. "
    "`retl reset` reads everything once."
)


class YuqueSource(Source):
    """Reads tables of documents."""

    system: ClassVar[str] = "yuque"
    schemas: ClassVar[bool] = False
    file_words: ClassVar[frozenset[str]] = frozenset({"vanished", "ignore"})

    def __init__(self, login: Callable[[], Login], reading: Reading) -> None:
        """``login`` is called once, in a worker thread, when the service is first asked."""
        self._login = login
        self._reading = reading
        self._connection: YuqueConnection | None = None
        self._can = Capabilities()

    async def _connected(self) -> YuqueConnection:
        if self._connection is None:
            # A secret may lie in a file.
            login = await anyio.to_thread.run_sync(self._login)
            self._connection = self._connection or YuqueConnection(login)
        return self._connection

    async def _catalog(self, tell: Callable[[str], None]) -> Catalog:
        return Catalog(await self._connected(), tell)

    async def ping(self) -> SystemInfo:
        user = await (await self._catalog(_silent)).user()
        who = as_text(user.get("login")) or as_text(user.get("name")) or "?"
        return SystemInfo("Yuque", "2.0", f"as {who}", await self._warnings())

    async def _warnings(self) -> tuple[str, ...]:
        connection = await self._connected()
        plain = connection.login.api.startswith("http://")
        host = connection.login.api.partition("://")[2].partition("/")[0].rpartition(":")[0]
        if not plain or is_here(host or "localhost"):
            return ()
        return (
            f"the token goes to {connection.login.site} without TLS, so anybody on the way can read it; write https:// in url.",
        )

    async def list_tables(self) -> list[str]:
        """The books of the token's owner and of the owner's groups."""
        catalog = await self._catalog(_silent)
        books = await Selection(TableSpec("*/*", "*/*")).books(catalog)
        return sorted(book.namespace for book in books)

    async def describe(self, table: str) -> TableSchema | None:
        try:
            books = await Selection(TableSpec(table, table)).books(await self._catalog(_silent))
        except NoSuchBook:
            return None
        if not books:
            return None
        known, hidden = columns(attachments=self._reading.attachments)
        return TableSchema(table, known, (KEY,), hidden)

    def narrowed(self, table: TableSpec) -> TableSpec:
        """Truncating means the row of each document that is read: it is replaced in one transaction."""
        _check_words(table)
        if table.pre_action is not PreAction.TRUNCATE:
            return table
        return dataclasses.replace(table, pre_action=PreAction.NONE, scope=table.target_name(KEY), write=Write.UPSERT)

    @asynccontextmanager
    async def open_scan(
        self, table: TableSpec, checkpoint: Checkpoint, manifest: Manifest
    ) -> AsyncGenerator[SourceScan, None]:
        table = self.narrowed(table)
        selection = Selection(table)
        words = digest(repr(sorted(self._reading.kinds)), repr(self._reading.attachments))
        known = unpacked(checkpoint.detail)
        plan, names = self._plan(table, known is not None and known.words != words)
        facts = Facts(words, unfinished=table.replaces) if known is None else dataclasses.replace(known, words=words)
        facts.unfinished = table.replaces
        unfinished = checkpoint.refresh is not None or (known is not None and known.unfinished)

        async def prepare(warn: Callable[[str], None]) -> Prepared:
            return await self._prepared(table, selection, known, manifest, warn)

        scan = DocumentScan(plan, names, prepare, facts, unfinished=unfinished)
        try:
            yield scan
        finally:
            await scan.close()

    async def _prepared(
        self,
        table: TableSpec,
        selection: Selection,
        known: Facts | None,
        manifest: Manifest,
        warn: Callable[[str], None],
    ) -> Prepared:
        catalog = await self._catalog(warn)
        deletes = known is not None and (table.files.vanished == "delete" or table.replaces)
        listing = await listing_of(
            catalog,
            selection,
            None if table.replaces else known,
            self._can,
            deletes=deletes,
            every=self._reading.reconcile,
        )
        for book in listing.short:
            warn(f"{book.what} changed while it was listed; what was not seen is looked for by the next scan.")
        if not listing.books:
            warn(f"no book matches {table.name!r}; the target is left as it is until there is one.")
        changes = Changes(table, catalog, selection, listing, manifest, self._reading.kinds, fresh=known is None)
        site = (await self._connected()).login.site
        return Prepared(listing, changes, DocumentReader(catalog, listing, site, warn))

    def _plan(self, table: TableSpec, other_words: bool) -> tuple[SourcePlan, tuple[str, ...]]:
        known, hidden = columns(attachments=self._reading.attachments)
        if table.columns is None:
            table_columns = pa.schema([column for column in known if column.name not in hidden])
        else:
            table_columns = known
        names = choose_columns(table, table_columns, (KEY,))
        if KEY not in names:
            raise ConfigError(f"the columns leave out {KEY!r}, by which a document is known.", remedy="read it, too.")
        schema = pa.schema([known.field(name).with_name(table.target_name(name)) for name in names])
        plan = SourcePlan(
            table=table,
            schema=schema,
            key=tuple(table.target_name(name) for name in table.key or (KEY,)),
            slices=(),
            by_manifest=True,
            unique_key=KEY in (table.key or (KEY,)),
            statements=(f"documents of {table.name}",),
            warnings=(_OTHER_WORDS,) if other_words else (),
        )
        return plan, names

    async def aclose(self) -> None:
        if self._connection is not None:
            await self._connection.aclose()


def _silent(message: str) -> None:
    """For a question that nobody waits long for."""


def _check_words(table: TableSpec) -> None:
    for word in ("cursor", "query", "where", "expressions", "format"):
        if getattr(table, word):
            raise UnsupportedError(
                f"{word} has no meaning for Yuque.",
                remedy="leave it out: what has changed is known by the documents themselves."
                if word == "cursor"
                else "leave it out, and compute in the target.",
            )
    if table.write is Write.APPEND:
        raise ConfigError(
            'write = "append" would add a document again each time it changes.',
            remedy="leave write out: the key is id.",
        )
    Selection(table)
