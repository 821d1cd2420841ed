"""A bucket as a store of files."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import ClassVar
from urllib.parse import urlsplit

from retl.connectors.base import SystemInfo
from retl.connectors.files.store import FileInfo, FileStore, LeftOut
from retl.connectors.files.stores.objects import listing
from retl.connectors.files.stores.objects.client import ObjectClient
from retl.connectors.files.stores.objects.errors import CHANGED, code_of
from retl.connectors.files.stores.objects.identity import identity_of
from retl.connectors.files.stores.objects.listing import is_archived
from retl.connectors.files.stores.objects.reader import ObjectReader, Slots
from retl.connectors.net.tls import is_here
from retl.model.errors import RetlError

_PARTS_OF_ALL = 12
"""How many parts of 8 MiB all readers together hold, beyond one for each."""


class ObjectStore(FileStore):
    """A prefix of a bucket. Names are keys without the prefix, and may be any key: with ``//``, or a ``/`` in front."""

    system: ClassVar[str] = "s3"

    def __init__(self, product: str, client: ObjectClient, parallel_parts: int) -> None:
        self.product = product
        self._client = client
        self._parallel = parallel_parts
        self._slots = Slots(_PARTS_OF_ALL)

    @property
    def root(self) -> str:
        return self._client.location.root

    async def ping(self) -> SystemInfo:
        await listing.ask(self._client, "", most=1)
        return SystemInfo(self.product, "", self._client.place, warnings=self._warnings())

    def _warnings(self) -> tuple[str, ...]:
        address = urlsplit(self._client.location.endpoint or "https://")
        if address.scheme != "http" or is_here(address.hostname or ""):
            return ()
        return (f"{self.root} is read over http: others on the way may read its files. Write https:// in endpoint.",)

    async def list(self, prefix: str = "", left_out: LeftOut | None = None) -> AsyncGenerator[list[FileInfo], None]:
        async with aclosing(listing.pages(self._client, prefix)) as pages:
            async for page in pages:
                yield page

    async def stat(self, name: str) -> FileInfo | None:
        try:
            head = await self._client.head(self._client.location.prefix + name, f"looking at {self.root}{name}")
        except RetlError as error:
            if code_of(error) in CHANGED:
                return None
            raise
        return _file(name, head)

    async def read(self, file: FileInfo) -> AsyncGenerator[bytes, None]:
        async with aclosing(ObjectReader(self._client, file, self._slots, self._parallel).read()) as blocks:
            async for block in blocks:
                yield block

    async def aclose(self) -> None:
        await self._client.aclose()


def _file(name: str, head: Mapping[str, str]) -> FileInfo:
    size = int(head["Content-Length"])
    restored = 'ongoing-request="false"' in head.get("x-amz-restore", "")
    archived = is_archived(head.get("x-amz-storage-class", ""), restored=restored)
    return FileInfo(
        name=name,
        size=size,
        modified=_moment(head.get("Last-Modified", "")),
        identity=identity_of(head.get("ETag", ""), size),
        # The class of what tiers itself says nothing.
        archived=archived or "x-amz-archive-status" in head,
    )


def _moment(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except ValueError:
        return None
