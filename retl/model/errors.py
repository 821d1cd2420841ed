"""Every error that retl raises on purpose, in one tree.

::

    RetlError                      anything below; catch this one
    ├── ConfigError                the declaration is wrong; nothing was written
    │   └── UnsupportedError       the declaration asks for what this system cannot do
    ├── TransientError             retried: the next attempt may succeed
    │   ├── ConnectionFailed       the system did not answer, or the line was cut
    │   └── TargetBusy             somebody else holds a lock on the target
    └── PermanentError             trying again without a change would fail again
        ├── SourceError            the source refused what was asked of it
        ├── TargetError            the target refused what was asked of it
        ├── SchemaDrift            source and target no longer fit together
        ├── GuardStopped           a guard stopped a scan before it did harm
        ├── RowsRejected           more rows were rejected than ``max_rejects`` allows
        ├── RepeatedKey            the key does not identify one row
        ├── HookFailed             a hook raised, was refused, or did not end
        ├── LeaseLost              another process owns the pipeline now
        └── StateError             the state store cannot be read or is of a newer version

The class tells how to recover; the message tells where it happened, what was tried
and what to do. A secret never appears in either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from retl.model.hidden import shown, visible

Recovery = Literal["configuration", "transient", "permanent"]


class RetlError(Exception):
    """The root of every error raised on purpose.

    ``message`` says what happened and ``remedy`` what to do about it. Pipeline, table
    and system are filled in on the way up (``with_context``).
    """

    recovery: ClassVar[Recovery] = "permanent"

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        pipeline: str = "",
        table: str = "",
        system: str = "",
    ) -> None:
        message = shown(message)
        super().__init__(message)
        self.message = message
        self.remedy = shown(remedy)
        self.pipeline = pipeline
        self.table = table
        self.system = system

    def with_context(self, *, pipeline: str = "", table: str = "", system: str = "") -> RetlError:
        """Add the place where the error happened, unless it is known already; returns self."""
        self.pipeline = self.pipeline or pipeline
        self.table = self.table or table
        self.system = self.system or system
        return self

    def __str__(self) -> str:
        place = visible(" / ".join(part for part in (self.pipeline, self.table) if part))
        if self.system:
            place = f"{place} ({self.system})" if place else self.system
        text = f"{place}: {self.message}" if place else self.message
        return f"{text} What to do: {self.remedy}" if self.remedy else text

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are rebuilt from ``args`` alone; the keyword arguments would be lost.
        return (type(self), (self.message,), self.__dict__)


class ConfigError(RetlError):
    """The declaration is wrong. Found before anything is written, wherever possible."""

    recovery = "configuration"


class UnsupportedError(ConfigError):
    """The declaration asks for something that this system cannot do."""


class TransientError(RetlError):
    """The same attempt may succeed later; the engine retries it.

    ``retry_after``: the seconds that the system asked to wait, if it did.
    """

    recovery = "transient"

    def __init__(self, message: str, *, retry_after: float | None = None, **words: str) -> None:
        super().__init__(message, **words)
        self.retry_after = retry_after


class ConnectionFailed(TransientError):
    """The system did not answer, or the connection broke."""


class TargetBusy(TransientError):
    """A lock that somebody else holds was not released in time."""


class PermanentError(RetlError):
    """Trying again without a change would fail again. The schedule continues nevertheless."""


class SourceError(PermanentError):
    """The source refused a statement, or sent something other than promised."""


class TargetError(PermanentError):
    """The target refused a statement."""


class SchemaDrift(PermanentError):
    """A column appeared, vanished or changed its type in a way that the table does not allow."""


class GuardStopped(PermanentError):
    """A guard (``max_shrink``, ``null_cursor = "fail"``) stopped the scan before it did harm."""


class RowsRejected(PermanentError):
    """More rows were rejected than ``max_rejects`` allows; nothing of the slice was committed.

    ``rejects`` holds them, as ``retl.model.checkpoint.Reject``.
    """

    rejects: Sequence[Any] = ()


class RepeatedKey(PermanentError):
    """Two rows of one slice have the same key, and nothing tells which one is newer."""


class HookFailed(PermanentError):
    """A hook of the pipeline has failed: a function raised, a system refused a statement, or it did not end in time."""


class LeaseLost(PermanentError):
    """Another process took the pipeline over; nothing more is written by this one."""


class StateError(PermanentError):
    """The state store is corrupt, cannot be read, or was written by a newer version."""
