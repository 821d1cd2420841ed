"""Check that the values of a declaration have its types, which Python itself does not do."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from retl.model.errors import ConfigError

LONGEST_NAME = 255
"""Maximum length of a name that is a key in a state store."""

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): ""}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'cursor'?``, or nothing if no known word is near."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=False)


def check_types(options: msgspec.Struct) -> None:
    """Raise ``ConfigError`` for the first field with a value of another type. Text passes for any word of a list."""
    for name, hint in _hints(type(options)).items():
        value = getattr(options, name, None)
        if name in options.__struct_fields__ and not _fits(value, hint):
            raise wrong_type(name, value, _in_words(hint))


def wrong_type(name: str, value: object, wanted: str) -> ConfigError:
    """The error of an argument of the wrong type."""
    return ConfigError(f"{name} is {repr(value)[:100]}, of type {type(value).__name__}.", remedy=f"give {wanted}.")


def check_length(what: str, name: str | None) -> None:
    """Raise ``ConfigError`` for a name that no state store could hold."""
    if name is not None and len(name) > LONGEST_NAME:
        raise ConfigError(
            f"{what} has {len(name):,} characters, and the state store takes {LONGEST_NAME}: {name[:60]}...",
            remedy="choose a shorter one; a table may be read by a query, whose name is free.",
        )


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin is Annotated:
        return _fits(value, get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if origin is Literal:
        return any(type(value) is type(word) and (isinstance(word, str) or value == word) for word in get_args(hint))
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(each, get_args(hint)[1]) for each in value.values())
    if origin is not None and issubclass(origin, Sequence):
        # Where the list is read, a plain text gets a better message than this one.
        return isinstance(value, str) or (
            isinstance(value, Sequence) and all(_fits(e, get_args(hint)[0]) for e in value)
        )
    if isinstance(hint, type) and issubclass(hint, Enum):
        return isinstance(value, str)
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _in_words(hint: Any) -> str:
    """The types that a field takes, for people."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(word for each in get_args(hint) if (word := _in_words(each))))
    if origin is Literal:
        return " or ".join(repr(word) for word in get_args(hint))
    if origin is not None:
        return "a mapping of texts" if issubclass(origin, Mapping) else "a list of texts"
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return f"retl.{hint.__name__}(...)"
    return _WORDS.get(hint, "text" if isinstance(hint, type) and issubclass(hint, Enum) else "a length of time")
