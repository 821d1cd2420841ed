"""The columns of a document's row."""

from __future__ import annotations

import pyarrow as pa

from retl.model.schema import field

KEY = "id"
ATTACHMENTS = "attachments"
EXTRA = "extra"

_TIME = pa.timestamp("us", "UTC")
COLUMNS = pa.schema(
    [
        field(KEY, pa.int64(), nullable=False),
        field("type", pa.string()),
        field("book_id", pa.int64()),
        field("book", pa.string()),
        field("book_name", pa.string()),
        field("group_login", pa.string()),
        field("group_name", pa.string()),
        field("slug", pa.string()),
        field("title", pa.string()),
        field("path", pa.string()),
        field("url", pa.string()),
        field("description", pa.string()),
        field("format", pa.string()),
        field("body", pa.string()),
        field("body_raw", pa.string()),
        field("data", pa.string(), json=True),
        field("public", pa.int64()),
        field("status", pa.string()),
        field("word_count", pa.int64()),
        field("creator_id", pa.int64()),
        field("creator", pa.string()),
        field("last_editor_id", pa.int64()),
        field("last_editor", pa.string()),
        field("created_at", _TIME),
        field("updated_at", _TIME),
        field("content_updated_at", _TIME),
        field("published_at", _TIME),
        field("first_published_at", _TIME),
        field(ATTACHMENTS, pa.string(), json=True),
        field(EXTRA, pa.string(), json=True),
    ]
)
"""All of them; ``attachments`` only where they are asked for, ``extra`` only where it is named."""


def columns(*, attachments: bool) -> tuple[pa.Schema, frozenset[str]]:
    """The columns of a table, and those of them that are read only where they are named."""
    kept = [column for column in COLUMNS if attachments or column.name != ATTACHMENTS]
    return pa.schema(kept), frozenset({EXTRA})
