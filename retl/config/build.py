"""Build declared types from plain TOML values; collects every problem with its path."""

from __future__ import annotations

import os
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from functools import reduce
from operator import or_
from pathlib import Path as FilePath
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec

from retl.config.lines import Path
from retl.config.references import References
from retl.config.registry import Role
from retl.connectors.base import Connector
from retl.model.duration import parse_duration
from retl.model.errors import ConfigError
from retl.model.secret import Secret
from retl.model.typed import did_you_mean

BAD: Final[Any] = object()
"""Takes the place of a value that could not be built; its problem has been reported."""

_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|:memory:$")
_LISTS = (list, tuple, set, frozenset, Sequence, Iterable)
_TABLES = (dict, Mapping)


@dataclass
class Problems:
    """The problems of a job file, path by path."""

    found: list[tuple[Path, str]] = field(default_factory=list)

    def add(self, path: Path, message: str) -> None:
        self.found.append((path, message))

    def add_error(self, path: Path, error: ConfigError) -> None:
        self.add(path, f"{error.message} What to do: {error.remedy}" if error.remedy else error.message)


def anchored(path: str, folder: FilePath) -> str:
    """A path of the job file: relative ones are taken from its folder; URLs and ``:memory:`` stay."""
    return path if not path or _ABSOLUTE.match(path) else os.path.join(folder, os.path.expanduser(path))  # noqa: PTH118, PTH111


class Builder:
    """Builds declared types. ``connect`` builds a connector of a role from a table of the file."""

    def __init__(
        self,
        problems: Problems,
        references: References,
        folder: FilePath,
        connect: Callable[[Builder, Role, Mapping[str, Any], Path], Any],
    ) -> None:
        self.problems = problems
        self._references = references
        self._folder = folder
        self._connect = connect

    def struct(self, kind: type[msgspec.Struct], raw: Mapping[str, Any], path: Path, *, ignore: str = "") -> Any:
        """An instance of ``kind``, or ``BAD``."""
        good = self.names(kind, raw, path, ignore=ignore)
        fields = {item.encode_name: item for item in msgspec.structs.fields(kind)}
        values = {}
        for key, item in fields.items():
            if key not in raw:
                if item.required:
                    self.problems.add(path, f"{key} is missing")
                    good = False
                continue
            built = self.value(item.type, raw[key], (*path, key))
            good = good and built is not BAD
            values[item.name] = built
        if not good:
            return BAD
        try:
            return kind(**values)
        except ConfigError as error:
            self.problems.add_error(path, error)
        except (TypeError, ValueError) as error:  # raised by a __post_init__
            self.problems.add(path, str(error))
        return BAD

    def names(self, kind: type[msgspec.Struct], raw: Mapping[str, Any], path: Path, *, ignore: str = "") -> bool:
        """Whether ``kind`` knows every key of a table."""
        known = [item.encode_name for item in msgspec.structs.fields(kind)]
        unknown = [key for key in raw if key not in known and key != ignore]
        what = "option" if path else "section"
        for key in unknown:
            hint = did_you_mean(key, known) or f"; there are {', '.join(known)}"
            self.problems.add((*path, key), f"unknown {what}{hint}")
        return not unknown

    def value(self, kind: Any, raw: Any, path: Path) -> Any:
        """A value of the declared type ``kind``, or ``BAD``."""
        shape = _Shape(kind)
        if isinstance(raw, str):
            try:
                if Secret in shape.plain and self._references.has_reference(raw):
                    return self._references.secret(raw)
                raw = self._references.text(raw)
            except ConfigError as error:
                self.problems.add_error(path, error)
                return BAD
            if shape.extra.get("path"):
                raw = anchored(raw, self._folder)
        if isinstance(raw, dict):
            return self._table(shape, raw, path)
        if isinstance(raw, list):
            return self._list(shape, raw, path)
        return self._leaf(shape, raw, path)

    def _table(self, shape: _Shape, raw: dict[str, Any], path: Path) -> Any:
        role = shape.extra.get("role")
        if role is not None and Connector in shape.plain:
            return self._connect(self, role, raw, path)
        struct = next((kind for kind in shape.plain if _is_struct(kind)), None)
        if struct is not None:
            return self.struct(struct, raw, path)
        mapping = next((kind for kind in shape.plain if (get_origin(kind) or kind) in _TABLES), None)
        if mapping is None and Any not in shape.plain:
            return self._mismatch(shape, raw, path)
        inner = get_args(mapping)[1] if get_args(mapping) else Any
        built = {key: self.value(inner, item, (*path, key)) for key, item in raw.items()}
        return BAD if BAD in built.values() else built

    def _list(self, shape: _Shape, raw: list[Any], path: Path) -> Any:
        kind = next((kind for kind in shape.plain if (get_origin(kind) or kind) in _LISTS), None)
        if kind is None and Any not in shape.plain:
            return self._mismatch(shape, raw, path)
        inner = get_args(kind)[0] if get_args(kind) else Any
        built = [self.value(inner, item, (*path, number)) for number, item in enumerate(raw)]
        if any(item is BAD for item in built):
            return BAD
        least = next((meta.min_length for meta in shape.metas if meta.min_length), 0)
        if len(built) < least:
            self.problems.add(path, "the list is empty" if least == 1 else f"the list has fewer than {least} items")
            return BAD
        made = get_origin(kind) or kind
        return made(built) if made in (tuple, set, frozenset) else built

    def _leaf(self, shape: _Shape, raw: Any, path: Path) -> Any:
        if Any in shape.plain:
            return raw
        for kind in shape.plain:
            if get_origin(kind) is Literal and any(
                raw is word or (isinstance(word, str) and raw == word) for word in get_args(kind)
            ):
                return raw
        fitting = [kind for kind in shape.full if _fits(raw, _bare(kind))]
        if not fitting:
            return self._mismatch(shape, raw, path)
        if timedelta in shape.plain and not isinstance(raw, int):
            # A whole number may mean seconds or units of a cursor: the option itself decides.
            try:
                parse_duration(raw, what=str(path[-1]))
            except ConfigError as error:
                self.problems.add_error(path, error)
                return BAD
        try:
            return msgspec.convert(raw, shape.narrowed(fitting), strict=True)
        except msgspec.ValidationError as error:
            self.problems.add(path, _tidy(str(error)))
            return BAD

    def _mismatch(self, shape: _Shape, raw: Any, path: Path) -> Any:
        words = shape.choices()
        if isinstance(raw, str) and words:
            self.problems.add(path, f"{raw!r} is not one of {', '.join(words)}{did_you_mean(raw, words)}")
        else:
            self.problems.add(path, f"expected {shape.describe()}, got {_describe_value(raw)}")
        return BAD


class _Shape:
    """A declared type, taken apart: its alternatives and annotations."""

    def __init__(self, kind: Any) -> None:
        self.metas: list[msgspec.Meta] = []
        if get_origin(kind) is Annotated:
            self.metas = [note for note in kind.__metadata__ if isinstance(note, msgspec.Meta)]
            kind = kind.__origin__
        self.full = [part for part in _alternatives(kind) if part is not type(None)]
        self.plain = [_bare(part) for part in self.full]
        self.extra: dict[str, Any] = {}
        for meta in (*(note for part in self.full for note in _metas(part)), *self.metas):
            self.extra.update(meta.extra or {})

    def narrowed(self, kinds: Sequence[Any]) -> Any:
        """The type made of some of the alternatives, with the annotated limits."""
        union: Any = reduce(or_, kinds)
        return reduce(lambda kind, meta: Annotated[kind, meta], self.metas, union)

    def choices(self) -> list[str]:
        """The allowed words, if only words are allowed."""
        if str in self.plain:
            return []
        words: list[str] = []
        for kind in self.plain:
            if get_origin(kind) is Literal:
                words += [word for word in get_args(kind) if isinstance(word, str)]
            elif isinstance(kind, type) and issubclass(kind, Enum):
                words += [str(member.value) for member in kind]
        return words

    def describe(self) -> str:
        if timedelta in self.plain:
            return _TYPE_WORDS[timedelta]
        # Functions and secrets are for Python.
        kinds = [kind for kind in self.plain if kind is not Secret and get_origin(kind) is not Callable]
        return " or ".join(dict.fromkeys(_describe_type(kind) for kind in kinds or self.plain))


def _alternatives(kind: Any) -> list[Any]:
    if get_origin(kind) in (Union, types.UnionType):
        return [part for argument in get_args(kind) for part in _alternatives(argument)]
    return [kind]


def _bare(kind: Any) -> Any:
    return kind.__origin__ if get_origin(kind) is Annotated else kind


def _metas(kind: Any) -> list[msgspec.Meta]:
    return [note for note in getattr(kind, "__metadata__", ()) if isinstance(note, msgspec.Meta)]


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _fits(raw: Any, kind: Any) -> bool:
    """Whether a scalar may become this type; its limits are checked later."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return raw in [member.value for member in kind]
    if kind is float:
        return isinstance(raw, int | float) and not isinstance(raw, bool)
    if kind is int:
        return isinstance(raw, int) and not isinstance(raw, bool)
    return isinstance(kind, type) and kind is not timedelta and isinstance(raw, kind)


_TYPE_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    timedelta: 'a length of time such as "5m"',
}


def _describe_type(kind: Any) -> str:
    if kind in _TYPE_WORDS:
        return _TYPE_WORDS[kind]
    origin = get_origin(kind) or kind
    if origin is Literal:
        return " or ".join(repr(word) if isinstance(word, str) else str(word).lower() for word in get_args(kind))
    if isinstance(origin, type) and issubclass(origin, Enum):
        return " or ".join(repr(member.value) for member in origin)
    if origin in _LISTS:
        return "a list"
    return "a table" if origin in _TABLES or _is_struct(origin) else getattr(kind, "__name__", str(kind))


def _describe_value(raw: Any) -> str:
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, dict | list):
        return "a table" if isinstance(raw, dict) else "a list"
    # The value itself is not shown: it may have come from a reference.
    return {str: "text", int: "a whole number", float: "a number"}.get(type(raw), "a date or time")


def _tidy(message: str) -> str:
    message = re.sub(r" - at `.*`$", "", message).replace("Expected", "expected")
    for kind in (str, int, float):
        message = message.replace(f"`{kind.__name__}`", _TYPE_WORDS[kind])
    return message.replace("`", "")
