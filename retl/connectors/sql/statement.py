"""SQL as steps: generators that yield a ``Statement`` and are sent its answer.

The answer is the rows of a ``query``, or the number of changed rows of anything else. The
error of a statement is raised in the step, which may catch it: ``RowError`` for a row that
is rejected. So one text serves a blocking driver in a thread and an asyncio driver, alone or
inside a transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from retl.state.statement import Statement, Step, drive

__all__ = ["RowError", "Statement", "Step", "attempt", "drive", "execute", "of_one", "query", "trial"]

T = TypeVar("T")


class RowError(Exception):
    """The target rejects a row because of its values."""

    @property
    def reason(self) -> str:
        return str(self)


def query(sql: str, *values: Any) -> Statement:
    """A statement that answers with rows."""
    return Statement(sql, values, rows=True)


def execute(statements: Iterable[str], *, rejectable: bool = False) -> Step[list[int]]:
    """Run statements in their order; returns how many rows each has changed."""
    changed: list[int] = []
    for sql in statements:
        count = yield Statement(sql, rejectable=rejectable)
        changed.append(count)
    return changed


def of_one(statement: Statement) -> Step[Any]:
    """A step of one statement; returns its answer."""
    return (yield statement)


def attempt(step: Step[T], *, savepoint: str = "retl_try", keep: bool = True) -> Step[T | RowError]:
    """Run a part of a transaction; undo it if a row is rejected or, without ``keep``, in any case."""
    yield Statement(f"SAVEPOINT {savepoint}")
    result: T | RowError
    try:
        result = yield from step
    except RowError as refused:
        result = refused
    if not keep or isinstance(result, RowError):
        yield Statement(f"ROLLBACK TO SAVEPOINT {savepoint}")
    yield Statement(f"RELEASE SAVEPOINT {savepoint}")
    return result


def trial(step: Step[T], begin: str) -> Step[T | RowError]:
    """Run a step in a transaction of its own, and undo it."""
    yield Statement(begin)
    result: T | RowError
    try:
        result = yield from step
    except RowError as refused:
        result = refused
    except Exception:
        yield Statement("ROLLBACK")
        raise
    yield Statement("ROLLBACK")
    return result
