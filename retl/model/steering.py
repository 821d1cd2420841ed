"""What people ask of a running pipeline, as it lies in the state store beside the lease."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from retl.model.backfills import BackfillStatus
from retl.model.plain import Plain

CommandWord = Literal["trigger", "pause", "resume", "stop"]


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One request to the owner of an epoch. No other owner ever obeys it."""

    id: str
    word: CommandWord
    epoch: int
    table: str | None = None
    """The table that a trigger is about; ``None`` for all."""
    at: datetime
    """The time of day at which it was sent: for people, and compared with nothing."""
    by: str
    """The process that sent it, for people."""
    grace: float | None = None


class Steering(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a pipeline is paused, and what is to be backfilled, for every owner; and the commands that its owner has not heard yet."""

    revision: int = 0
    """Grows with every change; 0 where nothing was ever asked."""
    paused_since: datetime | None = None
    by: str = ""
    """The process that paused or resumed it last, for people."""
    commands: tuple[Command, ...] = ()
    heard: tuple[str, ...] = ()
    """The last commands that were obeyed, by their ``id``: for those who wait to know."""
    backfills: tuple[BackfillStatus, ...] = ()
    """In the order in which they were sent: those that have not ended, and the last ones that have."""


class Sent(Plain, frozen=True, kw_only=True):
    """What came of a command."""

    pipeline: str
    command: CommandWord
    table: str | None = None
    owner: str | None = None
    """The process that runs the pipeline, for people; ``None`` where none does."""
    heard: bool
    """Whether the owner has heard it. A trigger or a stop that it has not heard is withdrawn."""
