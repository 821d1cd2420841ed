"""A process that runs a pipeline on schedule, as one of two copies of a service. ``Owner`` is the test's end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
import msgspec

from retl.model import events
from tests.adversity.fork_server import Told
from tests.adversity.jobs import Job


class Order(msgspec.Struct, kw_only=True, frozen=True):
    """What a process does: run, and freeze itself right after the ``count``-th event of a kind."""

    job: Job
    freeze_at: str | None = None
    count: int = 1


class Owner:
    """A process as the test sees it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._process = process
        self._told = Told(process.stdout.fileno())

    @property
    def events(self) -> list[str]:
        return self._told.names

    def wait(self, event: str, count: int = 1) -> None:
        """Until the process has told of an event so often."""
        assert self._told.wait(event, count), f"it ended: {self._told.names} {self._told.error}"

    def wait_again(self, event: str) -> None:
        """Until it tells of an event once more."""
        self._told.catch_up()
        self.wait(event, self.events.count(event) + 1)

    def hears(self, event: str, seconds: float) -> bool:
        """Whether the event comes in that time."""
        return self._told.wait(event, 1, patience=seconds, strict=False)

    def wait_frozen(self) -> None:
        _, status = os.waitpid(self._process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        self.wait_frozen()

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def owner(job: Job, freeze_at: str | None = None, count: int = 1) -> Iterator[Owner]:
    """Start a process; it is killed in the end."""
    order = msgspec.json.encode(Order(job=job, freeze_at=freeze_at, count=count)).decode()
    with subprocess.Popen([sys.executable, "-m", __name__, order], stdout=subprocess.PIPE) as process:
        try:
            yield Owner(process)
        finally:
            process.kill()


def check_takeover(job: Job, more: Callable[[], object]) -> None:
    """Only the first of two writes; when it dies, the second takes what there is ``more``, however long the lease lives."""
    with owner(job) as first:
        first.wait("ScanFinished")
        with owner(job) as second:
            second.wait("LeaseHeld")
            first.wait_again("ScanFinished")
            first.wait_again("ScanFinished")
            assert not {"LeaseAcquired", "ScanStarted"} & {*second.events}
            more()
            first.kill()
            began = time.monotonic()
            second.wait("ScanFinished")
            assert time.monotonic() - began < 20
            second.kill()


def main(order: Order) -> None:
    left = order.count

    def tell(event: events.Event) -> None:
        nonlocal left
        name = type(event).__name__
        if isinstance(event, events.ScanFailed):
            name += f":{event.report.error_type}"
        os.write(1, f"{name}\n".encode())
        if name == order.freeze_at:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGSTOP)

    pipeline = order.job.pipeline()
    pipeline.subscribe(tell)
    anyio.run(pipeline.run_forever)


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=Order))
