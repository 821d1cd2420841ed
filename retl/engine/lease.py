"""One owner per pipeline: take the lease, show that the owner lives, notice that the lease is lost."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread

from retl.engine.context import DEFAULT_TTL
from retl.model.checkpoint import Fence
from retl.model.duration import Duration, parse_duration
from retl.model.errors import ConfigError, LeaseLost
from retl.model.steering import Steering
from retl.state.base import LeaseRow, StateStore, lease_lost
from retl.threads import shielded

_GIVE_UP_SECONDS = 2.0
LONGEST_BEAT_SECONDS = 10.0
"""Longest time between two beats, however long the lease lives: so soon an owner hears what is asked of it."""
_ANSWER_SECONDS = 5.0
"""A store that has not answered for so long counts as unreachable."""


def parse_lease_ttl(value: Duration) -> float:
    """``lease_ttl`` in seconds. Raises ``ConfigError``."""
    length = parse_duration(value, what="lease_ttl")
    if not timedelta(seconds=0.1) <= length <= timedelta(days=1):
        raise ConfigError(f"lease_ttl is {value!r}, but it must be from 100ms to 1d.")
    return length.total_seconds()


def process_identity() -> str:
    """A unique name of this process: ``host/pid/kernel/start``.

    The last two tell *which* process had that number, so that a dead owner on the same
    kernel is noticed at once.
    """
    return "/".join((socket.gethostname().replace("/", "_"), str(os.getpid()), _kernel(), _start_time(os.getpid())))


def new_owner() -> str:
    """An owner's name, unique to one ``Pipeline`` object of this process."""
    return f"{process_identity()}/{secrets.token_hex(4)}"


def _process(owner: str) -> str:
    return owner.rsplit("/", 1)[0]


def _kernel() -> str:
    """The running kernel and the process namespace: equal only where process numbers mean the same."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").readlink().name
        return f"{boot}-{namespace}"
    return ""


def _start_time(pid: int) -> str:
    """The time at which a process started, in ticks since boot; empty if it does not run or cannot be seen."""
    with suppress(OSError, IndexError):
        status = Path(f"/proc/{pid}/stat").read_text()
        fields = status.rsplit(")", 1)[1].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""


def is_dead(owner: str) -> bool:
    """Whether the owner was a process of this kernel that no longer runs. ``False`` if unsure."""
    parts = owner.split("/")
    if len(parts) < 4 or not parts[2] or parts[2] != _kernel() or not parts[1].isdigit():
        return False
    pid = int(parts[1])
    if not parts[3] or _start_time(pid) == parts[3]:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return bool(_start_time(pid))  # a process of another user, which /proc may hide (hidepid)
    except OSError:
        return True
    return True


def owner_in_words(owner: str | None) -> str:
    """A lease's owner for people."""
    if not owner:
        return "another process"
    host, pid = [*owner.split("/"), ""][:2]
    return f"process {pid} on {host}" if pid else owner


class Listener:
    """Hears, with the beat of a lease, what is asked of its owner. This one ignores it."""

    def __init__(self) -> None:
        self.known = Steering()
        """What it has heard last."""

    async def wait(self, seconds: float) -> None:
        """Wait until the next beat is due, or sooner."""
        await anyio.sleep(seconds)

    async def hear(self, steering: Steering) -> None:
        """After each beat: what the store says."""


_of_this_process: WeakValueDictionary[str, Lease] = WeakValueDictionary()
"""The leases taken in this process, by the owner's name."""


class Lease:
    """A pipeline's lease as one process sees it."""

    def __init__(
        self,
        store: StateStore,
        pipeline: str,
        *,
        owner: str | None = None,
        ttl: float = DEFAULT_TTL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._pipeline = pipeline
        self._owner = owner
        self._ttl = ttl
        self._clock = clock
        self._seen: LeaseRow | None = None
        self._seen_since = 0.0
        self.fence: Fence | None = None
        self.holder: str | None = None
        """Another owner that holds it, if there is one."""
        self._answered: bool | None = None
        self._asked: float | None = None
        self._beat_began: float | None = None

    def after_fork(self) -> None:
        """What was owned belongs to the parent; this process gets a name of its own."""
        self._owner = self.fence = self.holder = self._seen = None
        self._answered = self._asked = self._beat_began = None

    @property
    def reachable(self) -> bool | None:
        """Whether the store has answered the last time, within seconds; ``None`` before the first."""
        late = self._asked is not None and self._clock() - self._asked >= _ANSWER_SECONDS
        return False if late else self._answered

    @property
    def silence(self) -> float:
        """For how long the heart has begun no beat; 0 where it need not."""
        return 0.0 if self._beat_began is None else self._clock() - self._beat_began

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """A question to the store."""
        self._asked = self._clock()
        try:
            yield
            self._answered = True
        except Exception:
            self._answered = False
            raise
        finally:
            self._asked = None

    async def try_take(self) -> Fence | None:
        """Take the lease if it is free, or if its owner is dead or has been silent for its ``ttl``.

        Raises ``ConfigError`` if the owner is another pipeline of this process.
        """
        owner = await self._me()
        with self._asking():
            row = await self._store.read_lease(self._pipeline)
        if row.owner is not None and row.owner != owner and not await self._is_free(row.owner, row):
            self.holder = row.owner
            if _process(row.owner) == _process(owner):
                raise ConfigError(
                    f"another pipeline named {self._pipeline!r} runs in this process on the same state store.",
                    remedy="give every pipeline a name of its own.",
                    pipeline=self._pipeline,
                )
            return None
        # Shielded: a process that is cancelled here would own a lease without knowing it.
        await shielded(self._take(row, owner))
        self.holder = None if self.fence else row.owner
        return self.fence

    async def _take(self, row: LeaseRow, owner: str) -> None:
        self.fence = await self._store.take_lease(row, owner, self._ttl)
        _of_this_process[owner] = self

    async def _me(self) -> str:
        """This owner's name. It reads files, so it runs in a thread."""
        if self._owner is None:
            self._owner = await anyio.to_thread.run_sync(new_owner)
        return self._owner

    async def _is_free(self, owner: str, row: LeaseRow) -> bool:
        """Whether the owner is known to be dead."""
        if self._silent(row):
            return True
        if _process(owner) == _process(await self._me()):
            # It could not give its lease up (a full disk), or was thrown away while it ran.
            lease = _of_this_process.get(owner)
            return lease is None or lease.fence is None
        return await anyio.to_thread.run_sync(is_dead, owner)

    def _silent(self, row: LeaseRow) -> bool:
        if self._seen is None or (row.epoch, row.beat) != (self._seen.epoch, self._seen.beat):
            self._seen, self._seen_since = row, self._clock()
            return False
        return self._clock() - self._seen_since >= row.ttl

    async def owner_lives(self, row: LeaseRow) -> bool:
        """Whether the lease, as it was just read, has an owner that is not known to be dead or silent."""
        return row.owner is not None and not await self._is_free(row.owner, row)

    async def take_unless_alive(self) -> Fence | None:
        """Stand by until the lease can be taken; ``None`` as soon as its owner is seen to be alive."""
        first: LeaseRow | None = None
        while True:
            fence = await self.try_take()
            if fence is not None:
                return fence
            first = first or self._seen
            if self._seen != first:
                return None
            await anyio.sleep(min(1.0, self._ttl / 5))

    async def keep(self, lost: Callable[[LeaseLost], None], listener: Listener | None = None) -> None:
        """Show signs of life until cancelled; calls ``lost`` and returns when another owner has the lease.

        The listener hears what the store asks of the owner.
        """
        listener = listener or Listener()
        try:
            while (fence := self.fence) is not None:
                self._beat_began = self._clock()
                await listener.wait(min(self._ttl / 3, LONGEST_BEAT_SECONDS))
                try:
                    with self._asking():
                        steering = await self._store.hear(fence, listener.known)
                        if steering is not None:
                            await listener.hear(steering)
                except Exception:
                    continue  # any error may pass: the fence, not the heartbeat, keeps data safe
                if steering is None:
                    self.fence = None
                    lost(lease_lost(fence))
                    return
        finally:
            self._beat_began = None

    async def give_up(self) -> None:
        """End the ownership, if any. Never fails or waits for long: the lease runs out by itself."""
        fence, self.fence = self.fence, None
        if fence is not None:
            with suppress(Exception), anyio.move_on_after(_GIVE_UP_SECONDS):
                await self._store.give_up_lease(fence)
