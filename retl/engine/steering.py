"""What is asked of a pipeline: here, and by other processes, through the state store.

A pause holds for every owner of the pipeline, until somebody resumes it; so does a backfill, until it has ended. A trigger
and a stop are for one owner: each carries the epoch for which it was sent, so that no standby obeys, much later, what its
predecessor has not heard.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple, get_args

import anyio
import anyio.to_thread
from msgspec.structs import replace

from retl.engine.asked import AskedBackfills
from retl.engine.context import Emit, now
from retl.engine.lease import LONGEST_BEAT_SECONDS, Lease, Listener, owner_in_words, process_identity
from retl.engine.request import Request
from retl.model import events
from retl.model.backfills import BackfillStatus
from retl.model.checkpoint import Fence
from retl.model.duration import Duration, parse_duration
from retl.model.errors import ConfigError, RetlError, TargetBusy
from retl.model.steering import Command, CommandWord, Sent, Steering
from retl.state.base import StateStore

TRIES = 20
"""How often a change is tried while others change the same."""
_LAST_SECONDS = 2.0
"""How long the end of a run waits for the store to take what was asked last."""
LOOK_SECONDS = 0.2
_REMEMBERED = 20
"""How many obeyed commands the store remembers."""
_HOLDS_FOR_ALL = ("pause", "resume")


class _Wish(NamedTuple):
    """A pause, or with ``None`` its end, that was asked here and is not stored yet."""

    paused_since: datetime | None


class Commands(Listener):
    """Of one pipeline in one process. What is asked here takes effect at once; the owner stores it with its next beat."""

    def __init__(
        self,
        store: StateStore,
        pipeline: str,
        *,
        emit: Emit,
        wake: Callable[[], None],
        trigger: Callable[[str | None], None],
        stop: Callable[[float | None], None],
        backfill: Callable[[BackfillStatus, Request], None],
    ) -> None:
        super().__init__()
        self._store = store
        self._pipeline = pipeline
        self._emit = emit
        self._wake = wake
        self._trigger = trigger
        self._stop = stop
        self._fence: Fence | None = None
        self._single = False
        self._heard = Steering()
        self._done: dict[str, bool] = {}
        """The commands that the store still has: whether they were obeyed, or dropped."""
        self._wish: _Wish | None = None
        self._news = anyio.Event()
        self._me = ""
        self._told = False
        self.backfills = AskedBackfills(store, pipeline, emit=emit, run=backfill, attend=self.attend)

    @property
    def paused_since(self) -> datetime | None:
        """Since when no run starts on schedule, as far as this process knows."""
        return self._wish.paused_since if self._wish is not None else self._heard.paused_since

    @property
    def paused(self) -> bool:
        """Whether no run starts on schedule."""
        return self.paused_since is not None

    @property
    def known_backfills(self) -> tuple[BackfillStatus, ...]:
        """The backfills that were sent, as the store told last."""
        return self._heard.backfills

    @property
    def pending(self) -> bool:
        """Whether something was asked here that the store does not know yet."""
        return self._wish is not None

    def pause(self) -> None:
        """Pause, from any thread. ``attend`` makes the owner store it."""
        self._wish = _Wish(self.paused_since or now())

    def resume(self) -> None:
        """Go on, from any thread."""
        self._wish = _Wish(None)

    def attend(self) -> None:
        """In the event loop: something was asked here."""
        self._news.set()

    # The owner ----------------------------------------------------------------

    async def begin(self, fence: Fence) -> None:
        """A new owner begins with what is stored: it may be paused. Commands to its predecessors are dropped."""
        self._fence, self._single, self._news = fence, False, anyio.Event()
        self.backfills.begin(fence)
        self._me = self._me or await this_process()
        await self.hear(await self._store.read_steering(self._pipeline))

    def begin_single(self, fence: Fence) -> None:
        """A single run takes no trigger and no backfill, and is not paused; it can be stopped."""
        self._fence, self._single, self._news = fence, True, anyio.Event()
        self.backfills.begin(fence, single=True)

    async def wait(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._news.wait()
            self._emit_paused()
        self._news = anyio.Event()

    async def hear(self, steering: Steering) -> None:
        """Obey, and take off the store what was obeyed."""
        self._heard = steering
        self._emit_paused()
        mine = [one for one in steering.commands if self._fence is None or one.epoch <= self._fence.epoch]
        for command in mine:
            if command.id not in self._done:
                self._done[command.id] = self._obey(command)
        wish = self._wish
        settled = replace(self._settled(steering, mine), backfills=await self.backfills.settled(steering.backfills))
        if settled != steering:
            if not await self._store.save_steering(self._pipeline, settled):
                return  # somebody asks for more at this moment: the next beat tells
            settled = replace(settled, revision=steering.revision + 1)
        self.known = self._heard = settled
        self._done.clear()
        self.backfills.take_up()
        if self._wish is wish:
            self._wish = None

    def _settled(self, steering: Steering, done: list[Command]) -> Steering:
        """What the store says when this is done."""
        left = tuple(one for one in steering.commands if one not in done)
        obeyed = [one.id for one in done if self._done[one.id]]
        settled = replace(steering, commands=left, heard=(*steering.heard, *obeyed)[-_REMEMBERED:])
        if self._wish is None:
            return settled
        since = self._wish.paused_since
        return replace(settled, paused_since=since and (steering.paused_since or since), by=self._me)

    def _obey(self, command: Command) -> bool:
        """Whether it was obeyed; else it was dropped."""
        reason = self._why_dropped(command)
        if reason is not None:
            self._emit_about(events.CommandDropped, command, command=command.word, reason=reason)
        elif command.word == "stop":
            self._stop(command.grace)
        elif command.word == "trigger":
            self._emit_about(events.Triggered, command)
        return reason is None

    def _why_dropped(self, command: Command) -> str | None:
        if command.word in _HOLDS_FOR_ALL:
            return None
        if self._fence is None or command.epoch != self._fence.epoch:
            return "it was for a former owner, which ended before it heard it"
        return self._why_no_trigger(command.table) if command.word == "trigger" else None

    def _why_no_trigger(self, table: str | None) -> str | None:
        """Trigger, unless something speaks against it."""
        if self._single:
            return "a single run takes no trigger"
        try:
            self._trigger(table)
        except ConfigError as error:  # the sender has other tables
            return error.message
        return None

    def _emit_about(self, kind: Callable[..., events.Event], sent: Command, **facts: str) -> None:
        about = {"pipeline": self._pipeline, "at": now(), "table": sent.table}
        self._emit(kind(**about, sent_at=sent.at, by=sent.by, **facts))

    def _emit_paused(self) -> None:
        """Emit that it is paused, or no longer, once for each change and each owner."""
        if self._single or self.paused == self._told:
            return
        self._told = self.paused
        self._wake()
        by = self._me if self._wish is not None else self._heard.by
        if self.paused_since is not None:
            self._emit(events.PipelinePaused(pipeline=self._pipeline, at=now(), by=by, since=self.paused_since))
        else:
            self._emit(events.PipelineResumed(pipeline=self._pipeline, at=now(), by=by))

    async def end(self) -> None:
        """The run ends: store what was asked last. Never fails or waits for long."""
        self.backfills.end()
        if self._fence is not None and (self.pending or self._done or self.backfills.pending):
            with suppress(Exception), anyio.move_on_after(_LAST_SECONDS):
                await self.hear(await self._store.read_steering(self._pipeline))
        self._fence, self._told = None, False

    # A standby ----------------------------------------------------------------

    async def forward(self, triggers: Sequence[str | None]) -> None:
        """Standing by: send the owner what was asked here."""
        wish = self._wish
        if wish is not None:
            await post(self._store, self._pipeline, "resume" if wish.paused_since is None else "pause")
            self._wish = None if self._wish is wish else self._wish
        for table in triggers:
            await self._forward_trigger(table)

    async def _forward_trigger(self, table: str | None) -> None:
        sent_at = now()
        try:
            if await post(self._store, self._pipeline, "trigger", table) is None:
                self._trigger(table)  # it has no owner at this moment: this one is about to be it
        except RetlError as error:  # later it would come as a surprise
            sent = Command(id="", word="trigger", epoch=0, table=table, at=sent_at, by=await this_process())
            self._emit_about(events.CommandDropped, sent, command=sent.word, reason=str(error))


def parse_command(word: str, table: str | None, grace: Duration | None) -> float | None:
    """The grace of a command in seconds. Raises ``ConfigError`` for words that do not fit together."""
    if word not in get_args(CommandWord):
        raise ConfigError(f"unknown command {word!r}.", remedy="use one of " + ", ".join(get_args(CommandWord)) + ".")
    if table is not None and word != "trigger":
        raise ConfigError(f"{word} is for the whole pipeline.", remedy="leave the table out.")
    if grace is not None and word != "stop":
        raise ConfigError(f"{word} takes no grace.", remedy="leave it out.")
    return None if grace is None else parse_duration(grace, what="grace").total_seconds()


# Any process ------------------------------------------------------------------


async def this_process() -> str:
    """This process, for people."""
    return owner_in_words(await anyio.to_thread.run_sync(process_identity))


async def send(
    store: StateStore, pipeline: str, word: CommandWord, table: str | None = None, *, grace: float | None = None
) -> Sent:
    """Ask the owner, whichever process that is, and wait until it has heard: for three beats at most."""
    watch = Lease(store, pipeline)
    lease = await store.read_lease(pipeline)
    owner = owner_in_words(lease.owner) if await watch.owner_lives(lease) else None
    if owner is None and not store.outlives_process:
        raise nobody_shares(pipeline)
    command = None
    if owner is not None or word in _HOLDS_FOR_ALL:
        command = await post(store, pipeline, word, table, grace)
    heard = command is not None and await _is_heard(store, watch, pipeline, command)
    return Sent(pipeline=pipeline, command=word, table=table, owner=owner, heard=heard)


async def post(
    store: StateStore, pipeline: str, word: CommandWord, table: str | None = None, grace: float | None = None
) -> Command | None:
    """Store what is asked; returns the command that waits for the owner, if there is one."""
    by = await this_process()
    for _ in range(TRIES):
        lease = await store.read_lease(pipeline)
        seen = await store.read_steering(pipeline)
        asked = Command(
            id=secrets.token_hex(6), word=word, epoch=lease.epoch, table=table, at=now(), by=by, grace=grace
        )
        command = _waiting(seen, asked) or asked if lease.owner is not None else None
        changed = _with(seen, asked, command)
        if changed == seen or await store.save_steering(pipeline, changed):
            return command
    raise too_busy(pipeline)


def _waiting(seen: Steering, asked: Command) -> Command | None:
    """The same command, if the owner has not heard it yet: several triggers are one."""
    alike = (one for one in seen.commands if (one.word, one.table, one.epoch) == (asked.word, asked.table, asked.epoch))
    return next(alike, None)


def _with(seen: Steering, asked: Command, command: Command | None) -> Steering:
    if asked.word == "pause":
        seen = replace(seen, paused_since=seen.paused_since or asked.at, by=asked.by)
    elif asked.word == "resume":
        seen = replace(seen, paused_since=None, by=asked.by)
    if command is None or command in seen.commands:
        return seen
    return replace(seen, commands=(*seen.commands, command))


async def _is_heard(store: StateStore, watch: Lease, pipeline: str, command: Command) -> bool:
    """Wait until the owner has heard a command. One that it does not hear is withdrawn."""
    lease = await store.read_lease(pipeline)
    with anyio.move_on_after(min(lease.ttl, 3 * LONGEST_BEAT_SECONDS)):
        while lease.epoch == command.epoch and await watch.owner_lives(lease):
            if command.id in (await store.read_steering(pipeline)).heard:
                return True
            await anyio.sleep(LOOK_SECONDS)
            lease = await store.read_lease(pipeline)
    for _ in range(TRIES):
        seen = await store.read_steering(pipeline)
        kept = tuple(one for one in seen.commands if one != command)
        if kept == seen.commands or await store.save_steering(pipeline, replace(seen, commands=kept)):
            return command.id in seen.heard
    raise too_busy(pipeline)


def too_busy(pipeline: str) -> TargetBusy:
    """The error of a change that others have always come before."""
    return TargetBusy(
        "what is asked of the pipeline is changed by other processes all the time.",
        remedy="try again; see who else steers it.",
        pipeline=pipeline,
    )


def nobody_shares(pipeline: str) -> ConfigError:
    """The error of asking a process that no other one reaches."""
    return ConfigError(
        "its state is kept in the memory of the process that runs it, where no other process reaches it.",
        remedy="name a state store that processes share, or call trigger(), pause() and resume() in that process.",
        pipeline=pipeline,
    )
