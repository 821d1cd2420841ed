"""What tests of files share: a folder of a server, what lies in a folder, and what a store makes of it."""

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


def link(root: Path, outside: Path) -> None:
    """Links in a folder that holds ``data/a``: to a folder outside that holds ``secret``, to nothing, in circles, within it."""
    (root / "out").symlink_to(outside)
    (root / "out_file").symlink_to(outside / "secret")
    (root / "dangling").symlink_to(root / "none")
    (root / "self").symlink_to(root / "self")
    (root / "data" / "up").symlink_to(root)
    (root / "data" / "here").symlink_to(".")
    (root / "inside").symlink_to("data")
    (root / "inside_file").symlink_to("data/a")


LEFT_OUT = ["dangling", "data/here", "data/up", "inside/here", "inside/up", "out", "out_file", "self"]
"""Those of ``link`` that nobody follows."""


async def listed(store: FileStore, prefix: str = "", left_out: list[str] | None = None) -> list[FileInfo]:
    """The files, and in ``left_out`` the links that are not followed."""
    told = None if left_out is None else left_out.append
    return [file async for page in store.list(prefix, told) for file in page]


async def content(store: FileStore, file: FileInfo) -> bytes:
    async with aclosing(store.read(file)) as blocks:
        return b"".join([block async for block in blocks])
