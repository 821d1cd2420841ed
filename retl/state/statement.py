"""Statements as data: what the steps of a store yield, and how they encode values."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

import msgspec

from retl.model.errors import StateError

T = TypeVar("T")
_LONGEST_KEY = 255


class Statement(NamedTuple):
    """SQL with ``?`` for each value. ``rows``: it answers with rows, not with a count."""

    sql: str
    values: tuple[Any, ...] = ()
    rows: bool = False
    rejectable: bool = False
    """Whether the values of a row may be why it fails; its step then gets a ``RowError``."""


Step = Generator[Statement, Any, T]


def drive(step: Step[T], run: Callable[[Statement], Any]) -> T:
    """Run a step on a blocking driver: ``run`` answers a statement, or raises its error in the step."""
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            statement = step.send(answer) if error is None else step.throw(error)
        except StopIteration as end:
            result: T = end.value
            return result
        answer, error = None, None
        try:
            answer = run(statement)
        except BaseException as raised:
            error = raised


def of_nothing(step: Step[T]) -> T:
    """The result of a step that only reads, if the store has no tables."""
    return drive(step, lambda statement: [])


def narrowed(start: str, pipeline: str, table: str | None, end: str = "", rows: bool = False) -> Statement:
    values: tuple[Any, ...] = (pipeline,)
    sql = f"{start} WHERE pipeline = ?"
    if table is not None:
        sql, values = sql + " AND table_name = ?", (*values, table)
    return Statement(sql + end, values, rows=rows)


def short_key(key: str) -> str:
    """A key short enough for an index of every system, and still unique."""
    if len(key) <= _LONGEST_KEY:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f"{key[: _LONGEST_KEY - len(digest) - 1]}#{digest}"


def decode(body: Any, kind: type[T], what: str, remedy: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise StateError(f"{what} in the state store cannot be read ({error}).", remedy=remedy) from None


def encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()
