"""Elasticsearch and OpenSearch as a target: idempotent writes by ``_id``, the checkpoint after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from retl.connectors.base import SystemInfo, TableWriter, Target, TargetTable
from retl.connectors.elasticsearch import catalog
from retl.connectors.elasticsearch.catalog import Known
from retl.connectors.elasticsearch.connection import Client, Line
from retl.connectors.elasticsearch.settings import left_out
from retl.connectors.elasticsearch.state.store import ElasticsearchStore
from retl.connectors.elasticsearch.target import preflight, refresh, truncate
from retl.connectors.elasticsearch.target.plan import Fit, Job, fit
from retl.connectors.elasticsearch.target.writer import ElasticsearchWriter
from retl.connectors.elasticsearch.types import ID, ROUTING, holds_documents
from retl.model.actions import Action, PreAction
from retl.model.checkpoint import FencedCheckpoint
from retl.model.plan import BatchSize, TargetPreview, WriteSpec
from retl.model.schema import TableSchema
from retl.state.base import StateStore
from retl.state.memory import lease_lost
from retl.threads import shielded

if TYPE_CHECKING:
    from retl.connectors.elasticsearch import Elasticsearch


@dataclass(frozen=True)
class _Look:
    """What was found before anything is written."""

    known: Known | None
    fit: Fit
    by_query: bool
    """Whether truncating deletes the documents rather than the index."""
    created: bool
    """Whether an index is created, in the place of another one or as the first."""


class ElasticsearchTarget(Target):
    """Writes Elasticsearch or OpenSearch. See ``retl.connectors.Elasticsearch``."""

    system: ClassVar[str] = "elasticsearch"
    schemas: ClassVar[bool] = False
    batch_size = BatchSize(rows=65_536, bytes=4 * 1024 * 1024)
    documents: ClassVar[bool] = True

    def __init__(self, options: Elasticsearch) -> None:
        self._options = options
        self._line = Line(options, "target")
        self._store = ElasticsearchStore(Line(options, "target"), options.state_index)
        self._writing: ElasticsearchWriter | None = None

    async def ping(self) -> SystemInfo:
        async with self._line.use() as client:
            return SystemInfo(client.product.name, client.product.number, warnings=client.warnings)

    async def describe(self, table: str) -> TableSchema | None:
        async with self._line.use() as client:
            known = await catalog.find_index(client, table)
        if known is None:
            return None
        return TableSchema(table, pa.schema(list(catalog.columns_of(known))), catalog.key_of(known))

    async def count(self, table: str) -> int:
        async with self._line.use() as client:
            return await catalog.count(client, table) if await catalog.find_index(client, table) is not None else 0

    async def inspect(self, table: str) -> TargetTable:
        async with self._line.use() as client:
            known = await catalog.find_index(client, table)
            if known is None:
                return TargetTable(exists=False, empty=True)
            preflight.check_open(known)
            # What is written may roll over to another index; then no index is the table.
            lasts = known.kind != "data_stream" and len(known.indices) == 1
            empty = await catalog.is_empty(client, known.indices)
        return TargetTable(exists=True, empty=empty, identity=known.uuid if lasts else None)

    async def location(self, table: str) -> str | None:
        async with self._line.use() as client:
            return await catalog.location_of(client, table)

    async def preview(self, spec: WriteSpec) -> TargetPreview:
        async with self._line.use() as client:
            look = await self._look(client, spec)
            if spec.fence is None:  # a scan creates it anyway, before anything depends on it
                await _try_out(client, spec, look)
        return TargetPreview(
            tuple(_shown(spec, look, keep=self._options.keep_replaced)),
            look.fit.casts,
            (*look.fit.warnings, *_warnings(spec, look, self._options)),
        )

    async def _look(self, client: Client, spec: WriteSpec) -> _Look:
        preflight.check_name(spec.table.to)
        known = await catalog.find_index(client, spec.table.to)
        shadow = refresh.shadow_name(spec) if spec.table.pre_action is PreAction.SWAP else None
        preflight.check_apart(spec, known, shadow, client.product.cluster)
        by_query = (
            self._options.truncate == "delete_by_query"
            or (known is not None and known.kind == "data_stream")
            or bool({Action.DROP, Action.CREATE} & spec.blacklist)
        )
        truncates = spec.table.pre_action is PreAction.TRUNCATE
        preflight.check(spec, known, by_query=truncates and by_query)
        if known is not None:
            await preflight.check_pipelines(client, known.written, catalog.pipelines(known.definition.settings))
        filled = known is not None and spec.cursor is not None and await catalog.count(client, spec.table.to) > 0
        plain = client.product.opensearch
        words = {"times": self._options.times, "flattened": client.product.flattened}
        found = fit(spec, known, filled=filled, plain=plain, **words)
        created = known is None or (spec.table.replaces and not (truncates and by_query))
        if created and self._options.aliases:
            found = found.with_aliases(await preflight.lacking(client, spec, known))
        return _Look(known, found, by_query, created)

    async def prepare(self, spec: WriteSpec, fenced: FencedCheckpoint | None) -> TableWriter:
        await self._end_writing()
        client = await Client.open(self._options, "target")
        try:
            job = await self._prepare(client, spec, fenced)
        except BaseException:
            await shielded(client.close())
            raise
        self._writing = ElasticsearchWriter(job, client, self._store)
        return self._writing

    async def _prepare(self, client: Client, spec: WriteSpec, fenced: FencedCheckpoint | None) -> Job:
        # The journal first, and with it the proof of the fence: from here on a crash is seen by the next scan.
        if fenced is not None:
            await self._store.save(fenced)
        elif spec.fence is not None and spec.state_in_target and not await self._store.beat(spec.fence):
            raise lease_lost(spec.fence)
        await truncate.recover(client, spec.table.to)
        # What a former owner has not switched in by now it never will: what is looked at then stays so.
        await refresh.drop_leftovers(client, spec.table.to, spec.pipeline)
        look = await self._look(client, spec)
        known = look.known
        path, shadow = spec.table.to, None
        if spec.table.pre_action is PreAction.SWAP:
            path = shadow = refresh.shadow_name(spec)
            await refresh.create_shadow(client, spec.table.to, shadow, refresh.unwatched(look.fit.definition))
        elif known is None:
            await refresh.create(client, path, look.fit.definition)
        elif spec.table.pre_action is PreAction.TRUNCATE and not look.by_query:
            await truncate.recreate(client, spec, known, look.fit.definition, _columns(spec, look))
        else:
            await refresh.extend(client, known.name, look.fit.added)
            if spec.table.pre_action is PreAction.TRUNCATE:
                await preflight.check_privileges(client, known.written, "index", "delete")
                await truncate.delete_documents(client, known.name)
        leads = known is not None and known.kind != "index" and shadow is None
        written = await catalog.identity(client, known.written if leads and known is not None else path)
        return Job(
            spec=spec,
            fit=look.fit,
            path=path,
            known=known,
            shadow=shadow,
            uuid="" if leads else written.uuid,
            pipelines=written.pipelines,
            writers=self._options.writers,
            keep_replaced=self._options.keep_replaced,
        )

    def state_store(self) -> StateStore:
        return self._store

    async def release(self) -> None:
        await shielded(self._close())

    async def _close(self) -> None:
        await self._line.close()
        await self._store.aclose()

    async def _end_writing(self) -> None:
        """Close a writer that was neither finished nor aborted."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await shielded(writing.close())

    async def aclose(self) -> None:
        await self._end_writing()
        await self.release()


async def _try_out(client: Client, spec: WriteSpec, look: _Look) -> None:
    """What a scan would create, or add to a mapping, is tried without leaving anything."""
    if look.created or look.fit.added:
        await preflight.try_out(client, spec, look.fit.definition, _columns(spec, look))
    if look.created and spec.table.pre_action is not PreAction.SWAP:
        known = look.known
        await preflight.check_creatable(client, known.written if known else spec.table.to, again=known is not None)


def _columns(spec: WriteSpec, look: _Look) -> tuple[str, ...]:
    """The fields that documents will have, where they do not come whole."""
    return () if holds_documents(spec.schema) else tuple(name for name in look.fit.columns if name not in (ID, ROUTING))


def _shown(spec: WriteSpec, look: _Look, *, keep: bool) -> list[str]:
    """The requests of a scan, for people."""
    name, known = spec.table.to, look.known
    shadow = refresh.beside(name, "<epoch>-<time>")
    bulk = f"POST /{name}/_bulk"
    more = "".join(f", {alias}" for alias in look.fit.aliases)
    if spec.table.pre_action is PreAction.SWAP:
        copies = f"PUT /{shadow} (mapping and settings of {known.written if known else 'the source'}; no replicas, no refresh)"
        return [
            copies,
            f"POST /{shadow}/_bulk",
            f"PUT /{shadow}/_settings (as they are to be)",
            f"GET /_cluster/health/{shadow} (until the copies are there)",
            f"POST /_aliases ({name}{more} -> {shadow}){_goes(look, keep=keep)}",
        ]
    if known is None:
        return [f"PUT /{name}" + (f" (with the aliases {more[2:]})" if more else ""), bulk]
    statements = [f"PUT /{name}/_mapping"] if look.fit.added else []
    if spec.table.pre_action is PreAction.TRUNCATE:
        if not look.by_query:
            own = f"its own mapping, settings and aliases{' and' + more[1:] if more else ''}"
            return [f"DELETE /{known.written}", f"PUT /{known.written} ({own})", bulk]
        statements.append(f"POST /{name}/_delete_by_query")
    return [*statements, bulk]


def _goes(look: _Look, *, keep: bool) -> str:
    """What a switch does to the index that is there."""
    known = look.known
    if known is None:
        return ""
    if keep and known.kind == "alias":
        return f"; {known.written} is kept as {refresh.replaced_alias(known.name)}"
    return f"; DELETE /{known.written} in the same step"


def _warnings(spec: WriteSpec, look: _Look, options: Elasticsearch) -> list[str]:
    known = look.known
    if known is None:
        return []
    found = []
    if look.created and (lost := left_out(known.definition.settings)):
        found.append(f"the new index is not given the settings index.{', index.'.join(lost)} of {known.written!r}.")
    if ingest := catalog.pipelines(known.definition.settings):
        found.append(
            f"documents go through the ingest pipeline {' and '.join(ingest)} of {known.written!r}, which may change or drop them."
        )
    if known.kind == "data_stream" and Action.UPDATE not in spec.blacklist:
        found.append(
            f"{known.name!r} is a data stream: it takes new documents, and leaves those that it has as they are."
        )
    if known.kind == "alias" and len(known.indices) > 1 and not spec.table.replaces:
        found.append(
            f"{known.name!r} is an alias of {len(known.indices)} indices and {known.written!r} is written: "
            "a document that is in another one will be there twice."
        )
    if known.kind == "index" and spec.table.pre_action is PreAction.SWAP and options.keep_replaced:
        found.append(
            f"{known.name!r} is an index, not an alias: it cannot be kept, since the alias takes its name. The next one will be."
        )
    return found
