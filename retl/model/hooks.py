"""What a pipeline calls before and after its runs and scans: ``Hooks``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields

from retl.model.errors import ConfigError
from retl.model.report import RunReport, ScanReport


@dataclass(frozen=True, slots=True)
class BeforeRun:
    """A run that is about to begin."""

    pipeline: str
    tables: tuple[str, ...] | None
    """The tables that were asked for; ``None`` for all of them."""


@dataclass(frozen=True, slots=True)
class BeforeScan:
    """A scan of one table that is about to begin."""

    pipeline: str
    table: str
    to: str
    """The table in the target."""
    scan_id: str
    """The same as in the scan's report."""
    attempt: int
    """1, or more where an earlier attempt ended in an error that may pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Functions of yours that a pipeline calls before and after its runs and scans, while it owns its lease.

    Each may be plain or async; a plain one runs in a thread of its own, so it may block. One that takes longer than the
    pipeline's ``stall_timeout`` is given up, and has failed. Hooks of tables that are scanned side by side run side by side.

    A hook that raises before something keeps it from beginning: nothing is read or written. After it, what has been
    committed stays, and the failure is reported (``RunFailed``, and ``run_once`` raises it). A hook is not called again for what
    is over; so *after* means at most once: never, if the process dies in between.
    """

    before_run: Callable[[BeforeRun], Awaitable[None] | None] | None = None
    """Before the tables are looked up. If it raises, no table is scanned; the next run calls it again."""
    after_run: Callable[[RunReport], Awaitable[None] | None] | None = None
    """After all scans of a run, also where some have failed; not where the run was abandoned or its lease lost."""
    before_scan: Callable[[BeforeScan], Awaitable[None] | None] | None = None
    """Before the source and the target are asked for a table, at each attempt. If it raises, that scan has failed; a
    ``TransientError`` is tried again, as any other of the scan."""
    after_scan: Callable[[ScanReport], Awaitable[None] | None] | None = None
    """After a table's last attempt, whatever came of it: ``report.status`` is done, stopped or failed."""

    def __post_init__(self) -> None:
        for each in fields(self):
            hook = getattr(self, each.name)
            if hook is not None and not callable(hook):
                raise ConfigError(
                    f"the hook {each.name} is {type(hook).__name__}, which cannot be called.",
                    remedy="give the function itself, not what it returned.",
                )
