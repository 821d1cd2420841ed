"""Boards and mind maps: the texts of their shapes, as a list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from retl.connectors.yuque.markdown import from_html

_TEXTS = ("html", "text", "title", "label", "name")
_DEEPEST = 50


def board_text(content: Any) -> str | None:
    """One line for each shape that has a text, those below another one further in; ``None`` where there is none."""
    lines = [f"{'  ' * depth}- {text}" for depth, text in _texts(content, 0, 0)]
    return "\n".join(lines) if lines else None


def _texts(node: Any, depth: int, nested: int) -> Iterator[tuple[int, str]]:
    if nested > _DEEPEST:
        return
    if isinstance(node, list):
        for item in node:
            yield from _texts(item, depth, nested + 1)
    elif isinstance(node, dict):
        text = _own_text(node)
        if text:
            yield depth, text
        for value in node.values():
            if isinstance(value, list | dict):
                yield from _texts(value, depth + bool(text), nested + 1)


def _own_text(node: dict[str, Any]) -> str:
    for word in _TEXTS:
        value = node.get(word)
        if isinstance(value, str) and value.strip():
            return " ".join((from_html(value) if word == "html" else value).split())
    return ""
