"""A process that has imported everything and forks a child for each scan, so that a kill costs milliseconds.

``ForkServer`` is the test's end. Run as a module it is the server, which reads a ``Round`` from each line
of its input and writes an ``Outcome`` for it.
"""

from __future__ import annotations

import os
import random
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import msgspec

from retl.model import events
from tests.adversity.jobs import Job

PATIENCE = 150.0
"""More than the minute after which a server ends the transaction of a frozen process, which others wait for."""


class Kill(msgspec.Struct, kw_only=True, frozen=True):
    """When a child is killed: ``seconds`` after its start, or after the ``count``-th event of a kind."""

    seconds: float
    event: str | None = None
    count: int = 1


class Round(msgspec.Struct, kw_only=True, frozen=True):
    """One scan in a child; without ``kill`` it runs to its end."""

    job: Job
    kill: Kill | None = None
    file_limit: int | None = None
    """Bytes that no file may grow beyond."""


class Outcome(msgspec.Struct, kw_only=True, frozen=True):
    """What became of a child."""

    killed: bool
    seconds: float
    events: list[str]
    error: str = ""


class ForkServer:
    """The server as a test sees it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def run(self, job: Job, kill: Kill | None = None) -> Outcome:
        """One scan. An error of the scan itself fails the test."""
        outcome = self._play(Round(job=job, kill=kill))
        assert not outcome.error, outcome.error
        return outcome

    def try_run(self, job: Job, *, file_limit: int) -> Outcome:
        """One scan that may fail."""
        return self._play(Round(job=job, file_limit=file_limit))

    def _play(self, turn: Round) -> Outcome:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(turn) + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=Outcome)


@contextmanager
def fork_server() -> Iterator[ForkServer]:
    """Start a server, and end it."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    with process:
        yield ForkServer(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


def serve() -> None:
    import duckdb  # noqa: F401  # imported here, so that no child has to

    import retl.connectors.documents.embeddings.service
    import retl.connectors.documents.splitter
    import retl.connectors.duckdb.source
    import retl.connectors.elasticsearch.source.source
    import retl.connectors.elasticsearch.target.target
    import retl.connectors.files.stores.local
    import retl.connectors.mysql.source
    import retl.connectors.mysql.target
    import retl.connectors.postgres.source
    import retl.connectors.postgres.target
    import retl.connectors.redshift.source
    import retl.connectors.sqlite.source
    import retl.connectors.sqlite.target
    import retl.connectors.yuque.source  # noqa: F401

    for line in sys.stdin.buffer:
        outcome = play(msgspec.json.decode(line, type=Round))
        sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
        sys.stdout.buffer.flush()


def play(turn: Round) -> Outcome:
    """Fork a child, kill it when its time has come, and bury it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        if turn.file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (turn.file_limit, turn.file_limit))
            # The pause before another try: longer than there is patience for.
            random.uniform = lambda a, b: 1_000.0
        act(turn.job, writing)
    os.close(writing)
    told = Told(reading)
    try:
        told.wait("Began", 1)
        began = time.monotonic()
        if turn.kill is None:
            told.wait(None, 1)
        else:
            await_moment(told, turn.kill, began)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        told.wait(None, 1)
        killed = os.WIFSIGNALED(status)
        failed = "" if killed or os.WEXITSTATUS(status) == 0 else told.error or f"exit status {status}"
        return Outcome(killed=killed, seconds=time.monotonic() - began, events=told.names, error=failed)
    finally:
        os.close(reading)


def await_moment(told: Told, kill: Kill, began: float) -> None:
    if kill.event is not None:
        if not told.wait(kill.event, kill.count):
            return  # ended before
        began = time.monotonic()
    while (left := began + kill.seconds - time.monotonic()) > 0:
        if left > 0.002:
            time.sleep(left - 0.001)


class Told:
    """What the child has said through its pipe."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._text = ""
        self._ended = False

    @property
    def names(self) -> list[str]:
        return [line for line in self._text.split("\n") if line and not line.startswith(" ")]

    @property
    def error(self) -> str:
        return "\n".join(line[1:] for line in self._text.split("\n") if line.startswith(" "))

    def wait(self, name: str | None, count: int, *, patience: float = PATIENCE, strict: bool = True) -> bool:
        """Wait for an event, or for the end; ``False`` where the end came first, or nothing came and that is no error."""
        deadline = time.monotonic() + patience
        while not self._ended and (name is None or self.names.count(name) < count):
            if not self._read(max(0.0, deadline - time.monotonic())):
                assert not strict, f"a child is silent; it said {self.names}"
                break
        return name is None or self.names.count(name) >= count

    def catch_up(self) -> None:
        """Hear what has been said already."""
        while not self._ended and self._read(0):
            pass

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._pipe], [], [], seconds)
        if ready:
            said = os.read(self._pipe, 65_536)
            self._ended = not said
            self._text += said.decode()
        return bool(ready)


def act(job: Job, pipe: int) -> None:
    """The child's life: one scan."""
    status = 1
    try:
        os.write(pipe, b"Began\n")
        pipeline = job.pipeline()

        def tell(event: events.Event) -> None:
            os.write(pipe, f"{type(event).__name__}\n".encode())

        pipeline.subscribe(tell)
        anyio.run(pipeline.run_once)
        status = 0
    except BaseException:
        text = "".join(f" {line}\n" for line in traceback.format_exc().splitlines())
        os.write(pipe, text.encode())
    finally:
        os._exit(status)


if __name__ == "__main__":
    serve()
