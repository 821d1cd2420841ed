"""The text of a user's query: its named parameters, and where it ends."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time
from functools import lru_cache
from typing import Any

from retl.connectors.sql.dialect import Dialect
from retl.model.errors import ConfigError

_PARTS = {
    "comment": r"--[^\n]*|/\*.*?\*/",
    "escaped": r"\b[eE]'(?:[^'\\]|\\.|'')*'",
    "name": r'"(?:[^"]|"")*"|`(?:[^`]|``)*`',
    "text": r"'(?:[^']|'')*'",
    "dollar": r"(?<![\w$])\$(?P<tag>\w*)\$.*?\$(?P=tag)\$",
    "template": r"(?P<template>\{[{%#])",
    "parameter": r"(?<![:\w]):(?P<parameter>[A-Za-z_]\w*)",
    "end": r"(?P<end>;)",
}
"""What a text of SQL is made of, as far as a parameter or an end could hide in it."""
_ESCAPING = {
    "text": r"'(?:[^'\\]|\\.|'')*'",
    "name": r'"(?:[^"\\]|\\.|"")*"|`(?:[^`]|``)*`',
}


@lru_cache
def _pattern(backslash_escapes: bool, hash_comments: bool) -> re.Pattern[str]:
    parts = _PARTS | (_ESCAPING if backslash_escapes else {})
    if hash_comments:
        parts["comment"] += r"|#[^\n]*"
    return re.compile("|".join(parts.values()), re.DOTALL)


def query_text(query: str, params: Mapping[str, Any] | None, dialect: Dialect) -> str:
    """One SELECT without its semicolon, each ``:name`` replaced by its value as a literal of the dialect.

    ``params`` is ``None`` for a query that has no parameters: a colon in it is the system's own. Raises
    ``ConfigError`` for a parameter without a value, a value without a parameter, and a second statement.
    """
    pieces: list[str] = []
    used: dict[str, None] = {}
    at = 0
    for found in _found(query, dialect):
        name = found["parameter"]
        if found["template"] is not None and params is not None:
            raise _template(found[0])
        if found["end"] is not None:
            _check_end(query[found.end() :], dialect)
            query = query[: found.start()]
            break
        if name is not None and params is not None:
            used[name] = None
            pieces += [query[at : found.start()], literal(params[name], dialect) if name in params else ""]
            at = found.end()
    _check_names(list(used), list(params or ()))
    return "".join([*pieces, query[at:]]).strip()


def statement_text(sql: str, facts: Mapping[str, Any], dialect: Dialect) -> str:
    """One statement of the user's own, each ``:name`` replaced by the fact of that name.

    Raises ``ConfigError`` for another name, and for a second statement.
    """
    used = dict.fromkeys(name for found in _found(sql, dialect) if (name := found["parameter"]) is not None)
    unknown = [name for name in used if name not in facts]
    if unknown:
        raise ConfigError(
            f"the statement has {_listed(unknown)}, which has no value there.",
            remedy=f"there are {_listed(list(facts))}; write a space after the colon if it begins no name.",
        )
    return query_text(sql, {name: facts[name] for name in used}, dialect)


def _found(query: str, dialect: Dialect) -> Iterator[re.Match[str]]:
    return _pattern(dialect.backslash_escapes, dialect.hash_comments).finditer(query)


def literal(value: Any, dialect: Dialect) -> str:
    """A parameter's value as the dialect writes it. A list becomes the values of an IN."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return dialect.string(value)
    if isinstance(value, date | time):
        return dialect.string(value.isoformat(" ") if isinstance(value, datetime) else value.isoformat())
    if isinstance(value, Sequence):
        return ", ".join(literal(each, dialect) for each in value)
    return f"({value})" if value < 0 else str(value)


def _check_end(rest: str, dialect: Dialect) -> None:
    """After the semicolon only comments may follow."""
    at = 0
    for found in _found(rest, dialect):
        if rest[at : found.start()].strip() or not found[0].startswith(("--", "/*", "#", ";")):
            break
        at = found.end()
    if rest[at:].strip():
        raise ConfigError(
            "there is more than one statement: something follows the semicolon.",
            remedy="keep one statement.",
        )


def _check_names(used: list[str], given: list[str]) -> None:
    missing = [name for name in used if name not in given]
    if missing:
        near = difflib.get_close_matches(missing[0], [name for name in given if name not in used], n=1)
        raise ConfigError(
            f"the query has {_listed(missing)}, and params gives no value.",
            remedy=f"did you mean {near[0]!r}?"
            if near
            else f"write params = {{ {missing[0]} = ... }}, or a space after the colon if it begins no parameter.",
        )
    unused = [name for name in given if name not in used]
    if unused:
        there = f"it has {_listed(used)}" if used else "it has no parameter"
        raise ConfigError(
            f"params gives a value for {_listed(unused)}, which the query does not have: {there}.",
            remedy="remove it from params, or use it in the query, outside of quotes and comments.",
        )


def _listed(names: list[str]) -> str:
    return ", ".join(f":{name}" for name in names)


def _template(mark: str) -> ConfigError:
    return ConfigError(
        f"the query holds {mark}, as templates of dbt do; the source takes SQL alone.",
        remedy="name the SQL that `dbt compile` writes, below target/compiled.",
    )
