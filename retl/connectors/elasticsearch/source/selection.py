"""What a table's declaration selects of an index, and in which form it is read."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from retl.connectors.elasticsearch.server import Server
from retl.connectors.elasticsearch.source.catalog import SourceIndex, covers
from retl.connectors.elasticsearch.source.cursor import CursorField
from retl.connectors.elasticsearch.source.hits import ColumnDecoder, DocumentDecoder
from retl.connectors.elasticsearch.source.pages import HitDecoder
from retl.connectors.elasticsearch.source.values import Leaf
from retl.connectors.elasticsearch.source.where import Fields, filters_of
from retl.connectors.elasticsearch.types import (
    CONFLICT,
    ID,
    KEY,
    arrow_column,
    document_schema,
    field_type,
    leaf_fields,
)
from retl.model.errors import ConfigError, UnsupportedError
from retl.model.schema import TableSchema, field, missing
from retl.model.table import TableSpec

_ID_COLUMN = field(ID, pa.string(), native=ID, nullable=False)


@dataclass(frozen=True)
class Selection:
    """What is read of an index, and who decodes it."""

    schema: pa.Schema
    key: tuple[str, ...]
    by_id: bool
    decoder: HitDecoder
    warnings: tuple[str, ...]
    filters: Sequence[dict[str, Any]] = ()
    cursor: CursorField | None = None
    lists_cursor: bool = False
    """Whether the column of the cursor is a list of its values, in JSON."""
    routed: bool = False
    """Whether documents use custom routing, so that two may share an id."""


def schema_of(name: str, index: SourceIndex) -> TableSchema:
    """The columns of an index: ``_id``, its key, and every leaf of the mapping that can be one."""
    fields = [arrow_column(path, spec) for path, spec in leaf_fields(index.properties) if _agreed(spec)]
    return TableSchema(name, pa.schema([_ID_COLUMN, *fields]), KEY)


def _agreed(spec: Mapping[str, Any]) -> bool:
    return field_type(spec) != CONFLICT


def select(table: TableSpec, index: SourceIndex, server: Server) -> Selection:
    """Raises ``ConfigError`` for what is missing, ``UnsupportedError`` for options without a meaning here."""
    if table.query is not None:
        raise UnsupportedError(
            "Elasticsearch has no SQL to read a query with.", remedy="name the index, and filter it with where."
        )
    if table.expressions:
        raise UnsupportedError(
            "Elasticsearch computes no columns for a scan.",
            remedy="leave expressions out; an ingest pipeline or a field of the mapping can compute.",
        )
    if not index.sources:
        raise ConfigError(
            f"{table.name!r} does not keep its documents: _source is disabled in its mapping.",
            remedy="read an index that keeps them.",
        )
    known = dict(leaf_fields(index.properties))
    cursor = None
    if table.cursor is not None:
        if table.cursor in index.runtime:
            raise ConfigError(
                f"the cursor {table.cursor!r} is computed anew by each search (a runtime field), so it orders no change.",
                remedy="choose a field of the mapping.",
            )
        _check_known("cursor", [table.cursor], known)
        cursor = CursorField.of(table.cursor, known[table.cursor], several=index.several)
    filters = filters_of(table.where, Fields(index.properties, index.runtime))
    selected = (_documents if table.documents else _columns)(table, index, known, cursor, server)
    return replace(selected, filters=filters, cursor=cursor)


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
    table: TableSpec, index: SourceIndex, known: Mapping[str, Any], cursor: CursorField | None, server: Server
) -> Selection:
    if table.rename:
        raise UnsupportedError(
            "documents travel as they are, so their fields cannot be renamed.",
            remedy="leave rename out; an ingest pipeline of the target can rename.",
        )
    if table.key not in ((), KEY):
        raise UnsupportedError("documents keep their _id, so another key has no meaning.", remedy="leave key out.")
    if table.format:
        raise UnsupportedError("documents travel as they are, so format has no meaning.", remedy="leave format out.")
    if not index.hides:
        for word, names in (("columns", table.columns or ()), ("exclude", table.exclude)):
            _check_known(word, [name for name in names if not _within(name, known)], known)
    schema = document_schema(cursor.column if cursor else None, _only(table, index))
    decoder = DocumentDecoder(schema, table.columns, table.exclude, hides_vectors=server.hides_vectors)
    warnings = (*_id_warnings(index), *_source_warnings(index))
    if table.columns is not None or table.exclude:
        warnings += (
            "columns and exclude make the server write each document anew: whole documents keep every digit of a number, parts keep 17.",
        )
    return Selection(schema, KEY, True, decoder, warnings)


def _within(wanted: str, known: Mapping[str, Any]) -> bool:
    """Whether a name, a part of the path or a pattern stands for fields of the mapping."""
    return any(covers(wanted, path) or wanted.startswith(f"{path}.") for path in known)


def _only(table: TableSpec, index: SourceIndex) -> dict[str, Any]:
    """What the source tells about its index, with only the fields that are read."""
    if table.columns is None and not table.exclude:
        return dict(index.index)

    def read(path: str) -> bool:
        chosen = table.columns is None or any(covers(one, path) or one.startswith(f"{path}.") for one in table.columns)
        return chosen and not any(covers(one, path) for one in table.exclude)

    about = index.index["mappings"]
    return {**index.index, "mappings": {**about, "properties": _pruned(about.get("properties") or {}, read)}}


def _pruned(properties: Mapping[str, Any], read: Callable[[str], bool], prefix: str = "") -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, spec in properties.items():
        path = prefix + name
        inner = spec.get("properties")
        parts = _pruned(inner, read, f"{path}.") if inner else None
        if parts or (read(path) and (field_type(spec) != "alias" or read(str(spec.get("path"))))):
            kept[name] = {**spec, "properties": parts} if inner else spec
    return kept


def _columns(
    table: TableSpec, index: SourceIndex, known: Mapping[str, Any], cursor: CursorField | None, server: Server
) -> Selection:
    arrays, cuts = _formats(table)
    wanted = list(table.columns) if table.columns is not None else _all(table, index, known)
    for word, names in (("columns", wanted), ("rename", table.rename), ("key", table.key), ("format.arrays", arrays)):
        _check_known(word, list(names), known)
    _check_known("exclude", [name for name in table.exclude if not _within(name, known)], known)
    for word, names in (("columns", table.columns or ()), ("key", table.key)):
        _check_kept(word, names, table, index)
    if index.unnamed and table.columns is None:
        raise ConfigError(
            f"the field {index.unnamed[0]} has half of a sign in its name, so no column can be called so.",
            remedy="name the fields that are to be read in columns.",
        )
    leaves = [
        Leaf(path, {}, _ID_COLUMN) if path == ID else _leaf(path, known[path], array=path in arrays, cuts=cuts)
        for path in wanted
    ]
    schema = pa.schema([leaf.column.with_name(table.target_name(leaf.path)) for leaf in leaves])
    twice = sorted(name for name, times in Counter(schema.names).items() if times > 1)
    if twice:
        raise ConfigError(f"two columns would be written to {', '.join(twice)}.", remedy="rename one of them.")
    chosen = table.key or KEY
    key = tuple(table.target_name(name) for name in chosen)
    if not table.key and ID not in wanted:
        key = ()  # a key that is not read identifies nothing
    order = cursor.column if cursor else None
    decoder = ColumnDecoder(
        leaves, schema, order, tells_ignored=server.tells_ignored, hides_vectors=server.hides_vectors
    )
    by_id = key == (table.target_name(ID),)
    warnings = (*(_id_warnings(index) if by_id else ()), *_source_warnings(index))
    return Selection(schema, key, by_id, decoder, warnings, lists_cursor=table.cursor in arrays)


def _all(table: TableSpec, index: SourceIndex, known: Mapping[str, Any]) -> list[str]:
    """Every field in ``_source`` that the table does not exclude; the cursor is known by its sort value."""
    there = [path for path in known if path == table.cursor or index.keeps(path)]
    return [path for path in (ID, *there) if not any(covers(one, path) for one in table.exclude)]


def _check_kept(word: str, names: Sequence[str], table: TableSpec, index: SourceIndex) -> None:
    for name in names:
        if name not in (ID, table.cursor) and not index.keeps(name):
            raise ConfigError(
                f"{word} names {name!r}, which the mapping keeps out of _source: no document holds its value.",
                remedy=f"leave {name!r} out.",
            )


def _leaf(path: str, spec: Mapping[str, Any], *, array: bool, cuts: bool) -> Leaf:
    column = arrow_column(path, spec, array=array)
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
        raise ConfigError("format.arrays must be a list of fields.", remedy='write arrays = ["tags"].')
    return tuple(arrays), nanoseconds == "cut"


def _source_warnings(index: SourceIndex) -> tuple[str, ...]:
    """Warnings about what documents have lost at the source, and what is not read."""
    warnings = []
    if index.left_out:
        warnings.append(
            f"the mapping keeps {'; '.join(index.left_out)} out of _source: documents come without, and what is made of them "
            "neither holds nor finds it."
        )
    if index.closed:
        warnings.append(
            f"closed indices are not read: {', '.join(index.closed[:10])}{' ...' if index.closed[10:] else ''}."
        )
    if index.unnamed:
        warnings.append(
            f"fields whose name has half of a sign are not in the mapping that is copied: {index.unnamed[0]}."
        )
    if index.synthetic:
        warnings.append(
            "the index keeps no documents (synthetic _source): the server makes them anew from their values, so the order of "
            "fields, and of the values of an array, may be another one than it was."
        )
    return tuple(warnings)


def _id_warnings(index: SourceIndex) -> tuple[str, ...]:
    """A warning about the ids of several indices that are read as one."""
    if len(index.indices) == 1 or all(name.startswith(".ds-") for name in index.indices):
        return ()
    return (
        f"the name stands for {len(index.indices)} indices; documents of two that share an _id would be one in the target.",
    )
