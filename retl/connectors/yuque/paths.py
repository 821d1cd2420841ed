"""Where documents stand in a table of contents."""

from __future__ import annotations

from collections.abc import Sequence

from retl.connectors.yuque.answers import Object, as_number, as_text


def paths_of(nodes: Sequence[Object]) -> dict[int, str]:
    """The path of each document: the titles above it and its own, with ``/`` between.

    A ``/`` or a ``\\`` in a title has a ``\\`` before it. A document that stands in two places has the first.
    """
    by_uuid = {uuid: node for node in nodes if (uuid := as_text(node.get("uuid")))}
    found: dict[int, str] = {}
    for node in nodes:
        number = as_number(node.get("doc_id")) or as_number(node.get("id"))
        if number and node.get("type") in ("DOC", None):
            found.setdefault(number, _path(node, by_uuid))
    return found


def _path(node: Object, by_uuid: dict[str, Object]) -> str:
    titles: list[str] = []
    seen: set[str] = set()
    at: Object | None = node
    while at is not None:
        titles.append(_escaped(as_text(at.get("title")) or ""))
        above = as_text(at.get("parent_uuid")) or ""
        if above in seen:  # a circle
            break
        seen.add(above)
        at = by_uuid.get(above)
    return "/".join(reversed(titles))


def _escaped(title: str) -> str:
    return title.replace("\\", "\\\\").replace("/", "\\/")
