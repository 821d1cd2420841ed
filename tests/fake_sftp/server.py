"""The server: which users it knows, and how it misbehaves."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import asyncssh

from retl.connectors.files.stores.ssh import SSHFiles

USER, PASSWORD = "etl", "a password of the user"
_LIMITS = b"limits@openssh.com"


@dataclass
class Server:
    """How it behaves; may be changed while it runs."""

    root: Path
    longest: int | None = None
    """How many bytes it gives at most, whatever it announces and is asked for."""
    announces: int | None = 261_120
    """How many bytes it says that a read may ask for; 0 for "unknown", ``None`` for a server without that extension."""
    most_open: int | None = None
    """How many files may be open at once; it denies more as if they were not allowed."""
    resolves_links: bool = True
    """Whether the path that it gives for another one is where that leads."""
    tells_kinds: bool = True
    """Whether a listing says what is a folder and what a file."""
    drive: bytes = b""
    """What paths begin with, as those of Windows do: ``/D:``."""
    asks: tuple[str, ...] = ()
    """What it asks a user who has no key, instead of taking a password (keyboard-interactive)."""
    banner: bytes = b""
    """What it says before a login."""
    at_read: Callable[[int], object] = field(default=lambda offset: None)
    """Called with the offset of each read."""
    opened: int = 0
    denied: int = 0
    reads: list[tuple[int, int]] = field(default_factory=list)
    port: int = 0
    fingerprint: str = ""
    key: asyncssh.SSHKey = field(default_factory=lambda: asyncssh.generate_private_key("ssh-ed25519"))
    """The private key of the user."""
    connections: list[asyncssh.SSHServerConnection] = field(default_factory=list)

    def url(self, folder: str = "") -> str:
        path = folder or self.drive.decode() + str(self.root)
        return f"ssh://{USER}@127.0.0.1:{self.port}{path}"

    def files(self, folder: str = "", **options: Any) -> SSHFiles:
        """The options of a store there."""
        known = {"password": PASSWORD, "fingerprint": self.fingerprint}
        return SSHFiles(self.url(folder), **(known | options))


@asynccontextmanager
async def serving(root: Path, **behaviour: Any) -> AsyncIterator[Server]:
    """A server on this event loop."""
    server = Server(root, **behaviour)
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    server.fingerprint = host_key.get_fingerprint()
    handler = asyncssh.sftp.SFTPServerHandler

    async def limits(_: object, packet: Any) -> asyncssh.SFTPLimits:
        packet.check_end()
        return asyncssh.SFTPLimits(0, server.announces or 0, 0, 0)

    extensions = [one for one in handler._extensions if one[0] != _LIMITS or server.announces is not None]
    with (
        patch.object(handler, "_extensions", extensions),
        patch.dict(handler._packet_handlers, {_LIMITS: limits}),
    ):
        async with _listening(server, host_key):
            yield server


@asynccontextmanager
async def _listening(server: Server, host_key: asyncssh.SSHKey) -> AsyncIterator[None]:
    listener = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[host_key],
        server_factory=lambda: _Login(server),
        sftp_factory=lambda channel: _Files(channel, server),
    )
    server.port = listener.get_port()
    try:
        yield
    finally:
        listener.close()
        await listener.wait_closed()
        for connection in server.connections:
            connection.abort()
            await connection.wait_closed()


class _Login(asyncssh.SSHServer):
    def __init__(self, server: Server) -> None:
        self._server = server

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._server.connections.append(conn)
        self._conn = conn

    def begin_auth(self, username: str) -> bool:
        if self._server.banner:
            # As bytes, in whatever encoding.
            payload = asyncssh.packet.String(self._server.banner) + asyncssh.packet.String(b"")
            self._conn.send_packet(asyncssh.constants.MSG_USERAUTH_BANNER, payload)
        return True

    def password_auth_supported(self) -> bool:
        return not self._server.asks

    def kbdint_auth_supported(self) -> bool:
        return bool(self._server.asks)

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:
        return "", "", "", [(prompt, False) for prompt in self._server.asks]

    def validate_kbdint_response(self, username: str, responses: Any) -> bool:
        return username == USER and list(responses) == [PASSWORD] * len(self._server.asks)

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == (USER, PASSWORD)

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == USER and key == self._server.key.convert_to_public()

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        """It may be jumped through."""
        return True


class _Files(asyncssh.SFTPServer):
    def __init__(self, channel: Any, server: Server) -> None:
        super().__init__(channel)
        self._server = server

    def map_path(self, path: bytes) -> bytes:
        drive = self._server.drive
        if not drive:
            return path
        if path.startswith(drive):
            return path[len(drive) :] or b"/"
        raise asyncssh.SFTPNoSuchFile("not on this drive")

    def reverse_map_path(self, path: bytes) -> bytes:
        return self._server.drive + path

    def realpath(self, path: bytes) -> bytes:
        if not self._server.resolves_links:
            return os.path.normpath(path)
        real = os.path.realpath(self.map_path(path))
        return self.reverse_map_path(real)

    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        async for name in super().scandir(path):
            if not self._server.tells_kinds:
                name.attrs = asyncssh.SFTPAttrs()
            yield name

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        server = self._server
        if server.most_open is not None and server.opened >= server.most_open:
            server.denied += 1
            raise asyncssh.SFTPPermissionDenied("Maximum concurrent transfers exceeded")
        server.opened += 1
        return super().open(path, pflags, attrs)

    def close(self, file_obj: object) -> None:
        self._server.opened -= 1
        super().close(file_obj)

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        server = self._server
        server.reads.append((offset, size))
        server.at_read(offset)
        given = size if server.longest is None else min(size, server.longest)
        found = super().read(file_obj, offset, given)
        assert isinstance(found, bytes)
        return found
