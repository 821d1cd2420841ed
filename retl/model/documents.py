"""The words of a table of documents: how their text is cut into chunks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import msgspec

from retl.model.errors import ConfigError

ChunkColumn = Literal["id", "document", "position", "heading_path", "starts", "ends", "content", "content_hash"]
ChunkBy = Literal["auto", "markdown", "text", "code"]
ChunkPreset = Literal["default", "cc"]

DEFAULT_SIZE = 1000
_COLUMNS: tuple[ChunkColumn, ...] = get_args(ChunkColumn)
_REQUIRED: tuple[ChunkColumn, ...] = ("id", "document", "content")
_PRESETS: dict[str, dict[ChunkColumn, str]] = {
    "default": {name: name for name in _COLUMNS},
    "cc": {name: f"__{name}" for name in _COLUMNS},
}


class Chunks(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Cut the text of each document into chunks: a row of the target is a chunk."""

    column: str | None = None
    """The source column of text; unset: ``content``, ``body``, ``text`` or ``markdown``, else the only column of text."""
    by: ChunkBy = "auto"
    """What the text is cut by: ``markdown`` by its headings and blocks, ``text`` by its paragraphs, ``code`` by its
    syntax; ``auto`` goes by the ending of the document's name."""
    size: int = DEFAULT_SIZE
    """How many characters a chunk has at most."""
    overlap: int = 0
    """How many characters a chunk may repeat of the one before it."""
    language: str | None = None
    """The programming language of ``code``; unset: by the ending of the document's name."""
    preset: ChunkPreset = "default"
    """Names of columns: ``default``, or ``cc`` for ``__content`` and the like."""
    names: Mapping[ChunkColumn, str | Literal[False]] | None = None
    """Other names of columns, such as ``{ content = "text", starts = false }``; ``false`` leaves one out."""


@dataclass(frozen=True, slots=True)
class ChunkRules:
    """The words of chunks of one table, every default applied."""

    column: str | None = None
    by: ChunkBy = "auto"
    size: int = DEFAULT_SIZE
    overlap: int = 0
    language: str | None = None
    names: Mapping[ChunkColumn, str] = field(default_factory=lambda: dict(_PRESETS["default"]))

    def own_name(self, column: str) -> str:
        """The name, in a table of chunks, of a column of the documents: another one where a column of chunks has its name."""
        return f"document_{column}" if column in self.names.values() else column

    def document_name(self, column: str) -> str:
        """The column of the documents that has this name in a table of chunks."""
        own = column.removeprefix("document_")
        return own if self.own_name(own) == column else column


def chunk_rules(words: Chunks | None) -> ChunkRules | None:
    """The rules that some words mean. Raises ``ConfigError``."""
    if words is None:
        return None
    _check_words(words)
    return ChunkRules(
        column=words.column,
        by=words.by,
        size=words.size,
        overlap=words.overlap,
        language=words.language,
        names=_names(words),
    )


def _check_words(words: Chunks) -> None:
    for word, value, allowed in (("by", words.by, ChunkBy), ("preset", words.preset, ChunkPreset)):
        if value not in get_args(allowed):
            raise ConfigError(
                f"unknown {word} of chunks {value!r}.", remedy=f"use one of {', '.join(get_args(allowed))}."
            )
    for word, number, least in (("size", words.size, 1), ("overlap", words.overlap, 0)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ConfigError(
                f"{word} of chunks is {number!r}.", remedy=f"give a whole number of characters, at least {least}."
            )
    if words.overlap >= words.size:
        raise ConfigError(
            f"overlap of chunks is {words.overlap}, and size is {words.size}: a chunk would hold nothing new.",
            remedy="give less overlap than size.",
        )
    if words.language is not None and words.by != "code":
        raise ConfigError("language of chunks has a meaning only for code.", remedy='write by = "code", or remove it.')


def _names(words: Chunks) -> dict[ChunkColumn, str]:
    given: Mapping[Any, Any] = words.names or {}
    for column, name in given.items():
        if column not in _COLUMNS:
            raise ConfigError(
                f"names of chunks has {column!r}, but chunks have no such column.",
                remedy=f"they have {', '.join(_COLUMNS)}.",
            )
        if name is False and column in _REQUIRED:
            raise ConfigError(f"names of chunks leaves out {column!r}, which every chunk needs.")
        if name is not False and not (isinstance(name, str) and name):
            raise ConfigError(f"names of chunks calls {column!r} {name!r}.", remedy="give a name, or false.")
    names = {column: name for column, name in {**_PRESETS[words.preset], **given}.items() if name}
    if len(set(names.values())) < len(names):
        raise ConfigError("names of chunks gives two columns the same name.", remedy="give each a name of its own.")
    return names
