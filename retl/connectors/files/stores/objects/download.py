"""Large answers, received by threads: the event loop sees them when they are there.

A thread waits for the kernel without the interpreter, and has each block filled without a copy. An event loop would be
woken for each piece of it, some thousand times a second. What has come of a block is lost where its line is cut.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import urlsplit

from multidict import CIMultiDict

from retl.connectors.files.stores.objects.answers import error_answer
from retl.connectors.files.stores.objects.options import Limits
from retl.threads import Worker

_BLOCK = 1 << 20
LONGEST_ERROR = 64 << 10
_CLOSED = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)
"""What a kept connection raises that the server has closed."""


class Taker(Protocol):
    """Who wants an answer. Called in a thread, or on the event loop, but never by two at once."""

    def begin(self, headers: Mapping[str, str]) -> None:
        """Look at the answer before its body comes. What is raised here ends the request."""

    def add(self, block: bytes) -> None:
        """Take the next piece of the body."""


class Downloads:
    """Connections to one server for large answers. They are kept."""

    def __init__(self, url: str, context: ssl.SSLContext | None, limits: Limits) -> None:
        place = urlsplit(url)
        self.host = place.hostname or ""
        self.port = place.port or (80 if context is None else 443)
        self.context = context
        self.limits = limits
        self._lock = threading.Lock()
        self._kept: list[http.client.HTTPConnection] = []

    async def get(self, path: str, headers: Mapping[str, str], taker: Taker) -> None:
        """The answer to a GET, given to the taker. Raises ``Refused``, and errors of sockets and of HTTP."""
        download = _Download(self, path, headers, taker)
        worker = Worker("objects", download.interrupt)
        try:
            await worker.run(download.run)
        finally:
            worker.close()

    def take(self) -> http.client.HTTPConnection | None:
        """A connection that was kept."""
        with self._lock:
            return self._kept.pop() if self._kept else None

    def keep(self, connection: http.client.HTTPConnection) -> None:
        """Keep a connection whose answer was read to its end."""
        with self._lock:
            self._kept.append(connection)

    def close(self) -> None:
        """Close what is kept."""
        while (connection := self.take()) is not None:
            connection.close()


class _Download:
    """One GET. Blocks; ``interrupt`` ends it from another thread."""

    def __init__(self, downloads: Downloads, path: str, headers: Mapping[str, str], taker: Taker) -> None:
        self._downloads = downloads
        self._path = path
        self._headers = headers
        self._taker = taker
        self._socket: socket.socket | None = None

    def interrupt(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        connection, answer = self._asked()
        try:
            self._receive(answer)
        except BaseException:
            connection.close()
            raise
        if answer.will_close:
            connection.close()
        else:
            self._downloads.keep(connection)

    def _asked(self) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        kept = self._downloads.take()
        if kept is not None:
            try:
                return kept, self._ask(kept)
            except _CLOSED:
                pass
        connection = http.client.HTTPConnection(self._downloads.host, self._downloads.port)
        connection.sock = self._connect()
        return connection, self._ask(connection)

    def _ask(self, connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        self._socket = connection.sock
        try:
            connection.putrequest("GET", self._path, skip_host=True, skip_accept_encoding=True)
            for name, value in self._headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            return connection.getresponse()
        except BaseException:
            connection.close()
            raise

    def _receive(self, answer: http.client.HTTPResponse) -> None:
        headers: Mapping[str, str] = CIMultiDict(answer.getheaders())
        if answer.status >= 300:
            raise error_answer(answer.status, headers, answer.read(LONGEST_ERROR))
        self._taker.begin(headers)
        while block := answer.read(_BLOCK):
            self._taker.add(block)
        answer.close()  # the connection serves the next one

    def _connect(self) -> socket.socket:
        """The first address of the host that answers."""
        there = self._downloads
        failure: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(there.host, there.port, type=socket.SOCK_STREAM):
            self._socket = socket.socket(family, kind, protocol)
            try:
                return self._open(self._socket, address)
            except OSError as error:
                failure = error
                self._socket.close()
        raise failure or OSError(f"{there.host!r} has no address")

    def _open(self, raw: socket.socket, address: Any) -> socket.socket:
        there = self._downloads
        raw.settimeout(there.limits.connect_seconds)
        raw.connect(address)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened = raw if there.context is None else there.context.wrap_socket(raw, server_hostname=there.host)
        opened.settimeout(there.limits.idle_seconds)
        return opened
