"""A folder of a server as a store."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, ClassVar

import anyio.to_thread

from retl.connectors.base import ConnectionFailed, SystemInfo
from retl.connectors.files.names import is_name
from retl.connectors.files.store import FileInfo, FileStore, LeftOut, changed
from retl.connectors.files.stores.ssh.connection import OpenFile, SSHConnection
from retl.connectors.files.stores.ssh.errors import TooManyAtOnce
from retl.connectors.files.stores.ssh.login import check_options, read_login
from retl.connectors.files.stores.ssh.reading import BlockReader
from retl.connectors.files.stores.ssh.shared import SharedConnections
from retl.connectors.files.stores.ssh.tree import Tree
from retl.connectors.files.stores.ssh.walk import Walk
from retl.connectors.net.pool import ConnectionPool
from retl.connectors.net.retry import RetryBudget
from retl.model.duration import parse_duration
from retl.threads import shielded

if TYPE_CHECKING:
    from retl.connectors.files.stores.ssh import SSHFiles

_UNCHECKED = (
    'nothing proves who {} is (host_key = "insecure"), so anybody on the way can answer in its place and take the login; '
    "pin its key by fingerprint, or name known_hosts."
)
_TRIES = 4
_FOR_QUESTIONS = 2
"""How many connections serve listings and the like; the others serve readers."""
_log = logging.getLogger("retl.connectors.files")


class SSHStore(FileStore):
    """A folder of a server, read by SFTP.

    A link is followed where it leads to something below the root and into no circle. The identity of a file is its size
    and its time of change, which SFTP gives in whole seconds: a file that is written to twice in a second, and has the
    same size before and after, looks the same. So let files rest before they are taken (``quiet``).
    """

    system: ClassVar[str] = "ssh"

    def __init__(self, options: SSHFiles) -> None:
        self._options = options
        self._address = check_options(options)
        self._warned = False
        self._patience = parse_duration(options.answer_timeout, what="answer_timeout").total_seconds()
        keep_idle = parse_duration(options.keep_idle, what="keep_idle").total_seconds()
        self._pool = ConnectionPool(self._connect, max_connections=_FOR_QUESTIONS, keep_idle=keep_idle)
        self._shared = SharedConnections(self._pool, options.max_connections - _FOR_QUESTIONS)

    @property
    def root(self) -> str:
        return self._address.text

    async def _connect(self) -> SSHConnection:
        # Keys and passwords may change while a service runs.
        login = await anyio.to_thread.run_sync(read_login, self._options, self._address)
        if self._options.host_key == "insecure" and not self._warned:
            self._warned = True
            _log.warning(_UNCHECKED.format(self._address.place))
        return await SSHConnection.open(login)

    async def ping(self) -> SystemInfo:
        async def look(connection: SSHConnection) -> str:
            await Tree(connection, self._address.folder).check()
            return connection.product

        product = await self._pool.ask(look)
        insecure = self._options.host_key == "insecure"
        warnings = (_UNCHECKED.format(self._address.place),) if insecure else ()
        return SystemInfo("SFTP", product, self.root, warnings)

    async def list(self, prefix: str = "", left_out: LeftOut | None = None) -> AsyncGenerator[list[FileInfo], None]:
        async with aclosing(Walk(self._shared, self._address.folder, prefix, left_out).pages()) as pages:
            async for page in pages:
                yield page

    async def stat(self, name: str) -> FileInfo | None:
        if not is_name(name):
            return None
        return await self._pool.ask(lambda connection: Tree(connection, self._address.folder).stat(name))

    async def read(self, file: FileInfo) -> AsyncGenerator[bytes, None]:
        given = 0
        budget = RetryBudget(attempts=_TRIES, longest=2.0)
        while True:
            try:
                async with aclosing(self._blocks(file, given)) as blocks:
                    async for block in blocks:
                        given += len(block)
                        budget.reset()
                        yield block
                return
            except ConnectionFailed as error:
                # The same file under the same identity goes on where it stopped.
                await budget.wait(error)

    async def _blocks(self, file: FileInfo, start: int) -> AsyncGenerator[bytes, None]:
        async with self._opened(file) as (tree, reader), aclosing(reader.blocks(start)) as blocks:
            async for block in blocks:
                yield block
            await tree.prove(file)

    @asynccontextmanager
    async def _opened(self, file: FileInfo) -> AsyncIterator[tuple[Tree, BlockReader]]:
        """The file under its identity."""
        async with self._shared.borrow() as connection:
            tree = Tree(connection, self._address.folder)
            # Before it is opened: a pipe would hold the server up.
            await tree.prove(file)
            opened = await self._open(connection, tree.where(file.name))
            if opened is None:
                raise changed(file, "it is gone")
            try:
                yield tree, BlockReader(opened, file, connection.block)
            finally:
                await shielded(opened.close())

    async def _open(self, connection: SSHConnection, path: bytes) -> OpenFile | None:
        """The open file, as soon as the server serves one more; ``None`` if there is none."""
        budget = RetryBudget(seconds=self._patience, first=0.05, longest=1.0)
        while True:
            try:
                return await connection.open_file(path)
            except TooManyAtOnce as error:
                await budget.wait(error)

    async def aclose(self) -> None:
        await self._pool.aclose()
