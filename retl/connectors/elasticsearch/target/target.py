"""Elasticsearch and OpenSearch as a target: idempotent writes by ``_id``, the checkpoint after them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from retl.connectors.base import SystemInfo, TableWriter, Target, TargetTable, loading
from retl.connectors.elasticsearch import catalog
from retl.connectors.elasticsearch.catalog import ExistingIndex
from retl.connectors.elasticsearch.connection import Client, SharedClient
from retl.connectors.elasticsearch.settings import left_out
from retl.connectors.elasticsearch.state.store import ElasticsearchStore
from retl.connectors.elasticsearch.target import preflight, refresh, truncate, vectors
from retl.connectors.elasticsearch.target.by_file import check_by_file
from retl.connectors.elasticsearch.target.plan import IndexPlan, LoadAddress, PreparedLoad, may_clash, plan_index
from retl.connectors.elasticsearch.target.writer import ElasticsearchWriter
from retl.connectors.elasticsearch.types import ID, ROUTING, holds_documents
from retl.model.actions import Action, PreAction
from retl.model.checkpoint import FencedCheckpoint
from retl.model.plan import BatchSize, TargetPreview, WriteSpec
from retl.model.schema import TableSchema
from retl.state.base import StateStore
from retl.state.memory import lease_lost

if TYPE_CHECKING:
    from retl.connectors.elasticsearch import Elasticsearch


@dataclass(frozen=True)
class _Inspection:
    """What was found before anything is written."""

    existing: ExistingIndex | None
    plan: IndexPlan
    by_query: bool
    """Whether truncating deletes the documents rather than the index."""
    created: bool
    """Whether an index is created, as the first or in place of another."""


class ElasticsearchTarget(Target):
    """Writes Elasticsearch or OpenSearch. See ``retl.connectors.Elasticsearch``."""

    system: ClassVar[str] = "elasticsearch"
    schemas: ClassVar[bool] = False
    batch_size = BatchSize(rows=65_536, bytes=4 * 1024 * 1024)
    documents: ClassVar[bool] = True

    def __init__(self, options: Elasticsearch) -> None:
        self._options = options
        self._shared = SharedClient(options, "target")
        self._store = ElasticsearchStore(self._shared, options.state_index)

    async def ping(self) -> SystemInfo:
        return await self._shared.ping()

    async def describe(self, table: str) -> TableSchema | None:
        existing = await catalog.find_index(await self._shared.client(), table)
        if existing is None:
            return None
        return TableSchema(table, pa.schema(list(catalog.columns_of(existing))), catalog.key_of(existing))

    async def count(self, table: str) -> int:
        client = await self._shared.client()
        return await catalog.count(client, table) if await catalog.find_index(client, table) is not None else 0

    async def inspect(self, table: str) -> TargetTable:
        client = await self._shared.client()
        existing = await catalog.find_index(client, table)
        if existing is None:
            return TargetTable(exists=False, empty=True)
        preflight.check_open(existing)
        # A table that may roll over is not one index.
        lasts = existing.kind != "data_stream" and len(existing.indices) == 1
        empty = await catalog.is_empty(client, existing.indices)
        return TargetTable(exists=True, empty=empty, identity=existing.uuid if lasts else None)

    async def location(self, table: str) -> str | None:
        return await catalog.location_of(await self._shared.client(), table)

    async def lookup(self, table: str, column: str, values: Sequence[str], wanted: Sequence[str]) -> pa.Table:
        return await vectors.lookup(await self._shared.client(), table, column, values, wanted)

    async def extremes(self, table: str, column: str) -> tuple[str, str] | None:
        return await vectors.extremes(await self._shared.client(), table, column)

    async def preview(self, spec: WriteSpec) -> TargetPreview:
        client = await self._shared.client()
        found = await self._inspect(client, spec)
        if spec.fence is None:  # a scan creates it itself, before anything depends on it
            await _try_out(client, spec, found)
        return TargetPreview(
            tuple(_statements(spec, found, keep=self._options.keep_replaced)),
            found.plan.casts,
            (*found.plan.warnings, *_warnings(spec, found, self._options)),
        )

    async def _inspect(self, client: Client, spec: WriteSpec) -> _Inspection:
        preflight.check_name(spec.table.to)
        existing = await catalog.find_index(client, spec.table.to)
        shadow = refresh.shadow_name(spec) if spec.table.pre_action is PreAction.SWAP else None
        preflight.check_apart(spec, existing, shadow, client.server.cluster)
        by_query = (
            self._options.truncate == "delete_by_query"
            or (existing is not None and existing.kind == "data_stream")
            or bool({Action.DROP, Action.CREATE} & spec.blacklist)
        )
        truncates = spec.table.pre_action is PreAction.TRUNCATE
        preflight.check(spec, existing, by_query=truncates and by_query)
        check_by_file(spec, existing)
        if existing is not None:
            await preflight.check_pipelines(client, existing.written, existing.pipelines)
        filled = may_clash(spec, existing) and await catalog.count(client, spec.table.to) > 0
        plan = plan_index(spec, existing, client.server, filled=filled, times=self._options.times)
        created = existing is None or (spec.table.replaces and not (truncates and by_query))
        if created and self._options.aliases:
            plan = plan.with_aliases(await preflight.missing_aliases(client, spec, existing))
        return _Inspection(existing, plan, by_query, created)

    @asynccontextmanager
    async def open_load(self, spec: WriteSpec, begun: FencedCheckpoint | None) -> AsyncGenerator[TableWriter, None]:
        client = await self._shared.client()
        load = await self._prepare(client, spec, begun)
        async with loading(ElasticsearchWriter(load, client, self._store)) as writer:
            yield writer

    async def _prepare(self, client: Client, spec: WriteSpec, begun: FencedCheckpoint | None) -> PreparedLoad:
        # The journal first, and with it the proof of the fence: from here on a crash is seen by the next scan.
        if begun is not None:
            await self._store.save(begun)
        elif spec.fence is not None and spec.state_in_target and not await self._store.beat(spec.fence):
            raise lease_lost(spec.fence)
        await truncate.recover(client, spec.table.to)
        # A former owner can no longer switch in what it has not by now: so what is inspected stays as it is.
        await refresh.drop_leftovers(client, spec.table.to, spec.pipeline)
        found = await self._inspect(client, spec)
        existing, plan, shadow = found.existing, found.plan, None
        if spec.table.pre_action is PreAction.SWAP:
            shadow = refresh.shadow_name(spec)
            await refresh.create_shadow(client, spec.table.to, shadow, refresh.unwatched(plan.definition))
        elif existing is None:
            await refresh.create(client, spec.table.to, plan.definition)
        elif spec.table.pre_action is PreAction.TRUNCATE and not found.by_query:
            await truncate.recreate(client, spec, existing, plan.definition, _columns(spec, found))
        else:
            await refresh.extend(client, existing.name, plan.added)
            if spec.table.pre_action is PreAction.TRUNCATE:
                await preflight.check_privileges(client, existing.written, "index", "delete")
                await truncate.delete_documents(client, existing.name)
        address = LoadAddress.of(spec.table.to, existing, shadow)
        written = await catalog.identity(client, address.index)
        return PreparedLoad(
            spec=spec,
            plan=plan,
            address=address,
            existing=existing,
            shadow=shadow,
            written=written,
            writers=self._options.writers,
            keep_replaced=self._options.keep_replaced,
        )

    def state_store(self) -> StateStore:
        return self._store

    async def aclose(self) -> None:
        await self._shared.close()


async def _try_out(client: Client, spec: WriteSpec, found: _Inspection) -> None:
    """Try what a scan would create, or add to a mapping, without leaving anything."""
    if found.created or found.plan.added:
        await preflight.try_out(client, spec, found.plan.definition, _columns(spec, found))
    if found.created and spec.table.pre_action is not PreAction.SWAP:
        existing = found.existing
        await preflight.check_creatable(
            client, existing.written if existing else spec.table.to, again=existing is not None
        )


def _columns(spec: WriteSpec, found: _Inspection) -> tuple[str, ...]:
    """The fields of the documents, unless they come whole."""
    return (
        () if holds_documents(spec.schema) else tuple(name for name in found.plan.columns if name not in (ID, ROUTING))
    )


def _statements(spec: WriteSpec, found: _Inspection, *, keep: bool) -> list[str]:
    """The requests of a scan, for people."""
    name, existing = spec.table.to, found.existing
    shadow = refresh.beside(name, "<epoch>-<time>")
    bulk = f"POST /{name}/_bulk"
    more = "".join(f", {alias}" for alias in found.plan.aliases)
    if spec.table.pre_action is PreAction.SWAP:
        copies = f"PUT /{shadow} (mapping and settings of {existing.written if existing else 'the source'}; no replicas, no refresh)"
        return [
            copies,
            f"POST /{shadow}/_bulk",
            f"PUT /{shadow}/_settings (as they are to be)",
            f"GET /_cluster/health/{shadow} (until the copies are there)",
            f"POST /_aliases ({name}{more} -> {shadow}){_goes(found, keep=keep)}",
        ]
    if existing is None:
        return [f"PUT /{name}" + (f" (with the aliases {more[2:]})" if more else ""), bulk, *_of_files(spec)]
    statements = [f"PUT /{name}/_mapping"] if found.plan.added else []
    if spec.table.pre_action is PreAction.TRUNCATE:
        if not found.by_query:
            own = f"its own mapping, settings and aliases{' and' + more[1:] if more else ''}"
            return [f"DELETE /{existing.written}", f"PUT /{existing.written} ({own})", bulk]
        statements.append(f"POST /{name}/_delete_by_query")
    return [*statements, bulk, *_of_files(spec)]


def _of_files(spec: WriteSpec) -> list[str]:
    if spec.table.scope is None:
        return []
    return [f"POST /{spec.table.to}/_delete_by_query (what was in a file that is read, and is not any more)"]


def _goes(found: _Inspection, *, keep: bool) -> str:
    """What a switch does to the existing index."""
    existing = found.existing
    if existing is None:
        return ""
    if keep and existing.kind == "alias":
        return f"; {existing.written} is kept as {refresh.replaced_alias(existing.name)}"
    return f"; DELETE /{existing.written} in the same step"


def _warnings(spec: WriteSpec, found: _Inspection, options: Elasticsearch) -> list[str]:
    existing = found.existing
    if existing is None:
        return []
    warnings = []
    if found.created and (lost := left_out(existing.definition.settings)):
        warnings.append(
            f"the new index is not given the settings index.{', index.'.join(lost)} of {existing.written!r}."
        )
    if ingest := existing.pipelines:
        warnings.append(
            f"documents go through the ingest pipeline {' and '.join(ingest)} of {existing.written!r}, which may change or drop them."
        )
    if existing.kind == "data_stream" and Action.UPDATE not in spec.blacklist:
        warnings.append(
            f"{existing.name!r} is a data stream: it takes new documents, and leaves those that it has as they are."
        )
    if existing.kind == "alias" and len(existing.indices) > 1 and not spec.table.replaces:
        warnings.append(
            f"{existing.name!r} is an alias of {len(existing.indices)} indices and {existing.written!r} is written: "
            "a document that is in another one will be there twice."
        )
    if existing.kind == "index" and spec.table.pre_action is PreAction.SWAP and options.keep_replaced:
        warnings.append(
            f"{existing.name!r} is an index, not an alias: it cannot be kept, since the alias takes its name. The next one will be."
        )
    return warnings
