"""The words of a table of files: which files, when, and what their rows are told beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

import msgspec

from retl.model.duration import Duration, parse_duration
from retl.model.errors import ConfigError
from retl.model.options import TableOptions

Vanished = Literal["keep", "delete"]
KeyConflict = Literal["fail", "newest"]
NewTypes = Literal["refuse", "widen"]
Identity = Literal["listed", "content"]
Told = Literal["file", "url", "row", "line", "modified", "hash"]

_PRESETS: dict[str, dict[Told, str]] = {
    "default": {"file": "_file", "row": "_row"},
    "documents": {"file": "_file"},
    "cc": {"file": "__cc_src_file", "url": "__cc_src_url"},
}


class FileWords(TableOptions, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The words of a table that is made of files."""

    files: str | Sequence[str] | None = None
    """Patterns of the files, such as ``sales/**/{region}-{date:%Y-%m-%d}.csv``; the table's name when unset."""
    ignore: str | Sequence[str] | None = None
    """Patterns of files to leave out, beside those that are hidden or temporary by their names."""
    vanished: Vanished | None = None
    """Rows of files that are gone: ``keep`` (when unset) or ``delete``."""
    min_age: Duration | None = None
    """How old a file must be, by its time of change, before it is read."""
    quiet: Duration | None = None
    """For how long a file must stay as it is, while it is watched, before it is read."""
    since: str | None = None
    """The first name to read, in the order of names; what comes before stays as it is."""
    modified_since: str | datetime | None = None
    """Read no file that was last changed before this time (ISO 8601, UTC where it has no zone)."""
    min_size: int | None = None
    """Read no file of fewer bytes."""
    max_size: int | None = None
    """Read no file of more bytes."""
    hive: bool | None = None
    """Whether folders such as ``year=2024`` become columns."""
    provenance: str | Mapping[Told, str | Literal[False]] | None = None
    """Columns that tell where a row comes from: ``{ file = "_file", row = "_row", line = ..., url = ..., modified = ..., hash =
    ... }``, or ``"cc"`` for ``__cc_src_file`` and ``__cc_src_url``. ``row`` counts the rows of the file, ``line`` is the
    line that a reject names."""
    key_conflict: KeyConflict | None = None
    """A key that stands in two files: the later one ``fail``s (when unset), or the ``newest`` file has it."""
    identity: Identity | None = None
    """What makes a file another one: that it is ``listed`` with another size, time or ETag (when unset); or, beside that,
    another ``content``: the rows of a file whose bytes are the same stay as they are."""
    new_types: NewTypes | None = None
    """A later file whose values do not fit the types of the first: ``refuse`` it (when unset), or ``widen`` the columns."""


@dataclass(frozen=True, slots=True)
class FileRules:
    """The words of files of one table, every default applied."""

    patterns: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    vanished: Vanished = "keep"
    min_age: timedelta | None = None
    quiet: timedelta | None = None
    since: str | None = None
    modified_since: datetime | None = None
    min_size: int = 0
    max_size: int | None = None
    hive: bool = False
    provenance: Mapping[Told, str] = field(default_factory=lambda: dict(_PRESETS["default"]))
    key_conflict: KeyConflict = "fail"
    identity: Identity = "listed"
    new_types: NewTypes = "refuse"
    given: tuple[str, ...] = ()
    """The words that were written, for sources that have no files."""


NO_FILES = FileRules()
_WORDS = tuple(
    item.name
    for item in msgspec.structs.fields(FileWords)
    if item.name not in {option.name for option in msgspec.structs.fields(TableOptions)}
)


def file_rules(words: FileWords, *, documents: bool = False) -> FileRules:
    """The rules that some words mean; of ``documents``, each file is one row. Raises ``ConfigError``."""
    given = tuple(name for name in _WORDS if getattr(words, name) is not None)
    preset = "documents" if documents else "default"
    if not given:
        return FileRules(provenance=_PRESETS[preset]) if documents else NO_FILES
    rules = FileRules(
        patterns=_list(words.files),
        ignore=_list(words.ignore),
        vanished=_word("vanished", words.vanished or "keep", Vanished),
        min_age=_duration("min_age", words.min_age),
        quiet=_duration("quiet", words.quiet),
        since=words.since,
        modified_since=_time(words.modified_since),
        min_size=words.min_size or 0,
        max_size=words.max_size,
        hive=bool(words.hive),
        provenance=_provenance(words.provenance, preset),
        key_conflict=_word("key_conflict", words.key_conflict or "fail", KeyConflict),
        identity=_word("identity", words.identity or "listed", Identity),
        new_types=_word("new_types", words.new_types or "refuse", NewTypes),
        given=given,
    )
    if rules.max_size is not None and rules.max_size < rules.min_size:
        raise ConfigError(f"max_size is {rules.max_size}, which is below min_size: no file would be read.")
    return rules


def _list(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _word(option: str, value: Any, allowed: Any) -> Any:
    if value not in get_args(allowed):
        raise ConfigError(f"unknown {option} {value!r}.", remedy=f"use one of {', '.join(get_args(allowed))}.")
    return value


def _duration(option: str, value: Duration | None) -> timedelta | None:
    return None if value is None else parse_duration(value, what=option)


def _time(value: str | datetime | None) -> datetime | None:
    if value is None:
        return None
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except ValueError:
        raise ConfigError(
            f"modified_since is {value!r}, which is not a time.", remedy="write it as 2024-05-31T12:00:00Z."
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _provenance(value: str | Mapping[Told, str | Literal[False]] | None, usual: str) -> dict[Told, str]:
    if value is None or isinstance(value, str):
        preset = _PRESETS.get(value or usual)
        if preset is None:
            raise ConfigError(
                f"unknown provenance {value!r}.",
                remedy=f'use one of {", ".join(_PRESETS)}, or name columns: {{ file = "_file", row = "_row" }}.',
            )
        return dict(preset)
    for name in value:
        _word("column of provenance", name, Told)
    named = {**_PRESETS[usual], **value}
    columns = {name: column for name, column in named.items() if column}
    if len(set(columns.values())) < len(columns):
        raise ConfigError("provenance gives two columns the same name.", remedy="give each a name of its own.")
    return columns
