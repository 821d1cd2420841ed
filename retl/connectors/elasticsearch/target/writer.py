"""Documents into an index: sent at once, since they are idempotent; the checkpoint follows their acknowledgement.

What is written is visible before its commit. A slice that is read again is written over
itself, so nothing has to be undone; only rows without a key are taken back.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import anyio.to_thread
import msgspec
import pyarrow as pa

from retl.connectors.base import CommitResult, TableWriter
from retl.connectors.elasticsearch import catalog
from retl.connectors.elasticsearch.connection import Client, quoted
from retl.connectors.elasticsearch.errors import server_error, understood
from retl.connectors.elasticsearch.state.store import ElasticsearchStore
from retl.connectors.elasticsearch.target import refresh
from retl.connectors.elasticsearch.target.by_file import FileDocuments, RowsOfFiles
from retl.connectors.elasticsearch.target.conflicts import Duplicates, OlderRows, stored
from retl.connectors.elasticsearch.target.encode import Encoder, Lines
from retl.connectors.elasticsearch.target.loader import Bulk, Conflict, fail_on_conflict, keep_existing
from retl.connectors.elasticsearch.target.plan import PreparedLoad
from retl.connectors.elasticsearch.types import ID, ROUTING, SOURCE, holds_documents
from retl.connectors.rows.rejects import MOST_SHOWN, RejectCollector, plain_rows
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import RetlError, TargetError
from retl.model.window import Slice
from retl.state.memory import lease_lost
from retl.threads import shielded

_SMALL = 64 * 1024
"""Below this size, encoding inline beats a thread hop."""
_LOOKED_UP = 5_000
_PROOF_SECONDS = 1.0
"""Maximum age of the last fence check when documents are sent."""


class ElasticsearchWriter(TableWriter):
    """Writes one scan of one table. Made by ``ElasticsearchTarget.open_load``."""

    def __init__(self, load: PreparedLoad, client: Client, store: ElasticsearchStore) -> None:
        self._load = load
        self._spec = load.spec
        self._client = client
        self._store = store
        self._whole = holds_documents(load.spec.schema)
        self._encoder = Encoder(load.spec, load.plan.columns, operation=load.operation, versions=load.plan.versions)
        self._duplicates = Duplicates(load.spec)
        self._rejects = RejectCollector(load.spec)
        self._files = FileDocuments(client, load.spec, load.address.name)
        self._proved = time.monotonic()
        self._sure = 0
        self._bulk = Bulk(
            client,
            f"/{quoted(load.address.send_to)}/_bulk",
            {"require_alias": "true"} if load.behind_alias else {},
            self._reject,
            writers=load.writers,
            prove=self._prove,
            indices=(*load.address.indices, load.address.send_to),
            elsewhere=self._stands_for,
            renames=bool(load.written.pipelines),
            conflict=self._conflict(),
        )

    def _conflict(self) -> Conflict:
        """How to settle a document that conflicts with an existing one."""
        if self._load.by_file:
            return RowsOfFiles(self._client, self._spec, self._load.address.index, self._reject, self._prove_now)
        if self._load.operation == "create" and not self._load.only_existing:
            return keep_existing
        if self._load.plan.versions and not self._load.only_existing:
            return OlderRows(self._client, self._load, self._duplicates, self._prove_now)
        return fail_on_conflict

    async def write(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows or len(self._rejects.rows) > self._spec.table.max_rejects + MOST_SHOWN:
            return  # the commit will fail with this many rejects: no need to send the rest
        if batch.nbytes < _SMALL:
            lines = self._encode(batch)
        else:
            lines = await anyio.to_thread.run_sync(self._encode, batch)
        if self._load.only_existing:
            lines = await self._existing(lines)
        await self._bulk.send(lines)

    def _encode(self, batch: pa.RecordBatch) -> Lines:
        lines, rejected = self._encoder(batch)
        for some in rejected:
            for row in self._shown(some.rows):
                self._rejects.add(row, some.reason, some.column)
        self._duplicates.add(lines)
        return lines

    def _shown(self, rows: pa.RecordBatch) -> list[dict[str, Any]]:
        """Rows for people; whole documents as they are."""
        if not self._whole:
            return plain_rows(rows)
        shown = plain_rows(rows.select([ID, ROUTING]))
        for row, source in zip(shown, rows.column(SOURCE).to_pylist(), strict=True):
            row[SOURCE] = None if source is None else msgspec.Raw(source)
        return shown

    def _reject(self, lines: Lines, number: int, reason: str, column: str) -> None:
        (row,) = self._shown(lines.rows.slice(number, 1))
        self._rejects.add(row, reason, column)

    async def _existing(self, lines: Lines) -> Lines:
        """The rows of existing documents, to be written only where these have not changed since."""
        found: list[dict[str, Any]] = []
        for first in range(0, len(lines), _LOOKED_UP):
            some = lines.take(range(first, min(first + _LOOKED_UP, len(lines))))
            found += await stored(self._client, self._load.address.index, some)
        there = [number for number, document in enumerate(found) if document.get("found")]
        self._bulk.unchanged += len(found) - len(there)
        return lines.take(there).if_unchanged(
            [found[number]["_seq_no"] for number in there], [found[number]["_primary_term"] for number in there]
        )

    async def _stands_for(self, name: str) -> bool:
        """Whether an index belongs to the table: an alias or a data stream may have rolled over."""
        existing = await catalog.find_index(self._client, self._spec.table.to) if self._load.rolls_over else None
        return existing is not None and name in existing.indices

    async def _prove(self) -> None:
        """Prove the fence, unless that was done just now: a process that was frozen may have a successor."""
        if time.monotonic() - self._proved >= _PROOF_SECONDS:
            await self._prove_now()

    async def _prove_now(self) -> None:
        fence, now = self._spec.fence, time.monotonic()
        if self._spec.state_in_target and fence is not None and not await self._store.holds(fence):
            raise lease_lost(fence)
        if not self._spec.state_in_target and self._spec.prove is not None:
            await self._spec.prove()
        self._proved = now

    async def discard(self) -> None:
        if self._encoder.makes_ids:
            # What is read again gets other ids, and may come in another order.
            await self._bulk.settle()
            await self._undo_appended(self._bulk.written)
        else:
            with suppress(RetlError):  # what was sent is sent again
                await self._bulk.settle()
        self._forget()

    async def _undo_appended(self, written: int) -> None:
        await undo(self._client, self._load.address.delete_from, self._encoder.loose_ids(), written=written)

    def _forget(self) -> None:
        self._encoder.keep()
        self._bulk.forget()
        self._duplicates.clear()
        self._rejects = RejectCollector(self._spec)

    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        await self._bulk.settle()
        self._duplicates.check()
        self._rejects.check(rejects_left)
        await self._check_index()
        if slice_.scope is not None:
            await self._prove_now()
            await self._files.delete_others(slice_.scope, self._bulk.written)
        rejects = self._rejects.rows
        if fenced is not None:
            await self._store.add_rejects(fenced.fence.pipeline, rejects)
            self._encoder.keep()  # if the answer is lost, the checkpoint may still say that they are there
            await shielded(self._store.save(fenced))
        bulk = self._bulk
        self._sure += bulk.written if self._spec.unique_key or self._encoder.makes_ids else bulk.created
        done = CommitResult(
            rows=bulk.written + bulk.unchanged + bulk.older + bulk.dropped,
            rejects=rejects,
            unchanged=bulk.unchanged if self._load.operation == "create" or self._load.only_existing else None,
            older=bulk.older,
            dropped=bulk.dropped,
        )
        self._forget()
        return done

    async def _check_index(self) -> None:
        """Raise unless the index still is the one that was prepared: writes to a lost one create another."""
        address, written = self._load.address, self._load.written
        if not self._load.rolls_over and await catalog.uuid(self._client, address.index) != written.uuid:
            raise TargetError(
                f"the index {address.index!r} was deleted while it was written; what came before may be missing.",
                remedy=f"let nobody delete it; `retl reset` for table {self._spec.table.name!r} reads everything again.",
            )

    async def count(self) -> int:
        return await catalog.count(self._client, self._load.address.name)

    async def finish(self, fenced: FencedCheckpoint | None) -> None:
        await self._bulk.settle()
        await self._check_index()
        if self._load.shadow is not None:
            await self._switch(self._load.shadow, fenced)
        else:
            seen = await catalog.refresh(self._client, self._load.address.name)
            if seen and self._spec.table.replaces:
                await self._check_count(self._load.address.name)
        if fenced is not None:
            await shielded(self._store.save(fenced))
        self.finished = True

    async def _check_count(self, name: str) -> None:
        """Raise where there are fewer documents than were acknowledged. One that was written twice counts once."""
        there = await catalog.count(self._client, name)
        if there < self._sure:
            raise TargetError(
                f"{name!r} holds {there:,} documents, though {self._sure:,} different ones were acknowledged.",
                remedy="see who deletes from it, and whether an ingest pipeline of the target changes _id or _routing; "
                "the next scan loads it anew.",
            )

    async def _switch(self, shadow: str, fenced: FencedCheckpoint | None) -> None:
        load = self._load
        await refresh.settle(self._client, shadow, load.plan.definition)
        await self._check_count(shadow)
        existing = await catalog.find_index(self._client, self._spec.table.to)
        before, now = (None if one is None else (one.written, one.uuid) for one in (load.existing, existing))
        if before != now:
            raise TargetError(
                f"what stands under {self._spec.table.to!r} was replaced by somebody else during the load.",
                remedy="let one pipeline write it; the next scan loads it anew.",
            )
        # The last look before the step that cannot carry the fence itself. Another owner that comes after it
        # drops this shadow when it prepares a swap, and then the step fails as a whole.
        if fenced is not None and not await self._store.beat(fenced.fence):
            raise lease_lost(fenced.fence)
        more, keep = load.plan.aliases, load.keep_replaced
        await refresh.switch(self._client, self._spec.table.to, shadow, existing, more=more, keep=keep)

    async def abort(self) -> None:
        await self._bulk.stop()
        with suppress(RetlError):
            if self._load.shadow is not None:  # the next scan drops it too
                await refresh.drop_shadow(self._client, self._load.shadow)
            else:
                await self._undo_appended(0)
        self._forget()


async def undo(client: Client, index: str, ids: Iterable[Sequence[str]], *, written: int) -> None:
    """Delete documents. Raises where fewer than ``written`` are found: the others would be there twice."""
    deleted = 0
    for some in ids:
        body = b"".join(b'{"delete":{"_id":"%b"}}\n' % name.encode() for name in some)
        params = {"filter_path": "items.*.status,items.*.error"}
        answer = await client.call("POST", f"/{quoted(index)}/_bulk", params=params, body=body, ndjson=True)
        with understood(client.place):
            items = [(int(item["status"]), item.get("error")) for each in answer["items"] for item in each.values()]
        for status, error in items:
            if error is not None:
                raise server_error(status, msgspec.json.encode(error), "target", client.place)
            deleted += status < 300
    if deleted < written:
        raise TargetError(
            f"the slice has to be read again, and of {written:,} rows that it had appended to {index!r} only {deleted:,} "
            "could be taken back.",
            remedy="a key, or a cursor, makes it safe to read a slice again.",
        )
