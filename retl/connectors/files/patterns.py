"""Patterns of names of files: what they match, and the columns that their groups become."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from retl.model.errors import ConfigError

_GROUP = re.compile(r"\{([A-Za-z_]\w*)(?::([^{}]+))?\}")
_DATE_PARTS = {"%Y": r"\d{4}", "%m": r"\d{2}", "%d": r"\d{2}", "%H": r"\d{2}", "%M": r"\d{2}", "%S": r"\d{2}"}
_DATE_PARTS |= {"%y": r"\d{2}", "%j": r"\d{3}", "%b": r"[A-Za-z]{3}", "%f": r"\d{1,6}"}
_SPECIAL = re.compile(r"[*?\[{]")


@dataclass(frozen=True)
class Pattern:
    """One pattern. ``*`` and ``?`` stay within a folder, ``**`` goes through all below; ``{name}`` becomes a column.

    A pattern without any of these names one file, or a folder with all that lies below it.
    """

    text: str
    regex: re.Pattern[str]
    prefix: str
    """What every matching name begins with."""
    dates: Mapping[str, str]
    """The pattern of each group that is a date or time."""

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self.regex.groupindex)

    def match(self, name: str) -> dict[str, str] | None:
        """The values of the groups; ``None`` where the name does not match."""
        found = self.regex.fullmatch(name)
        return None if found is None else found.groupdict()


def compile_pattern(text: str) -> Pattern:
    """Read a pattern. Raises ``ConfigError`` for one that can match nothing."""
    if not text or text.startswith("/"):
        raise ConfigError(
            f"the pattern {text!r} matches no file.",
            remedy="write it relative to the place that the source names, such as sales/*.csv.",
        )
    first = _SPECIAL.search(text)
    if first is None:
        folder = text.rstrip("/")
        below = "" if text.endswith("/") else f"|{re.escape(folder)}"
        return Pattern(text, re.compile(f"(?s:{re.escape(folder)}/.*{below})"), folder, {})
    dates: dict[str, str] = {}
    try:
        regex = re.compile(f"(?s:{_translated(text, dates)})")
    except re.error as error:
        raise ConfigError(f"the pattern {text!r} cannot be read: {error}.") from None
    return Pattern(text, regex, text[: first.start()], dates)


def _translated(text: str, dates: dict[str, str]) -> str:
    parts: list[str] = []
    seen: set[str] = set()
    at = 0
    while at < len(text):
        part, length = _next_part(text, at, dates, seen)
        parts.append(part)
        at += length
    return "".join(parts)


def _next_part(text: str, at: int, dates: dict[str, str], seen: set[str]) -> tuple[str, int]:
    """The regular expression of what stands at a place, and how much of the pattern it is."""
    if text.startswith("**/", at):
        return "(?:.*/)?", 3
    if text.startswith("**", at):
        return ".*", 2
    if text[at] == "*":
        return "[^/]*", 1
    if text[at] == "?":
        return "[^/]", 1
    if text[at] == "[" and (end := text.find("]", at + 2)) > 0:
        inner = text[at + 1 : end].replace("\\", "\\\\")
        return f"[{'^/' + inner[1:] if inner[0] in '!^' else inner}]", end + 1 - at
    if text[at] == "{":
        return _group(text, at, dates, seen)
    return re.escape(text[at]), 1


def _group(text: str, at: int, dates: dict[str, str], seen: set[str]) -> tuple[str, int]:
    found = _GROUP.match(text, at)
    if found is None:
        end = text.find("}", at)
        if end < 0 or "," not in text[at:end]:
            raise ConfigError(
                f"the pattern {text!r} has a brace that is no group.",
                remedy="write {name}, {name:%Y-%m-%d}, or alternatives as {csv,tsv}.",
            )
        return f"(?:{'|'.join(map(re.escape, text[at + 1 : end].split(',')))})", end + 1 - at
    name, date = found.groups()
    if name in seen:
        raise ConfigError(f"the pattern {text!r} has the group {name!r} twice.", remedy="give each a name of its own.")
    seen.add(name)
    if date is None:
        return f"(?P<{name}>[^/]+)", len(found.group())
    dates[name] = date
    return f"(?P<{name}>{_of_date(date)})", len(found.group())


def _of_date(date: str) -> str:
    parts = re.split(r"(%.)", date)
    unknown = [part for part in parts if len(part) == 2 and part[0] == "%" and part not in _DATE_PARTS]
    if unknown:
        raise ConfigError(f"{unknown[0]} of {date!r} is not understood.", remedy=f"use {', '.join(_DATE_PARTS)}.")
    return "".join(_DATE_PARTS.get(part) or re.escape(part) for part in parts)
