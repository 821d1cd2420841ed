"""Follow the files of a job while its pipelines run: SIGHUP asks for it, ``--watch`` looks once a second."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence

import anyio
from anyio.abc import TaskStatus
from anyio.to_thread import run_sync

from retl.config import load_jobs
from retl.config.watch import look
from retl.model.errors import ConfigError
from retl.pipeline import Pipeline

_SECONDS = 1.0
"""How often ``--watch`` looks. What has changed is read once it has been the same for so long: an editor may still write."""


class Changes:
    """The job file as it was taken up last, and how it becomes another one."""

    def __init__(self, path: str, only: Sequence[str], *, watch: bool) -> None:
        self._only = only
        self._look = look(path) if watch else None  # before it is read: what changes in between is seen next time
        self._jobs = load_jobs(path)
        self._asked = anyio.Event()
        self._terminal = _on_terminal()

    def selected(self) -> list[Pipeline]:
        """The pipelines to run. Raises ``ConfigError`` for a name that the file has not."""
        return self._jobs.select(self._only)

    async def follow(
        self,
        take_up: Callable[[str, Sequence[Pipeline] | ConfigError], Awaitable[None]],
        hang_up: Callable[[], None],
        *,
        task_status: TaskStatus[None],
    ) -> None:
        """Give ``take_up`` the file's name and its pipelines whenever the file may have changed, or what is wrong with it.

        ``hang_up`` is called where a SIGHUP says that the terminal is gone.
        """
        async with anyio.create_task_group() as tasks:
            if hasattr(signal, "SIGHUP"):
                await tasks.start(self._heed_signals, hang_up)
            if self._look is not None:
                tasks.start_soon(self._poll)
            task_status.started()
            while True:
                await self._asked.wait()
                self._asked = anyio.Event()
                await take_up(str(self._jobs.path), await run_sync(self._read))

    async def _heed_signals(self, hang_up: Callable[[], None], *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGHUP) as signals:
            task_status.started()
            async for _ in signals:
                if self._terminal and not _on_terminal():
                    hang_up()
                else:
                    self._asked.set()

    async def _poll(self) -> None:
        assert self._look is not None
        before = self._look
        while True:
            await anyio.sleep(_SECONDS)
            now = await run_sync(self._look.renewed)
            if now not in (self._look, before):
                before = now  # it may still be written
            elif now != self._look:
                self._look = before = await run_sync(now.at, self._jobs.path)
                self._asked.set()

    def _read(self) -> Sequence[Pipeline] | ConfigError:
        try:
            jobs = self._jobs.reload()
            found = jobs.select(self._only)
        except ConfigError as error:
            return error
        self._jobs = jobs
        return found


def _on_terminal() -> bool:
    """Whether somebody sits at a terminal; one that has been closed is none any more."""
    try:
        return os.isatty(sys.stdin.fileno())
    except (AttributeError, OSError, ValueError):  # no input at all
        return False
