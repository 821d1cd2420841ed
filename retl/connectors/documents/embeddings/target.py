"""A target whose tables get vectors: it wraps any other, which sees two more columns and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pyarrow as pa

from retl.connectors.base import SystemInfo, TableWriter, Target, TargetTable
from retl.connectors.documents.embeddings.models import open_model
from retl.connectors.documents.embeddings.writer import EmbeddingWriter
from retl.connectors.documents.source import take_facts
from retl.connectors.sql.door import RunStatement
from retl.model.actions import Action, PreAction
from retl.model.checkpoint import FencedCheckpoint
from retl.model.embeddings import LOCAL, EmbeddingCounts, Embeddings
from retl.model.errors import ConfigError, SchemaDrift
from retl.model.plan import TargetPreview, WriteSpec
from retl.model.schema import TableSchema, field, is_text, value_type, vector_field
from retl.model.secret import without_password
from retl.model.table import TableSpec
from retl.state.base import StateStore
from retl.threads import shielded

_STAMP = "varchar(255)"
_ASKS_ALL = (
    'pre_action = "{}" takes the vectors away before they could be used again: every scan asks the model for every text. '
    '"mirror", "swap" and "none" ask for new texts only.'
)


class EmbeddingTarget(Target):
    """Wraps a target. Tables with ``embeddings`` get vectors; all others pass through untouched."""

    system: str  # type: ignore[misc]  # as the wrapped one's

    def __init__(self, inner: Target) -> None:
        self._inner = inner
        take_facts(Target, inner, self)

    # What passes through ----------------------------------------------------

    async def ping(self) -> SystemInfo:
        return await self._inner.ping()

    async def describe(self, table: str) -> TableSchema | None:
        return await self._inner.describe(table)

    async def count(self, table: str) -> int:
        return await self._inner.count(table)

    async def inspect(self, table: str) -> TargetTable | None:
        return await self._inner.inspect(table)

    async def inspect_column(self, table: str, column: str) -> TargetTable | None:
        return await self._inner.inspect_column(table, column)

    async def location(self, table: str) -> str | None:
        return await self._inner.location(table)

    def statement(self, sql: str, facts: Mapping[str, str | int]) -> str:
        return self._inner.statement(sql, facts)

    def open_sql(self) -> AbstractAsyncContextManager[RunStatement]:
        return self._inner.open_sql()

    async def lookup(self, table: str, column: str, values: Sequence[str], wanted: Sequence[str]) -> pa.Table:
        return await self._inner.lookup(table, column, values, wanted)

    async def extremes(self, table: str, column: str) -> tuple[str, str] | None:
        return await self._inner.extremes(table, column)

    async def drop_columns(self, table: str, columns: Sequence[str]) -> None:
        await self._inner.drop_columns(table, columns)

    def state_store(self) -> StateStore | None:
        return self._inner.state_store()

    async def aclose(self) -> None:
        await self._inner.aclose()

    # Vectors ----------------------------------------------------------------

    async def look(self, table: TableSpec) -> TargetTable | None:
        words = table.embeddings
        if words is None:
            return await self._inner.look(table)
        found = await self._inner.inspect_column(table.to, words.made_of)
        if found is None or not found.exists or found.empty:
            return found
        return dataclasses.replace(found, outdated=_why_outdated(table, words, found.extremes))

    async def preview(self, spec: WriteSpec) -> TargetPreview:
        words = spec.table.embeddings
        if words is None:
            return await self._inner.preview(spec)
        await (await open_model(words, EmbeddingCounts())).aclose()  # raises where there is no such model
        made = await self._made(spec, words)
        if made is None or _is_of(words, made):
            found = await self._inner.preview(_with_vectors(spec, words))
        else:
            found = _replaced(await self._inner.preview(spec), spec, words, made)
        told = (_told(words), *_warnings(spec, words))
        return dataclasses.replace(
            found, warnings=(*found.warnings, *told[1:]), statements=(*found.statements, told[0])
        )

    @asynccontextmanager
    async def open_load(self, spec: WriteSpec, begun: FencedCheckpoint | None) -> AsyncGenerator[TableWriter, None]:
        words = spec.table.embeddings
        if words is None:
            async with self._inner.open_load(spec, begun) as writer:
                yield writer
            return
        await self._make_room(spec, words)
        counts = EmbeddingCounts()
        model = await open_model(words, counts)
        try:
            async with self._inner.open_load(_with_vectors(spec, words), begun) as writer:
                yield EmbeddingWriter(writer, spec, words, model, counts, target=self._inner)
        finally:
            await shielded(model.aclose())

    async def _made(self, spec: WriteSpec, words: Embeddings) -> tuple[str, str] | None:
        """The first and the last model of the table's vectors, as this scan has found them already."""
        if spec.found is not None:
            return spec.found.extremes
        return await self._inner.extremes(spec.table.to, words.made_of)

    async def _make_room(self, spec: WriteSpec, words: Embeddings) -> None:
        """Remove the vectors of another model, so that no search ever compares those of two."""
        made = await self._made(spec, words)
        if made is None or _is_of(words, made):
            return
        _check_change(spec.table, words, made)
        if _refreshed(spec, words, made):
            return  # readers have the old ones until the switch
        if blocked := spec.blacklist & {Action.ALTER, Action.DROP}:
            raise ConfigError(
                f"the vectors of another model have to be dropped, and the blacklist forbids {min(blocked)}.",
                remedy=f"take it off the blacklist, or drop the columns {words.into!r} and {words.made_of!r} yourself.",
            )
        if spec.prove is not None:
            await spec.prove()
        await self._inner.drop_columns(spec.table.to, [words.into, words.made_of])


def _with_vectors(spec: WriteSpec, words: Embeddings) -> WriteSpec:
    """The load as the wrapped target sees it. Raises ``ConfigError`` for columns that do not fit."""
    names = spec.schema.names
    if words.of not in names:
        raise ConfigError(
            f"embeddings.of names the column {words.of!r}, which the table does not have.",
            remedy=f"name one of {', '.join(names)}.",
        )
    if not is_text(value_type(spec.schema.field(words.of).type)):
        raise ConfigError(f"the column {words.of!r} is no text, so it cannot be embedded.", remedy="name another one.")
    for name in (words.into, words.made_of):
        if name in names:
            raise ConfigError(
                f"the source has a column {name!r} of its own, which embeddings would replace.",
                remedy="give the vectors another name in embeddings.into, or rename the column.",
            )
    vectors = vector_field(words.into, words.dimensions)
    schema = spec.schema.append(vectors).append(field(words.made_of, pa.string(), native=_STAMP))
    return dataclasses.replace(spec, schema=schema)


# Another model ------------------------------------------------------------------


def _why_outdated(table: TableSpec, words: Embeddings, made: tuple[str, str] | None) -> str | None:
    if made is None:
        return f"the rows of {table.to!r} have no vectors of {words.model!r} yet"
    if _is_of(words, made):
        return None
    _check_change(table, words, made)
    return f"the vectors of {table.to!r} are replaced by those of {_maker(words.maker)}"


def _is_of(words: Embeddings, made: tuple[str, str]) -> bool:
    """Whether all vectors of a table are of this model: its first and its last say so."""
    return all(of.startswith(words.maker) for of in made)


def _maker(of: str) -> str:
    """``hashing, 256 dimensions``, of what stands beside a vector."""
    model, dimensions, *_ = [*of.rstrip().rsplit(" ", 2 if len(of.split(" ")[-1]) == 32 else 1), "?"]
    return f"{model!r} with {dimensions} dimensions"


def _dimensions(of: str) -> str:
    return _maker(of).rsplit(" ", 2)[1]


def _refreshed(spec: WriteSpec, words: Embeddings, made: tuple[str, str]) -> bool:
    """Whether the scan replaces the whole table at once, and its columns can stay as they are."""
    return spec.table.pre_action.has_shadow and all(_dimensions(of) == str(words.dimensions) for of in made)


def _check_change(table: TableSpec, words: Embeddings, made: tuple[str, str]) -> None:
    if words.on_change == "replace":
        return
    of = next((one for one in made if not one.startswith(words.maker)), made[0])
    raise SchemaDrift(
        f"the column {words.into!r} of {table.to!r} holds vectors of {_maker(of)}, and embeddings asks for {_maker(words.maker)}: "
        "vectors of two models cannot be compared.",
        remedy='on_change = "replace" reads everything once and replaces all of them; another name in embeddings.into keeps '
        "the old ones beside; or name the old model.",
    )


def _replaced(found: TargetPreview, spec: WriteSpec, words: Embeddings, made: tuple[str, str]) -> TargetPreview:
    _check_change(spec.table, words, made)
    if _refreshed(spec, words, made):
        return found
    line = f"{spec.table.to}: drop the columns {words.into} and {words.made_of}, add them anew, read everything once"
    return dataclasses.replace(found, statements=(line, *found.statements))


# For people -----------------------------------------------------------------------


def _told(words: Embeddings) -> str:
    where = "" if words.url.startswith(LOCAL) else f" of {without_password(words.url)}"
    return (
        f"embed {words.of} into {words.into} by {_maker(words.maker)}{where}: each text that the table has no vector of"
    )


def _warnings(spec: WriteSpec, words: Embeddings) -> list[str]:
    if spec.table.pre_action in (PreAction.TRUNCATE, PreAction.RENAME_AND_CREATE):
        return [_ASKS_ALL.format(spec.table.pre_action)]
    return []
