"""The processes that parse documents, shared by all scans of this process. Blocking code, for worker threads."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from retl.connectors.documents.text.parsed import Parsed, Unreadable

_AT_ONCE = 2
_LENGTH = struct.Struct(">I")
_FOLDER = Path(__file__).parent
# The packages above are named and not run: a process that parses needs nothing of them, and starts ten times as fast.
_PROGRAM = """
import json, sys, types
sys.path[:] = json.loads(sys.argv[1])
for name, folder in json.loads(sys.argv[2]):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from retl.connectors.documents.text.process import main
main(int(sys.argv[3]))
"""
_KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR")
"""All else stays here: it may hold secrets."""


@dataclass(frozen=True)
class Limits:
    """What the parser of one document may take."""

    max_seconds: float = 60.0
    max_memory_bytes: int = 1024 * 1024 * 1024
    max_text_bytes: int = 32 * 1024 * 1024


class Interrupted(Exception):
    """Nobody wants the document any more."""


class MissingPackage(Exception):
    """A package that reads this kind of document is not installed; the message says which."""


class _Worker:
    """One process. Used by one thread at a time."""

    def __init__(self) -> None:
        self.socket, other = socket.socketpair()
        with other:
            packages = [
                ("retl", _FOLDER.parents[2]),
                ("retl.connectors", _FOLDER.parents[1]),
                ("retl.connectors.documents", _FOLDER.parent),
            ]
            named = json.dumps([(name, str(folder)) for name, folder in packages])
            path = json.dumps([entry for entry in sys.path if isinstance(entry, str)])
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-c", _PROGRAM, path, named, str(other.fileno())],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
                start_new_session=True,  # the keyboard's interrupt is for the host
            )

    def ask(self, request: dict[str, Any], file: BinaryIO, deadline: float) -> tuple[dict[str, Any], bytes]:
        """The answer to a request. Raises ``TimeoutError``, and ``ConnectionError`` or ``EOFError`` where it has died."""
        body = json.dumps(request).encode()
        self._wait(deadline)
        socket.send_fds(self.socket, [_LENGTH.pack(len(body))], [file.fileno()])
        self.socket.sendall(body)
        answer = json.loads(self._block(deadline))
        return answer, self._block(deadline)

    def _block(self, deadline: float) -> bytes:
        return self._exactly(_LENGTH.unpack(self._exactly(_LENGTH.size, deadline))[0], deadline)

    def _exactly(self, size: int, deadline: float) -> bytes:
        found = bytearray()
        while len(found) < size:
            self._wait(deadline)
            piece = self.socket.recv(min(size - len(found), 1024 * 1024))
            if not piece:
                raise EOFError
            found += piece
        return bytes(found)

    def _wait(self, deadline: float) -> None:
        self.socket.settimeout(max(0.001, deadline - time.monotonic()))

    def kill(self) -> None:
        """End it at once, whatever it does. May be called from any thread."""
        self.process.kill()

    def close(self) -> int:
        """End it, and learn how it ended."""
        self.socket.close()
        self.process.kill()
        return self.process.wait()


class Workers:
    """A few processes, started when they are needed and ended with the last source that uses them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._idle: list[_Worker] = []
        self._busy = 0
        self._holders: set[int] = set()
        self._owner = os.getpid()

    def hold(self, holder: object) -> None:
        """Keep processes for this one, until it releases them."""
        with self._changed:
            self._holders.add(id(holder))

    def release(self, holder: object) -> None:
        """End the processes, if nobody else holds them."""
        with self._changed:
            self._holders.discard(id(holder))
            ended = [] if self._holders else self._idle
            if ended:
                self._idle = []
        for worker in ended:
            worker.close()

    def borrow(self, parse: Parse) -> _Worker:
        """A process for one document; waits for one where all are busy."""
        with self._changed:
            self._forget_those_of_a_parent()
            while self._busy >= _AT_ONCE and not parse.stopped:
                self._changed.wait()
            if parse.stopped:
                raise Interrupted
            self._busy += 1
            worker = next((one for one in self._idle if one.process.poll() is None), None)
            if worker is not None:
                self._idle.remove(worker)
        try:
            return worker or _Worker()
        except BaseException:
            self._leave()
            raise

    def _forget_those_of_a_parent(self) -> None:
        """After a fork, the processes belong to the other one."""
        if self._owner != os.getpid():
            self._owner, self._idle, self._busy = os.getpid(), [], 0

    def give_back(self, worker: _Worker | None) -> None:
        """Keep a process for the next document; ``None`` where it has ended."""
        spare = None
        with self._changed:
            if worker is not None and self._holders:
                self._idle.append(worker)
            else:
                spare = worker
        if spare is not None:
            spare.close()
        self._leave()

    def _leave(self) -> None:
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()

    def wake(self) -> None:
        """Let those who wait see whether they still want a process."""
        with self._changed:
            self._changed.notify_all()

    def end(self) -> None:
        """At the end of the interpreter."""
        if self._owner == os.getpid():
            for worker in self._idle:
                worker.close()


WORKERS = Workers()
atexit.register(WORKERS.end)


class Parse:
    """One document on its way through a process. ``stop`` may be called from any thread."""

    def __init__(self, limits: Limits, workers: Workers = WORKERS) -> None:
        self._limits = limits
        self._workers = workers
        self._worker: _Worker | None = None
        self.stopped = False

    def stop(self) -> None:
        """Nobody wants it any more: the process that parses it is killed."""
        self.stopped = True
        worker = self._worker
        if worker is not None:
            worker.kill()
        self._workers.wake()

    def run(self, file: BinaryIO, name: str, kind: str, encoding: str | None) -> Parsed:
        """The text of a file that has a descriptor.

        Raises ``Unreadable`` with the reason, also where the parser takes too long or too much, or dies.
        """
        limits = self._limits
        request = {
            "name": name,
            "kind": kind,
            "encoding": encoding,
            "max_seconds": limits.max_seconds,
            "max_memory_bytes": limits.max_memory_bytes,
            "max_text_bytes": limits.max_text_bytes,
        }
        answer, text = self._answer(request, file)
        if answer.get("missing"):
            raise MissingPackage(answer["error"])
        if "error" in answer:
            raise Unreadable(answer["error"])
        return Parsed(text.decode(), answer["title"])

    def _answer(self, request: dict[str, Any], file: BinaryIO) -> tuple[dict[str, Any], bytes]:
        worker = self._worker = self._workers.borrow(self)
        kept: _Worker | None = None
        try:
            if self.stopped:
                raise Interrupted
            answer, text = worker.ask(request, file, time.monotonic() + self._limits.max_seconds)
            kept = None if answer["leaves"] else worker
            return answer, text
        except TimeoutError:
            raise Unreadable(
                f"it takes longer to read than the {self._limits.max_seconds:g} seconds of max_seconds"
            ) from None
        except (EOFError, OSError, ValueError) as error:
            raise self._of_death(worker.close()) from error
        finally:
            self._worker = None
            if kept is None:
                worker.close()
            self._workers.give_back(kept)

    def _of_death(self, code: int) -> Exception:
        if self.stopped:
            return Interrupted()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
        return Unreadable(
            f"the process that parsed it died of {how}, as it may of a hostile file or of too little memory"
        )
