"""The objects below a prefix, page by page, as a store lists them: complete and in order, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import anyio.to_thread

from retl.connectors.files.store import FileInfo
from retl.connectors.files.stores.objects.answers import Listed, Page, read_page
from retl.connectors.files.stores.objects.client import ObjectClient, begin
from retl.connectors.files.stores.objects.identity import identity_of
from retl.model.errors import SourceError
from retl.threads import end_task

PAGE = 1_000
_PATIENCE = 5.0
_ARCHIVES = frozenset({"glacier", "deeparchive", "archive", "coldarchive", "deepcoldarchive"})


async def pages(client: ObjectClient, prefix: str) -> AsyncGenerator[list[FileInfo], None]:
    """All objects whose names begin with ``prefix``; the next page is under way while one is looked at."""
    order = _Order(client, prefix)
    page = await ask(client, prefix)
    while True:
        following = begin(ask(client, prefix, page.next)) if page.next else None
        try:
            if files := order.files(page):
                yield files
            if following is None:
                return
            await asyncio.wait([following])
            page = following.result()
        finally:
            if following is not None:
                await end_task(following, patience=_PATIENCE)


async def ask(client: ObjectClient, prefix: str, token: str | None = None, most: int = PAGE) -> Page:
    """One page. Raises ``SourceError`` for an answer that is no listing, or a part of one without the rest."""
    what = _what(client, prefix)
    query = {"list-type": "2", "prefix": client.location.prefix + prefix, "max-keys": str(most)}
    if token is not None:
        query["continuation-token"] = token
    page = await _asked(client, what, query)
    if page is None:
        # A key may hold characters that XML cannot.
        page = await _asked(client, what, {**query, "encoding-type": "url"})
    if page is None:
        raise SourceError(
            f"{what}: the answer is no listing.", remedy="check endpoint: another server may answer there."
        )
    if page.cut_short and not page.next:
        raise SourceError(
            f"{what}: the store has cut its listing short, and does not say how to go on.",
            remedy="check endpoint: retl needs a store with ListObjectsV2.",
        )
    if not page.cut_short:
        page.next = None
    return page


async def _asked(client: ObjectClient, what: str, query: dict[str, str]) -> Page | None:
    wanted = {"x-amz-optional-object-attributes": "RestoreStatus"}
    body = await client.get(what, query, wanted)
    return await anyio.to_thread.run_sync(read_page, body)


def _what(client: ObjectClient, prefix: str) -> str:
    return f"listing {client.location.root}{prefix}"


class _Order:
    """Sees that keys come in the order of their code points, which is that of their bytes."""

    def __init__(self, client: ObjectClient, prefix: str) -> None:
        self._what = _what(client, prefix)
        self._root = client.location.prefix
        self._last: str | None = None

    def files(self, page: Page) -> list[FileInfo]:
        """The files of the next page, without markers of folders."""
        for found in page.objects:
            if self._last is not None and found.key <= self._last:
                raise self._unordered(found.key)
            self._last = found.key
        return [_file(found, self._root) for found in page.objects if not _is_marker(found, self._root)]

    def _unordered(self, key: str) -> SourceError:
        return SourceError(
            f"{self._what}: {key!r} came after {self._last!r}, and a listing must be in order.",
            remedy="directory buckets (S3 Express) and some other stores list in no order: choose a bucket of another kind.",
        )


def _is_marker(found: Listed, root: str) -> bool:
    """Whether an object stands for a folder only."""
    return found.key == root or (found.key.endswith("/") and not found.size)


def _file(found: Listed, root: str) -> FileInfo:
    return FileInfo(
        name=found.key[len(root) :],
        size=found.size,
        modified=found.modified,
        identity=identity_of(found.etag, found.size),
        archived=is_archived(found.storage_class, restored=found.restored),
    )


def is_archived(storage_class: str, *, restored: bool) -> bool:
    """Whether an object of this class must be restored before it can be read. Those of GLACIER_IR need not."""
    plain = storage_class.replace("_", "").replace("-", "").lower()
    return plain in _ARCHIVES and not restored
