"""Statements of the user's own: ``before_sql`` and ``after_sql``, which a scan runs in the target, and those of hooks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from retl.model.errors import ConfigError

_FIRST_WORD = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*(\w*)", re.DOTALL)
_CONTROL = {"begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release"}


def own_statements(
    word: str, given: str | Sequence[str] | None, why: str = "it is a part of retl's own transaction"
) -> tuple[str, ...]:
    """The statements of an option, one an entry. Raises ``ConfigError`` for one that would break the transaction.

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
