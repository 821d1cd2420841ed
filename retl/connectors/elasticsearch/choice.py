"""What a table's declaration chooses of an index, and as what it travels."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa

from retl.connectors.elasticsearch import mapping
from retl.connectors.elasticsearch.catalog import Found
from retl.connectors.elasticsearch.cursor import CursorField
from retl.connectors.elasticsearch.documents import ID, KEY, document_schema
from retl.connectors.elasticsearch.pages import Shape
from retl.connectors.elasticsearch.products import Product
from retl.connectors.elasticsearch.shapes import Columns, Documents, Leaf
from retl.model.errors import ConfigError, UnsupportedError
from retl.model.schema import TableSchema, field, missing
from retl.model.table import TableSpec

_ID_COLUMN = field(ID, pa.string(), native=ID, nullable=False)


@dataclass(frozen=True)
class Choice:
    """What is read, and what becomes of it."""

    schema: pa.Schema
    key: tuple[str, ...]
    by_id: bool
    shape: Shape
    asked: dict[str, Any]
    filters: Sequence[dict[str, Any]]
    cursor: CursorField | None
    warnings: tuple[str, ...] = ()


def schema_of(name: str, found: Found) -> TableSchema:
    """The columns of an index: ``_id``, its key, and every leaf of the mapping that can be one."""
    fields = [mapping.column(path, spec) for path, spec in mapping.leaves(found.properties) if _agreed(spec)]
    return TableSchema(name, pa.schema([_ID_COLUMN, *fields]), KEY)


def _agreed(spec: Mapping[str, Any]) -> bool:
    return mapping.kind(spec) != mapping.CONFLICT


def choose(table: TableSpec, found: Found, product: Product) -> Choice:
    """Raises ``ConfigError`` for what is not there, ``UnsupportedError`` for words that have no meaning here."""
    if table.query is not None:
        raise UnsupportedError(
            "Elasticsearch has no SQL to read a query with.", remedy="name the index, and filter it with where."
        )
    if table.expressions:
        raise UnsupportedError(
            "Elasticsearch computes no columns for a scan.",
            remedy="leave expressions out; an ingest pipeline or a field of the mapping can compute.",
        )
    if not found.sources:
        raise ConfigError(
            f"{table.name!r} does not keep its documents: _source is disabled in its mapping.",
            remedy="read an index that keeps them.",
        )
    known = dict(mapping.leaves(found.properties))
    cursor = None
    if table.cursor is not None:
        _check_known("cursor", [table.cursor], known)
        cursor = CursorField.of(table.cursor, known[table.cursor])
    if table.documents:
        return _documents(table, found, known, cursor, product)
    return _columns(table, found, known, cursor, product)


def _check_known(word: str, wanted: Sequence[str], known: Mapping[str, Any]) -> None:
    gone = missing(wanted, [ID, *known])
    if gone:
        close = difflib.get_close_matches(gone[0], list(known), n=1)
        some = ", ".join(list(known)[:10]) + (" ..." if len(known) > 10 else "")
        raise ConfigError(
            f"{word} names {gone[0]!r}, which the mapping does not have as a field with values.",
            remedy=f"did you mean {close[0]!r}?" if close else f"it has {some}." if known else "the mapping is empty.",
        )


def _documents(
    table: TableSpec, found: Found, known: Mapping[str, Any], cursor: CursorField | None, product: Product
) -> Choice:
    if table.rename:
        raise UnsupportedError(
            "documents travel as they are, so their fields cannot be renamed.",
            remedy="leave rename out; an ingest pipeline of the target can rename.",
        )
    if table.key not in ((), KEY):
        raise UnsupportedError("documents keep their _id, so another key has no meaning.", remedy="leave key out.")
    if table.format:
        raise UnsupportedError("documents travel as they are, so format has no meaning.", remedy="leave format out.")
    if table.columns is not None and not found.hides:
        _check_known("columns", [name for name in table.columns if not _within(name, known)], known)
    schema = document_schema(cursor.column if cursor else None, found.index)
    shape = Documents(schema, table.columns, hides_vectors=product.hides_vectors)
    warnings = (*_several(found), *_left_out(found))
    if table.columns is not None:
        warnings += (
            "columns makes the server write each document anew: whole documents keep every digit of a number, parts keep 17.",
        )
    return Choice(schema, KEY, True, shape, shape.asked(), _filters(table), cursor, warnings)


def _within(wanted: str, known: Mapping[str, Any]) -> bool:
    """Whether a name, a part of the path or a pattern stands for fields of the mapping."""
    return any(
        path == wanted
        or path.startswith(f"{wanted}.")
        or wanted.startswith(f"{path}.")
        or fnmatch.fnmatchcase(path, wanted)
        for path in known
    )


def _columns(
    table: TableSpec, found: Found, known: Mapping[str, Any], cursor: CursorField | None, product: Product
) -> Choice:
    arrays, cuts = _formats(table)
    wanted = list(table.columns) if table.columns is not None else [ID, *known]
    for word, names in (("columns", wanted), ("rename", table.rename), ("key", table.key), ("format.arrays", arrays)):
        _check_known(word, list(names), known)
    leaves = [
        Leaf(path, {}, _ID_COLUMN) if path == ID else _leaf(path, known[path], array=path in arrays, cuts=cuts)
        for path in wanted
    ]
    schema = pa.schema([leaf.column.with_name(table.target_name(leaf.path)) for leaf in leaves])
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise ConfigError(f"two columns would be written to {', '.join(twice)}.", remedy="rename one of them.")
    chosen = table.key or KEY
    key = tuple(table.target_name(name) for name in chosen)
    if not table.key and ID not in wanted:
        key = ()  # a key that is not read identifies nothing
    shape = Columns(leaves, schema, tells_ignored=product.tells_ignored, hides_vectors=product.hides_vectors)
    by_id = key == (table.target_name(ID),)
    warnings = (*(_several(found) if by_id else ()), *_left_out(found))
    return Choice(schema, key, by_id, shape, shape.asked(), _filters(table), cursor, warnings)


def _leaf(path: str, spec: Mapping[str, Any], *, array: bool, cuts: bool) -> Leaf:
    column = mapping.column(path, spec, array=array)
    if cuts and column.type == pa.timestamp("ns", "UTC"):
        column = column.with_type(pa.timestamp("us", "UTC"))
    return Leaf(path, spec, column, array)


def _formats(table: TableSpec) -> tuple[tuple[str, ...], bool]:
    """The fields that may hold several values, and whether nanoseconds are cut to microseconds."""
    unknown = [word for word in table.format if word not in ("arrays", "nanoseconds")]
    if unknown:
        raise ConfigError(
            f"format has no {unknown[0]!r} for Elasticsearch.",
            remedy='it has arrays = ["field", ...] and nanoseconds = "cut".',
        )
    nanoseconds = table.format.get("nanoseconds", "keep")
    if nanoseconds not in ("keep", "cut"):
        raise ConfigError(f"format.nanoseconds is {nanoseconds!r}.", remedy='write "cut", or "keep".')
    arrays = table.format.get("arrays", ())
    if isinstance(arrays, str) or not all(isinstance(name, str) for name in arrays):
        raise ConfigError("format.arrays is no list of fields.", remedy='write arrays = ["tags"].')
    return tuple(arrays), nanoseconds == "cut"


def _filters(table: TableSpec) -> list[dict[str, Any]]:
    if table.where is None:
        return []
    text = table.where.strip()
    if not text.startswith("{"):
        return [{"query_string": {"query": text}}]
    try:
        return [msgspec.json.decode(text, type=dict[str, Any])]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"where is no JSON: {error}.",
            remedy='write a query, such as {"term": {"status": "paid"}}, or plain words: status:paid.',
        ) from None


def _left_out(found: Found) -> tuple[str, ...]:
    """What documents have lost at the source."""
    if not found.left_out:
        return ()
    text = (
        f"the mapping keeps {'; '.join(found.left_out)} out of _source: documents come without, and what is made of them "
        "neither holds nor finds it."
    )
    return (text,)


def _several(found: Found) -> tuple[str, ...]:
    """What reading several indices as one means for their ids."""
    if len(found.indices) == 1 or all(name.startswith(".ds-") for name in found.indices):
        return ()
    return (
        f"the name stands for {len(found.indices)} indices; documents of two that share an _id would be one in the target.",
    )
