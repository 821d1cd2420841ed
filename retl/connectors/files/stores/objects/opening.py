"""From options to a store, whose driver is imported when the store is first asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from importlib.util import find_spec
from typing import ClassVar

import anyio.to_thread

from retl.connectors.base import SystemInfo
from retl.connectors.files.store import FileInfo, FileStore, LeftOut
from retl.connectors.files.stores.objects.options import Location, Login, ObjectOptions
from retl.model.errors import ConfigError

_DRIVERS = ("aiobotocore", "aiohttp")


def open_store(
    options: ObjectOptions, location: Location, login: Login, *, product: str = "S3", requester_pays: bool = False
) -> FileStore:
    """A store, not connected yet. Raises ``ConfigError`` where the driver is missing."""
    for driver in _DRIVERS:
        if not _is_installed(driver):
            raise ConfigError(
                f"{options.type_name} needs the Python package {driver!r}, which is not installed.",
                remedy=f"pip install 'retl[{options.type_name}]'",
            )
    limits = options.limits()

    def made() -> FileStore:
        from retl.connectors.files.stores.objects.client import ObjectClient
        from retl.connectors.files.stores.objects.store import ObjectStore

        return ObjectStore(product, ObjectClient(location, login, limits, requester_pays), limits.parallel_parts)

    return OpeningStore(location.root, made)


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:
        return False


class OpeningStore(FileStore):
    """A store that a worker thread makes when it is first asked: to import its driver takes as long as a second."""

    system: ClassVar[str] = "s3"

    def __init__(self, root: str, make: Callable[[], FileStore]) -> None:
        self._root = root
        self._make = make
        self._made: FileStore | None = None

    @property
    def root(self) -> str:
        return self._root

    async def _store(self) -> FileStore:
        if self._made is None:
            made = await anyio.to_thread.run_sync(self._make)
            self._made = self._made or made  # the first of two that were made at once, and none is connected yet
        return self._made

    async def ping(self) -> SystemInfo:
        return await (await self._store()).ping()

    async def list(self, prefix: str = "", left_out: LeftOut | None = None) -> AsyncGenerator[list[FileInfo], None]:
        async with aclosing((await self._store()).list(prefix, left_out)) as pages:
            async for page in pages:
                yield page

    async def stat(self, name: str) -> FileInfo | None:
        return await (await self._store()).stat(name)

    async def read(self, file: FileInfo) -> AsyncGenerator[bytes, None]:
        async with aclosing((await self._store()).read(file)) as blocks:
            async for block in blocks:
                yield block

    async def aclose(self) -> None:
        if self._made is not None:
            await self._made.aclose()
