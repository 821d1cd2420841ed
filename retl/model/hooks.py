"""What a pipeline calls before and after its runs and scans: ``Hooks``; and the statements of the user's own, also of tables."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import msgspec

from retl.model.errors import ConfigError
from retl.model.report import RunReport, ScanReport
from retl.model.typed import check_types

T = TypeVar("T")
Side = Literal["source", "target"]
Moment = Literal["before_run", "before_scan", "after_scan", "after_run"]
MOMENTS: tuple[Moment, ...] = get_args(Moment)

FACTS: Mapping[Moment, tuple[str, ...]] = {
    "before_run": ("pipeline",),
    "before_scan": ("pipeline", "table", "to", "scan_id", "attempt"),
    "after_scan": ("pipeline", "table", "to", "scan_id", "status", "rows"),
    "after_run": ("pipeline", "rows"),
}
"""The values that a statement may have as ``:name``, by the attributes of what a function is given then."""

_FIRST_WORD = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*(\w*)", re.DOTALL)
_CONTROL = {"begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release"}


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


def own_statements(
    word: str, given: str | Sequence[str] | None, why: str = "it is a part of retl's own transaction"
) -> tuple[str, ...]:
    """The statements of an option of a table or a hook, one an entry. Raises ``ConfigError`` for one that would break the transaction.

    ``why`` there must be no such statement.
    """
    statements = (given,) if isinstance(given, str) else tuple(given or ())
    for number, sql in enumerate(statements):
        found = _FIRST_WORD.match(sql)
        first = found[1] if found is not None else ""
        if not first:
            raise ConfigError(f"{word}[{number}] holds no statement.", remedy="write one, or remove it.")
        if first.lower() in _CONTROL:
            raise ConfigError(
                f"{word}[{number}] begins with {first.upper()}, but {why}.",
                remedy="leave out the statements that begin and end transactions.",
            )
    return statements


class SQL(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Statements that a hook runs ``on`` the ``"source"`` or the ``"target"``, in a session of their own.

    ``sql`` is one statement, or a list of them. Each is committed by itself, and none is a part of a transaction of retl's
    (``before_sql`` and ``after_sql`` of a table are). ``:pipeline``, ``:table``, ``:to``, ``:scan_id``, ``:attempt``,
    ``:rows`` and ``:status`` stand for the values of the run or the scan, as literals, where those exist. The
    ``blacklist`` does not look at them.

    After a scan or a run they run where it is done; with ``always`` also where it has failed or was stopped. An error
    that may pass, such as a lost connection, has them tried again from the statement that failed; so each may run
    twice, and should be repeatable.
    """

    sql: str | Sequence[str]
    """One statement, or several, which run in their order."""
    on: Side
    """Where they run: ``source`` or ``target``."""
    always: bool = False
    """After a scan or a run: also where it has failed or was stopped."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.on not in get_args(Side):
            raise ConfigError(f"unknown on {self.on!r}.", remedy="use one of source, target.")
        if not self.statements:
            raise ConfigError("sql holds no statement.", remedy="write one, or remove the hook.")

    @property
    def statements(self) -> tuple[str, ...]:
        """The statements, one an entry."""
        return own_statements("sql", self.sql, why="each statement is committed by itself")


Hook: TypeAlias = Callable[[T], Awaitable[None] | None] | SQL
"""One thing to do: a function, plain or async, or statements."""


class Hooks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a pipeline does before and after its runs and scans, while it owns its lease: functions of yours, and ``SQL``.

    Each moment takes one of them, or a list, which is done in its order, up to the first that fails. A function may be plain or
    async; a plain one runs in a thread of its own, so it may block. One that takes longer than the
    pipeline's ``stall_timeout`` is given up, and has failed. Hooks of tables that are scanned side by side run side by side.

    A hook that fails before something keeps it from beginning: nothing is read or written. After it, what has been
    committed stays, and the failure is reported (``RunFailed``, and ``run_once`` raises it). A hook is not called again for what
    is over; so *after* means at most once: never, if the process dies in between. The next run calls its own.
    """

    before_run: Hook[BeforeRun] | Sequence[Hook[BeforeRun]] | None = None
    """Before the tables are looked up. If it fails, no table is scanned; the next run calls it again."""
    before_scan: Hook[BeforeScan] | Sequence[Hook[BeforeScan]] | None = None
    """Before the source and the target are asked for a table, at each attempt. If it fails, that scan has failed; a
    ``TransientError`` is tried again, as any other of the scan."""
    after_scan: Hook[ScanReport] | Sequence[Hook[ScanReport]] | None = None
    """After a table's last attempt: a function whatever came of it (``report.status`` is done, stopped or failed), statements
    where it is done."""
    after_run: Hook[RunReport] | Sequence[Hook[RunReport]] | None = None
    """After all scans of a run: a function also where some have failed, statements where ``report.ok``. Not where the
    run was abandoned or its lease lost."""

    def __post_init__(self) -> None:
        for moment in MOMENTS:
            for name, hook in self.at(moment):
                _check(name, hook, moment)

    def at(self, moment: Moment) -> Iterator[tuple[str, Hook[Any]]]:
        """The hooks of a moment in their order, and how messages call them: ``after_run``, or ``after_run[1]`` in a list."""
        given = getattr(self, moment)
        if isinstance(given, Sequence) and not isinstance(given, str):
            yield from ((f"{moment}[{number}]", hook) for number, hook in enumerate(given))
        elif given is not None:
            yield moment, given


def _check(name: str, hook: Any, moment: Moment) -> None:
    if isinstance(hook, SQL):
        if hook.always and moment.startswith("before"):
            raise ConfigError(
                f"always means nothing for the hook {name}.", remedy="remove it; it is for what comes after."
            )
    elif not callable(hook):
        raise ConfigError(
            f"the hook {name} is {type(hook).__name__}, which cannot be called.",
            remedy='give the function itself, not what it returned; or retl.SQL("...", on="source").',
        )
