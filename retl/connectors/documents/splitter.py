"""Text to chunks, by ``semantic-text-splitter``. Blocking code, for worker threads."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from retl.connectors.documents.sections import Section, markdown_sections, runs
from retl.model.documents import ChunkRules
from retl.model.errors import ConfigError

_PLAIN = frozenset(("txt", "text", "log"))
_LANGUAGES = {
    "py": "python",
    "pyi": "python",
    "js": "javascript",
    "mjs": "javascript",
    "jsx": "javascript",
    "ts": "typescript",
    "tsx": "tsx",
    "go": "go",
    "rs": "rust",
    "java": "java",
    "c": "c",
    "h": "c",
    "cc": "cpp",
    "cpp": "cpp",
    "hpp": "cpp",
    "cs": "c_sharp",
    "rb": "ruby",
    "php": "php",
    "sh": "bash",
    "bash": "bash",
    "css": "css",
    "json": "json",
}
"""Languages by the ending of a name, as their grammars are called."""
_IN_OTHERS = {
    "typescript": ("tree_sitter_typescript", "language_typescript"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
    "php": ("tree_sitter_php", "language_php"),
}
"""Grammars whose package or function has another name than their language."""


class Chunk(NamedTuple):
    """A part of a text: ``text[start:end]``, and the headings that it stands below."""

    start: int
    end: int
    headings: tuple[str, ...]


class Splitter:
    """Cuts texts by the rules of one table. Raises ``ConfigError`` where a package is missing."""

    def __init__(self, rules: ChunkRules) -> None:
        self._rules = rules
        self._library = _library()
        self._made: dict[tuple[str, int], Any] = {}
        if rules.by == "code" and rules.language is not None:
            _grammar_of(rules.language)

    def chunks(self, text: str, name: str) -> Iterator[Chunk]:
        """The chunks of a text in their order. The name of its document tells what kind of text it is."""
        kind = self._kind(name)
        sections = markdown_sections(text) if kind == "markdown" else iter((Section(0, 0, len(text)),))
        for section in sections:
            for run in runs(text, section, self._rules.size, code=kind not in ("markdown", "text")):
                yield from self._of_run(text, run, kind)

    def _kind(self, name: str) -> str:
        """``markdown``, ``text``, or a programming language."""
        ending = name.rpartition("/")[2].rpartition(".")[2].lower() if "." in name else ""
        if self._rules.by == "code":
            return self._rules.language or _LANGUAGES.get(ending, "text")
        if self._rules.by != "auto":
            return self._rules.by
        if ending in _PLAIN:
            return "text"
        return _LANGUAGES.get(ending, "markdown")

    def _of_run(self, text: str, run: Section, kind: str) -> Iterator[Chunk]:
        """The headings of a section are a part of its first chunk, which has as much less room."""
        body = run.body
        while body < run.end and text[body].isspace():
            body += 1
        lead = body - run.start
        if not lead or body == run.end or lead > self._rules.size // 4:
            body, lead = run.start, 0
        splitter = self._splitter(kind, self._rules.size - lead)
        for number, (start, found) in enumerate(splitter.chunk_indices(text[body : run.end])):
            begins, ends = body + start, body + start + len(found)
            if number == 0 and lead:
                begins = run.start
            yield Chunk(begins, ends, run.headings)

    def _splitter(self, kind: str, capacity: int) -> Any:
        made = self._made.get((kind, capacity))
        if made is None:
            made = self._made[kind, capacity] = self._make(kind, capacity)
        return made

    def _make(self, kind: str, capacity: int) -> Any:
        overlap = min(self._rules.overlap, capacity - 1)
        if kind == "markdown":
            return self._library.MarkdownSplitter(capacity, overlap=overlap)
        grammar = None if kind == "text" else self._grammar(kind)
        if grammar is None:
            return self._library.TextSplitter(capacity, overlap=overlap)
        return self._library.CodeSplitter(grammar(), capacity, overlap=overlap)

    def _grammar(self, language: str) -> Callable[[], Any] | None:
        """The grammar of a language; without one, code is cut as text where its name alone tells that it is code."""
        try:
            return _grammar_of(language)
        except ConfigError:
            if self._rules.by == "code":
                raise
            return None


def _library() -> Any:
    try:
        import semantic_text_splitter
    except ImportError:
        raise ConfigError(
            "chunks need the Python package 'semantic-text-splitter', which is not installed.",
            remedy="pip install 'retl[documents]'",
        ) from None
    return semantic_text_splitter


@lru_cache
def _grammar_of(language: str) -> Callable[[], Any]:
    module, function = _IN_OTHERS.get(language, (f"tree_sitter_{language}", "language"))
    try:
        found: Callable[[], Any] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError):
        raise ConfigError(
            f"chunks of code in {language!r} need its grammar, which is not installed.",
            remedy=f"pip install {module.replace('_', '-')}",
        ) from None
    return found
