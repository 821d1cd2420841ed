"""What tests of files on a server share: a folder there, its store, and what lies in it."""

from __future__ import annotations

import os
from contextlib import aclosing
from pathlib import Path
from typing import Any

from retl.connectors.files.store import FileInfo, FileStore
from retl.connectors.files.stores.ssh import SSHFiles
from tests.servers.sshd import SSHServer


def files(server: SSHServer, root: Path, port: int | None = None, **options: Any) -> SSHFiles:
    known = {"key": str(server.key), "fingerprint": server.fingerprint}
    return SSHFiles(server.url(root, port), **(known | options))


def put(root: Path, name: str | bytes, data: bytes = b"1") -> Path:
    path = root / os.fsdecode(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


async def listed(store: FileStore, prefix: str = "") -> list[FileInfo]:
    return [file async for page in store.list(prefix) for file in page]


async def content(store: FileStore, file: FileInfo) -> bytes:
    async with aclosing(store.read(file)) as blocks:
        return b"".join([block async for block in blocks])
