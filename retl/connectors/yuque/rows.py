"""A document as the service answers it, as a row. Pure functions, for a worker thread."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from retl.connectors.yuque.answers import Object, as_number, as_object, as_text, as_time
from retl.connectors.yuque.boards import board_text
from retl.connectors.yuque.catalog import Book
from retl.connectors.yuque.errors import NotReadable
from retl.connectors.yuque.markdown import card_value, from_html
from retl.connectors.yuque.sheets import DataTable, parsed, sheet_text
from retl.connectors.yuque.types import COLUMNS

_TIMES = ("created_at", "updated_at", "content_updated_at", "published_at", "first_published_at")
_NEVER_KEPT = frozenset({"body_draft", "body_draft_asl", "body_draft_lake", "draft", "draft_version"})
"""What nobody has published."""
_COUNTS = frozenset({"likes_count", "comments_count", "read_count", "hits", "view_status"})
"""What changes by itself, without any change of the document."""
_BODIES = ("body", "body_html", "body_lake", "body_sheet", "body_table", "body_asl")
_KNOWN = frozenset(COLUMNS.names) | {*_BODIES, "_serializer", "book", "user", "creator", "last_editor", "user_id"}
_MARKUP = re.compile(
    r"\s*<(?:!doctype|html|body|div|p|h[1-6]|ul|ol|table|meta|card|figure|section|article)\b", re.IGNORECASE
)
_CARD = re.compile(r"<card\b[^>]{0,1000}?\bvalue=\"(data:[^\"]*)\"", re.IGNORECASE)
_SRC = re.compile(r"<(?:img|video|audio|source|embed)\b[^>]{0,1000}?\bsrc=\"(https?://[^\"]+)\"", re.IGNORECASE)
_FILE = re.compile(
    r"\bhref=\"(https?://[^\"]*/attachments?/[^\"]+)\"|\]\(\s*(https?://[^\s)]*/attachments?/[^\s)]+)\)", re.IGNORECASE
)
_ATTACHED = re.compile(r"!\[[^\]\n]*\]\(\s*<?(https?://[^\s)>]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of a document beside its answer."""

    book: Book
    path: str | None
    site: str


def decode(body: bytes, what: str) -> Object:
    """The document of an answer. Raises ``NotReadable``."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        answer = _with_surrogates(body, what)
    found = as_object(as_object(answer).get("data"))
    if as_number(found.get("id")) is None:
        raise NotReadable(f"{what}: the answer holds no document.", remedy="open it in the browser.")
    return found


def _with_surrogates(body: bytes, what: str) -> Any:
    """JSON that is read by a more tolerant reader; a text with half a character is refused, since no target takes it."""
    try:
        answer = json.loads(body)
        json.dumps(answer, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise NotReadable(f"{what}: the answer is not JSON of valid text.", remedy="open it in the browser.") from None
    return answer


def row_of(item: Object, told: Told, table: DataTable | None) -> dict[str, Any]:
    """The row of a document, with all columns. ``table``: what a data table holds, all pages of it."""
    text, raw, data = _content(item, table)
    creator, editor = as_object(item.get("creator") or item.get("user")), as_object(item.get("last_editor"))
    slug = as_text(item.get("slug")) or str(item["id"])
    times: dict[str, datetime | None] = {word: as_time(item.get(word)) for word in _TIMES}
    return {
        "id": as_number(item["id"]),
        "type": kind_of(item),
        "book_id": told.book.id,
        "book": told.book.namespace,
        "book_name": told.book.name,
        "group_login": told.book.owner_login,
        "group_name": told.book.owner_name,
        "slug": slug,
        "title": as_text(item.get("title")),
        "path": told.path,
        "url": f"{told.site}/{quote(told.book.namespace, safe='/')}/{quote(slug, safe='')}",
        "description": as_text(item.get("description")),
        "format": as_text(item.get("format")),
        "body": text,
        "body_raw": raw,
        "data": None if data is None else _json(data),
        "public": as_number(item.get("public")),
        "status": as_text(item.get("status")),
        "word_count": as_number(item.get("word_count")),
        "creator_id": as_number(item.get("creator_id") or creator.get("id")),
        "creator": as_text(creator.get("name") or creator.get("login")),
        "last_editor_id": as_number(item.get("last_editor_id") or editor.get("id")),
        "last_editor": as_text(editor.get("name") or editor.get("login")),
        **times,
        "attachments": _json(_addresses(item, table)),
        "extra": _json({name: item[name] for name in sorted(item) if name not in _KNOWN | _NEVER_KEPT | _COUNTS}),
    }


def kind_of(item: Object) -> str:
    """The kind of a document; an older installation tells it only by the format."""
    return as_text(item.get("type")) or ("Sheet" if item.get("format") == "lakesheet" else "Doc")


def unread_times(item: Object) -> list[str]:
    """The times of a document that are there and cannot be read."""
    return [word for word in _TIMES if item.get(word) and as_time(item.get(word)) is None]


# Content --------------------------------------------------------------------


def _content(item: Object, table: DataTable | None) -> tuple[str | None, str | None, Any]:
    """The text of a document, its raw form, and its data. No text where its kind has none."""
    make: Callable[[Object], tuple[str | None, str | None, Any]]
    if table is not None:
        return table.text() or None, as_text(item.get("body")), table.data()
    make = {"Sheet": _sheet, "Board": _board}.get(kind_of(item), _page)
    return make(item)


def _page(item: Object) -> tuple[str | None, str | None, None]:
    """Markdown as it is; markup as Markdown; what is empty from the next form that is there."""
    body, markup = as_text(item.get("body")) or "", as_text(item.get("body_html")) or ""
    raw = as_text(item.get("body_lake")) or as_text(item.get("body_asl")) or body or markup
    if body and (item.get("format") == "markdown" or not _MARKUP.match(body)) and kind_of(item) != "HtmlDoc":
        return body, raw, None
    found = from_html(body or markup or raw)
    return found or (body or None), raw or None, None


def _sheet(item: Object) -> tuple[str | None, str | None, Any]:
    content = parsed(item.get("body_sheet") or item.get("body"))
    raw = as_text(item.get("body_sheet")) or as_text(item.get("body"))
    return sheet_text(content), raw, content if isinstance(content, dict | list) else None


def _board(item: Object) -> tuple[str | None, str | None, Any]:
    content = parsed(item.get("body") or item.get("body_lake"))
    if not isinstance(content, dict | list):
        return _page(item)
    return board_text(content), as_text(item.get("body")), content


# Attachments ----------------------------------------------------------------


def _addresses(item: Object, table: DataTable | None) -> list[str]:
    """The addresses of pictures and files, each once, in their order. What only links to a page is none."""
    found: dict[str, None] = {}
    for word in ("body", "body_lake", "body_html"):
        text = as_text(item.get(word)) or ""
        found.update(dict.fromkeys(_ATTACHED.findall(text)))
        found.update(dict.fromkeys(_in_markup(text)))
        found.update(dict.fromkeys(src for card in _CARD.findall(text) if (src := _source(card_value(card)))))
    if table is not None:
        found.update(dict.fromkeys(_sources(table.cells())))
    return list(found)


def _in_markup(text: str) -> list[str]:
    files = [one or other for one, other in _FILE.findall(text)]
    return [address.replace("&amp;", "&") for address in (*_SRC.findall(text), *files)]


def _source(value: Mapping[str, Any]) -> str | None:
    src = value.get("src")
    return src if isinstance(src, str) and src.startswith(("http://", "https://")) else None


def _sources(value: Any) -> list[str]:
    if isinstance(value, list):
        return [src for item in value for src in _sources(item)]
    if isinstance(value, dict):
        src = _source(value)
        return [src] if src else []
    return []


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
