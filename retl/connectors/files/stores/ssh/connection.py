"""One SSH connection with one SFTP session, which many questions share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TypeVar, cast

import asyncssh

from retl.connectors.base import ConnectionFailed, RetlError
from retl.connectors.files.stores.ssh import errors, host_keys
from retl.connectors.files.stores.ssh.errors import NotThere
from retl.connectors.files.stores.ssh.login import Login
from retl.connectors.net.idle import has_news

T = TypeVar("T")

BLOCK = 256 << 10
"""What one question reads: larger ones bring nothing more."""
SAFE_BLOCK = 32 << 10
"""What any server reads at once; those that read more say how much."""
_NOT_ANNOUNCED = 16 << 10
"""What the driver takes where the server says nothing, or 0."""
_CLOSE_SECONDS = 5.0
_ours: ContextVar[bool] = ContextVar("retl_ssh", default=False)


class _NotOurs(logging.Filter):
    """Keeps what the driver says of our own connections out of the host's log; of others it goes on telling.

    It writes users, addresses and file names with each connection. What matters of that is raised as an error.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return not _ours.get()


@contextmanager
def _unheard() -> Iterator[None]:
    """What is called in this block, and the callbacks and tasks that it begins, write nothing into a log."""
    before = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(before)


# A filter of a logger does not count for its children.
_FILTER = _NotOurs()
for _name in ("asyncssh", "asyncssh.sftp"):
    logging.getLogger(_name).addFilter(_FILTER)


class SSHConnection:
    """A connection for a pool; errors are those of retl."""

    in_transaction = False

    def __init__(
        self, login: Login, connections: Sequence[asyncssh.SSHClientConnection], sftp: asyncssh.SFTPClient
    ) -> None:
        self._login = login
        self._connections = connections
        """The last one leads to the server, those before it to the hosts on the way."""
        self._sftp = sftp

    @classmethod
    async def open(cls, login: Login) -> SSHConnection:
        """Connect, see that the host key is trusted, log in, and begin a session of SFTP."""
        made: list[asyncssh.SSHClientConnection] = []
        with _unheard():
            try:
                async with asyncio.timeout(login.connect_seconds):
                    if login.jump is not None:
                        made.append(await _connect(login.jump, None))
                    made.append(await _connect(login, made[-1] if made else None))
                    sftp = await made[-1].start_sftp_client(path_encoding=None)
                return cls(login, made, sftp)
            except BaseException as error:
                lost = any(connection.is_closed() for connection in made)
                for connection in reversed(made):
                    connection.abort()
                if lost and not isinstance(error, asyncio.CancelledError):
                    raise errors.unreachable(login.place, str(error) or "it was cut") from None
                if isinstance(error, OSError | asyncssh.Error | ValueError):
                    raise errors.connecting(error, login.place, login.address.user) from None
                raise

    @property
    def closed(self) -> bool:
        return any(connection.is_closed() for connection in self._connections)

    @property
    def has_news(self) -> bool:
        """Whether something has come that nobody has asked for, such as its end."""
        return has_news(self._connections[0])

    @property
    def product(self) -> str:
        """What the server calls itself: ``OpenSSH_9.2p1``."""
        said = str(self._connections[-1].get_extra_info("server_version", ""))
        return said.removeprefix("SSH-2.0-").partition(" ")[0]

    async def prove(self) -> None:
        await self.realpath(b".")

    def abort(self) -> None:
        with _unheard():
            for connection in reversed(self._connections):
                connection.abort()

    async def close(self) -> None:
        with _unheard(), suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                self._sftp.exit()
                await self._sftp.wait_closed()
                for connection in reversed(self._connections):
                    connection.close()
                    await connection.wait_closed()
        self.abort()

    @property
    def block(self) -> int:
        """How many bytes a question may ask for."""
        announced = self._sftp.limits.max_read_len
        return SAFE_BLOCK if announced == _NOT_ANNOUNCED else min(announced, BLOCK)

    async def realpath(self, path: bytes) -> bytes | None:
        """Where a path leads; ``None`` if nowhere."""
        return await self._found(self._sftp.realpath(path), path)

    async def stat(self, path: bytes) -> asyncssh.SFTPAttrs | None:
        """What lies at a path, at the end of all links; ``None`` if nothing does."""
        return await self._found(self._sftp.stat(path), path)

    async def lstat(self, path: bytes) -> asyncssh.SFTPAttrs | None:
        """What lies at a path, be it a link; ``None`` if nothing does."""
        return await self._found(self._sftp.lstat(path), path)

    async def open_file(self, path: bytes) -> OpenFile | None:
        """A file to read; ``None`` if there is none."""
        handle = await self._found(self._sftp.open(path, "rb", block_size=0), path)
        return None if handle is None else OpenFile(self, handle, path)

    async def scan(self, path: bytes) -> AsyncGenerator[asyncssh.SFTPName, None]:
        """What lies in a folder, in any order. Raises ``NotThere``."""
        entries = cast("AsyncGenerator[asyncssh.SFTPName, None]", self._sftp.scandir(path))
        try:
            while entry := await self.ask(anext(entries, None), path):
                yield entry
        finally:
            with _unheard():
                await entries.aclose()

    async def _found(self, question: Awaitable[T], path: bytes) -> T | None:
        try:
            return await self.ask(question, path)
        except NotThere:
            return None

    async def ask(self, question: Awaitable[T], path: bytes) -> T:
        """The answer to a question about a path."""
        try:
            return await self._answer(question)
        except (OSError, asyncssh.Error, ValueError) as error:
            raise self._failed(error, path) from None

    async def _answer(self, question: Awaitable[T]) -> T:
        with _unheard():
            async with asyncio.timeout(self._login.answer_seconds):
                return await question

    def _failed(self, error: Exception, path: bytes) -> RetlError:
        failed = errors.asking(error, self._login.place, path.decode(errors="backslashreplace"))
        if isinstance(failed, ConnectionFailed):
            self.abort()
        return failed


class OpenFile:
    """A file that is read by any number of questions at once."""

    def __init__(self, connection: SSHConnection, handle: asyncssh.SFTPClientFile, path: bytes) -> None:
        self._connection = connection
        self._handle = handle
        self._path = path

    async def read(self, length: int, offset: int) -> bytes:
        """What the server answers to one question: up to ``length`` bytes, none behind the end of the file."""
        return cast(bytes, await self._connection.ask(self._handle.read(length, offset), self._path))

    async def close(self) -> None:
        """Never fails: nothing hangs on it."""
        if not self._connection.closed:
            with suppress(RetlError):
                await self._connection.ask(self._handle.close(), self._path)


async def _connect(login: Login, tunnel: asyncssh.SSHClientConnection | None) -> asyncssh.SSHClientConnection:
    check = login.host_keys.client()
    words = login.words if tunnel is None else login.words | {"tunnel": tunnel}
    try:
        connection, _ = await asyncssh.create_connection(lambda: check, login.address.host, **words)
    except asyncssh.HostKeyNotVerifiable as error:
        others = _has_others(login)
        raise host_keys.untrusted(error, check, login.host_keys, login.place, others) from None
    except (OSError, asyncssh.Error) as error:
        raise errors.connecting(error, login.place, login.address.user) from None
    return connection


def _has_others(login: Login) -> bool:
    """Whether the known hosts have a key of this host at all."""
    port = login.address.port if login.address.port != asyncssh.DEFAULT_PORT else None
    return any(asyncssh.match_known_hosts(login.host_keys.known, login.address.host, "", port)[:2])
