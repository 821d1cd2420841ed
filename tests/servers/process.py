"""The process of a server: where it listens, whom it runs as, and that it never outlives the tests."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

STOP_SECONDS = 30.0
ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC"}

# Waits for the end of its input, which is the end of the tests, whatever ended them.
_GUARD = 'read -r _; kill -KILL "$1"; rm -rf "$2" || { sleep 1; rm -rf "$2"; }'


def free_port() -> int:
    """A free port of the loopback interface, none that the system gives to those who connect.

    It stays free while its server is down: a client that tries to connect meanwhile can't be given it as its own
    port, which on one machine would connect it with itself.
    """
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("a hundred ports are taken")


@contextmanager
def short_folder(name: str) -> Iterator[Path]:
    """A folder of the server's own, whose path leaves room for that of a socket (108 bytes)."""
    folder = Path(tempfile.mkdtemp(prefix=f"retl-{name}-", dir="/tmp"))
    try:
        yield folder
    finally:
        while folder.exists():
            with suppress(FileNotFoundError):  # a server that ends removes its socket at the same time
                shutil.rmtree(folder)


def give(folder: Path) -> None:
    """Hand a folder over to the user whom servers run as."""
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for path in (folder, *folder.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)


def as_nobody(command: Sequence[str]) -> list[str]:
    """The command as it is run: the superuser becomes nobody, since database servers refuse to run as root.

    By a program, not by ``subprocess``, which would have to fork this process with all its threads for it.
    """
    if os.geteuid():
        return list(command)
    nobody = pwd.getpwnam("nobody")
    return ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", "--", *command]


def run_as_nobody(command: Sequence[str], text: str = "") -> None:
    """Run a program to its end, with ``text`` as its input."""
    done = subprocess.run(
        as_nobody(command), input=text, cwd="/", env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def ended(process: psutil.Process) -> bool:
    """Whether a process holds nothing any more: whoever has inherited it may take his time to bury it."""
    try:
        # Of a process that dies the first thread may be gone before the others.
        return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() == 1
    except psutil.NoSuchProcess:
        return True


class Process:
    """A server that writes its log into ``folder / "log"``; the folder goes with it if the tests are killed."""

    def __init__(self, command: Sequence[str], folder: Path, *, ended_by: signal.Signals = signal.SIGTERM) -> None:
        """``ended_by``: the signal at which it ends in order."""
        self._command = list(command)
        self._folder = folder
        self._ended_by = ended_by
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def children(self) -> list[psutil.Process]:
        """The processes that it has started, and theirs."""
        return psutil.Process(self._process.pid).children(recursive=True) if self.running and self._process else []

    def start(self) -> None:
        assert not self.running
        # Sessions of their own: who presses Ctrl-C stops the tests, and those stop the server.
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                as_nobody(self._command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=ENVIRONMENT,
                start_new_session=True,
            )
        self._guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "guard", str(self._process.pid), str(self._folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def stop(self) -> None:
        """End the server in order, or by force where that takes too long."""
        self._end(self._ended_by)

    def kill(self) -> None:
        """End the server as a power cut would, but for what the system still writes."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._guard is not None:
            # First, so that it never kills a stranger who was given the number of the process.
            with self._guard:
                self._guard.kill()
            self._guard = None
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


class Owned:
    """A server that the tests may end and start again, unless a variable names one that is not theirs."""

    product: str
    _process: Process | None

    def start(self) -> None:
        """Start the server and wait until it can be used."""
        raise NotImplementedError

    def stop(self) -> None:
        """End the server in order."""
        self._own().stop()

    def kill(self) -> None:
        """End the server without a warning. What it has acknowledged is kept."""
        self._own().kill()

    def restart(self) -> None:
        """Start the server again, on its port and with its data, whether it runs or not."""
        self.stop()
        self.start()

    def log(self) -> str:
        return self._own().log()

    def _own(self) -> Process:
        if self._process is None:
            pytest.skip(f"the tests may not stop the {self.product} that a variable names")
        return self._process
