"""The columns of a table of chunks, and what its words mean to the source of the documents."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from retl.model.actions import PreAction, Write
from retl.model.documents import ChunkColumn, ChunkRules
from retl.model.errors import ConfigError
from retl.model.plan import SourcePlan
from retl.model.schema import field, is_json, is_text
from retl.model.table import TableSpec

_USUAL = ("content", "body", "text", "markdown")
_TYPES: dict[ChunkColumn, pa.DataType] = {
    "id": pa.string(),
    "document": pa.string(),
    "position": pa.int64(),
    "heading_path": pa.string(),
    "starts": pa.int64(),
    "ends": pa.int64(),
    "content": pa.string(),
    "content_hash": pa.string(),
}
_NEVER_NULL = ("id", "document", "content")
WORDS = "chunks"
"""Where the checkpoint's detail remembers the words of chunks."""


@dataclass(frozen=True)
class ChunkShape:
    """How the rows of documents become rows of chunks."""

    rules: ChunkRules
    text: str
    """The column of text, by the name that it has in the batches of documents."""
    key: tuple[str, ...]
    """The columns there that identify a document."""
    own: tuple[str, ...]
    """The other columns of the documents that each chunk has."""
    schema: pa.Schema
    """The columns of chunks."""


# Words ----------------------------------------------------------------------


def rules_of(table: TableSpec) -> ChunkRules:
    """The rules of a table that has chunks."""
    assert table.chunks is not None
    return table.chunks


def document_table(table: TableSpec, *, files: bool) -> TableSpec:
    """The table as the source of its documents is to read it: without chunks, each document replaced as a whole."""
    rules = rules_of(table)
    scope = None if table.scope in (None, rules.names["document"]) else rules.document_name(table.scope or "")
    replaced = files and table.pre_action is PreAction.NONE and scope is None
    return replace(
        table,
        chunks=None,
        documents=False,
        columns=_with_text(table, rules),
        existing=_existing(table, rules),
        scope=scope,
        pre_action=PreAction.TRUNCATE if replaced else table.pre_action,
    )


def _with_text(table: TableSpec, rules: ChunkRules) -> tuple[str, ...] | None:
    if table.columns is None or rules.column is None or rules.column in table.columns:
        return table.columns
    return (*table.columns, rules.column)


def _existing(table: TableSpec, rules: ChunkRules) -> pa.Schema | None:
    """The columns that the target has of the documents, by the names that they have there."""
    if table.existing is None:
        return None
    own = [column for column in table.existing if column.name not in rules.names.values()]
    return pa.schema([column.with_name(rules.document_name(column.name)) for column in own])


def chunk_table(table: TableSpec, documents: TableSpec) -> TableSpec:
    """The table as its target sees it: chunks by their ids, of which those of a document are replaced together.

    ``documents``: the table as the source of the documents has narrowed it.
    """
    rules = rules_of(table)
    if table.write is Write.APPEND:
        raise ConfigError(
            'write = "append" has no meaning for chunks: those of a document that changes would be doubled.',
            remedy="remove it.",
        )
    scope = None if documents.replaces else rules.names["document"]
    return replace(
        table,
        documents=False,
        pre_action=documents.pre_action,
        scope=rules.own_name(documents.scope) if documents.scope is not None else scope,
    )


# Columns --------------------------------------------------------------------


def shape_of(plan: SourcePlan, rules: ChunkRules) -> ChunkShape:
    """The columns of the chunks of some documents. Raises ``ConfigError`` where they have no text, or no key."""
    if not plan.key:
        raise ConfigError(
            "the documents have no key, so their chunks could not be told from those of others.",
            remedy="name the columns that identify a document in key.",
        )
    text = _text_column(plan, rules)
    own = tuple(name for name in plan.schema.names if name != text and not _is_left_out(name, plan))
    names = [rules.own_name(name) for name in own]
    columns = [
        *(field(name, _TYPES[column], nullable=column not in _NEVER_NULL) for column, name in rules.names.items()),
        *(plan.schema.field(name).with_name(new) for name, new in zip(own, names, strict=True)),
    ]
    _check_names([column.name for column in columns])
    return ChunkShape(rules, text, plan.key, own, pa.schema(columns))


def _is_left_out(name: str, plan: SourcePlan) -> bool:
    """Whether it is the cursor, which would change every chunk of a document that is changed in one place."""
    table = plan.table
    if table.cursor is None or name != table.target_name(table.cursor):
        return False
    chosen = table.columns is not None and table.cursor in table.columns
    return not chosen and all(slice_.ordered_by is None for slice_ in plan.slices)


def _text_column(plan: SourcePlan, rules: ChunkRules) -> str:
    texts = [column.name for column in plan.schema if is_text(column.type) and not is_json(column)]
    if rules.column is not None:
        wanted = plan.table.target_name(rules.column)
        if wanted not in texts:
            raise ConfigError(
                f"chunks are to be cut from the column {rules.column!r}, which "
                + ("holds no text." if wanted in plan.schema.names else "the documents do not have."),
                remedy=f"there are {', '.join(texts) or 'no columns of text'}.",
            )
        return wanted
    usual = [name for name in _USUAL if name in texts]
    others = [name for name in texts if name not in plan.key]
    if usual or len(others) == 1:
        return (usual or others)[0]
    raise ConfigError(
        "it is not known which column is the text that chunks are to be cut from.",
        remedy=f'name it: chunks = {{ column = "{(others or ["body"])[0]}" }}; there are {", ".join(others) or "no columns of text"}.',
    )


def _check_names(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"two columns of the chunks would be called {twice[0]!r}.",
            remedy="rename that of the documents, or give that of the chunks another name: chunks = { names = { ... } }.",
        )


def chunk_plan(plan: SourcePlan, table: TableSpec, shape: ChunkShape | None, facts: dict[str, Any]) -> SourcePlan:
    """The plan of a scan of chunks; without a ``shape`` nothing has ever been there."""
    if shape is None:
        return replace(plan, table=table)
    return replace(
        plan,
        table=table,
        schema=shape.schema,
        key=(shape.rules.names["id"],),
        rows=None,
        exact_rows=False,
        finished=plan.finished | facts,
    )
