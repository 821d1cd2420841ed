"""The state store in an index of the target.

Elasticsearch has no transactions, but it compares and sets one document. So a pipeline is
*one* document: its lease and all its checkpoints. A checkpoint is saved only over the very
document in which the lease was seen to hold; there is no moment between the proof of the
fence and the save. Entries of manifests, claims, rejects and reports are documents of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from retl.connectors.elasticsearch.connection import SharedClient
from retl.connectors.elasticsearch.state.index import MOST_HITS, StateIndex, identity, query_of
from retl.model.alerts import AlertState
from retl.model.checkpoint import CHECKPOINT_VERSION, Checkpoint, Fence, FencedCheckpoint, Reject
from retl.model.errors import StateError, TargetBusy
from retl.model.manifest import ManifestChange, ManifestEntry
from retl.model.plain import EPOCH, time_text
from retl.model.report import ScanReport
from retl.model.steering import Steering
from retl.state.base import KEPT_REPORTS, MANIFEST_PAGE, STATE_VERSION, Claim, LeaseRow, StateStore, unreadable_report
from retl.state.memory import lease_lost
from retl.state.sql import start_over

T = TypeVar("T")
_TRIES = 50
"""How often a write is tried while others write the same document."""
_PRUNED_EVERY = 50
"""Of how many reports of a table one removes the old ones."""
_READ_AT_ONCE = 100
_VISIBLE = {"refresh": "true"}
_NEWEST_SCAN = [{"scan_id": "desc"}]
_BY_NAME = [{"name": {"order": "asc", "unmapped_type": "keyword"}}]
"""An index of an older version does not map the name before the first write."""
_NEWEST = [{"at": "desc"}]


class _Saved(msgspec.Struct):
    """The checkpoint of one table, as JSON."""

    table: str
    body: str


class _State(msgspec.Struct, kw_only=True):
    """The document of one pipeline."""

    kind: str = "pipeline"
    version: int = STATE_VERSION
    pipeline: str
    owner: str | None = None
    epoch: int = 0
    beat: int = 0
    ttl: float = 0.0
    checkpoints: list[_Saved] = []
    steering: Steering = Steering()
    alerts: str = ""
    """What is told, as JSON."""

    def holds(self, fence: Fence) -> bool:
        return (self.owner, self.epoch) == (fence.owner, fence.epoch)

    def lease(self) -> LeaseRow:
        return LeaseRow(self.pipeline, self.owner, self.epoch, self.beat, self.ttl)


class _Document(msgspec.Struct, rename={"seq_no": "_seq_no", "term": "_primary_term", "source": "_source"}):
    found: bool = False
    seq_no: int = 0
    term: int = 0
    source: msgspec.Raw = msgspec.Raw(b"")


class ElasticsearchStore(StateStore):
    """Checkpoints in a hidden index of the cluster that the target writes. The first write creates it."""

    def __init__(self, shared: SharedClient, index: str) -> None:
        self._index = StateIndex(shared, index)
        self._reports: dict[tuple[str, str], int] = {}

    # Checkpoints and manifests ------------------------------------------------

    async def load(self, pipeline: str) -> dict[str, Checkpoint]:
        state, _ = await self._read(pipeline)
        return {saved.table: _checkpoint(saved, pipeline) for saved in state.checkpoints}

    async def save(self, fenced: FencedCheckpoint) -> None:
        if fenced.manifest is not None:
            await self._require(fenced.fence)
            await self._save_manifest(fenced.fence.pipeline, fenced.table, fenced.manifest)

        def change(state: _State) -> bool:
            if not state.holds(fenced.fence):
                raise lease_lost(fenced.fence)
            others = [saved for saved in state.checkpoints if saved.table != fenced.table]
            state.checkpoints = [*others, _Saved(fenced.table, _text(fenced.checkpoint))]
            return True

        await self._change(fenced.fence.pipeline, change, lambda state: None)

    async def _save_manifest(self, pipeline: str, table: str, change: ManifestChange) -> None:
        """Save a change before its checkpoint: after a crash the next scan saves it again."""
        put = {entry.name: entry for entry in change.put}
        if gone := [identity("entry", pipeline, table, name) for name in change.remove if name not in put]:
            await self._index.create()
            await self._index.remove(gone)
        about = {"kind": "entry", "pipeline": pipeline, "table": table}
        await self._index.put_all(
            {
                identity("entry", pipeline, table, name): {**about, "name": name, "body": _text(entry)}
                for name, entry in put.items()
            }
        )

    async def read_manifest(
        self, pipeline: str, table: str, after: str = "", limit: int = MANIFEST_PAGE
    ) -> list[ManifestEntry]:
        # The server sorts names by their bytes, and a page begins behind the last one of the page before.
        query = query_of("entry", pipeline=pipeline, table=table)
        found = await self._index.search(query, _BY_NAME, limit, search_after=[after])
        what = f"the manifest of table {table!r}"
        return [self._index.decode(hit["_source"]["body"], ManifestEntry, what, start_over(table)) for hit in found]

    async def forget(self, pipeline: str, table: str | None = None) -> int:
        gone = 0

        def change(state: _State) -> bool:
            nonlocal gone
            kept = [saved for saved in state.checkpoints if table is not None and saved.table != table]
            gone = len(state.checkpoints) - len(kept)
            state.checkpoints = kept
            return gone > 0

        # The manifest first: an entry that outlived its checkpoint would never be read again.
        await self._index.delete(query_of("entry", pipeline=pipeline, table=table))
        return await self._change(pipeline, change, lambda state: gone)

    # The lease ----------------------------------------------------------------

    async def read_lease(self, pipeline: str) -> LeaseRow:
        state, _ = await self._read(pipeline)
        return state.lease()

    async def take_lease(self, seen: LeaseRow, owner: str, ttl: float) -> Fence | None:
        fence: Fence | None = None

        def change(state: _State) -> bool:
            nonlocal fence
            if state.lease() != seen:
                fence = None
                return False
            state.owner, state.epoch, state.beat, state.ttl = owner, state.epoch + 1, 0, ttl
            fence = Fence(state.pipeline, owner, state.epoch)
            return True

        return await self._change(seen.pipeline, change, lambda state: fence)

    async def holds(self, fence: Fence) -> bool:
        """Whether an owner still is the owner."""
        state, _ = await self._read(fence.pipeline)
        return state.holds(fence)

    async def _require(self, fence: Fence) -> None:
        """Raise ``LeaseLost`` unless an owner still is the owner."""
        if not await self.holds(fence):
            raise lease_lost(fence)

    async def beat(self, fence: Fence) -> bool:
        return await self.hear(fence, Steering()) is not None

    async def hear(self, fence: Fence, known: Steering) -> Steering | None:
        def change(state: _State) -> bool:
            state.beat += 1
            return state.holds(fence)

        return await self._change(fence.pipeline, change, lambda state: state.steering if state.holds(fence) else None)

    async def read_steering(self, pipeline: str) -> Steering:
        state, _ = await self._read(pipeline)
        return state.steering

    async def save_steering(self, pipeline: str, steering: Steering) -> bool:
        saved = False

        def change(state: _State) -> bool:
            nonlocal saved
            saved = state.steering.revision == steering.revision
            state.steering = msgspec.structs.replace(steering, revision=steering.revision + 1)
            return saved

        return await self._change(pipeline, change, lambda state: saved)

    async def give_up_lease(self, fence: Fence) -> None:
        def change(state: _State) -> bool:
            held = state.holds(fence)
            state.owner, state.beat = None, state.beat + 1
            return held

        await self._change(fence.pipeline, change, lambda state: None)

    async def _change(self, pipeline: str, change: Callable[[_State], bool], result: Callable[[_State], T]) -> T:
        """Compare and set: what ``change`` makes of the document is written over the very one that it was shown.

        Where somebody else was faster it is shown the newer one. It returns whether anything is to be written.
        """
        for _ in range(_TRIES):
            state, there = await self._read(pipeline)
            if not change(state):
                return result(state)
            params = (
                {"if_seq_no": there.seq_no, "if_primary_term": there.term} if there.found else {"op_type": "create"}
            )
            if await self._index.put(identity("pipeline", pipeline), state, params):
                return result(state)
        raise TargetBusy(
            f"the state of {pipeline!r} in {self._index.name!r} is changed by somebody else all the time.",
            remedy="see who else runs a pipeline of this name; the scan is tried again.",
        )

    async def _read(self, pipeline: str) -> tuple[_State, _Document]:
        """The document of a pipeline, as of this moment, and what it must still be when it is set."""
        document = identity("pipeline", pipeline)
        answer = await self._index.get(document)
        if answer.status == 404:
            return _State(pipeline=pipeline), _Document()
        remedy = "see what stands between retl and the server."
        there = self._index.decode(answer.body, _Document, "the answer", remedy)
        if not there.found:
            return _State(pipeline=pipeline), there
        remedy = (
            "restore it from a snapshot; or make sure that no process runs the pipeline, and start over by: "
            f"DELETE {self._index.path}/_doc/{document}"
        )
        state = self._index.decode(bytes(there.source), _State, f"the state of {pipeline!r}", remedy)
        if state.version > STATE_VERSION:
            raise StateError(
                f"the state in {self._index.name!r} is of version {state.version}, but this retl knows versions up to {STATE_VERSION}.",
                remedy="upgrade retl, or name another state_index.",
                pipeline=pipeline,
            )
        return state, there

    # Alerts -------------------------------------------------------------------

    async def read_alerts(self, pipeline: str) -> AlertState:
        state, _ = await self._read(pipeline)
        remedy = "restore it from a snapshot; nothing but alerts depends on it."
        return self._index.decode(state.alerts or "{}", AlertState, f"what is told of {pipeline!r}", remedy)

    async def save_alerts(self, fence: Fence, state: AlertState) -> None:
        def change(known: _State) -> bool:
            if not known.holds(fence):
                raise lease_lost(fence)
            known.alerts = _text(state)
            return True

        await self._change(fence.pipeline, change, lambda known: None)

    # Claims -------------------------------------------------------------------

    async def claims(self, target: str) -> list[Claim]:
        found = await self._index.search(query_of("claim", target=target), [], MOST_HITS)
        sources = [hit["_source"] for hit in found]
        return [Claim(one["pipeline"], one["table"], target, bool(one["replaces"])) for one in sources]

    async def claim(self, fence: Fence, claim: Claim) -> None:
        # Not compared and set with the lease: a late claim of a former owner stops a scan, and harms none.
        await self._require(fence)
        document = identity("claim", claim.pipeline, claim.table)
        await self._index.put(document, {"kind": "claim", **asdict(claim)}, _VISIBLE)

    async def release_claims(self, pipeline: str, table: str | None = None) -> int:
        return await self._index.delete(query_of("claim", pipeline=pipeline, table=table))

    # Rejects ------------------------------------------------------------------

    async def add_rejects(self, pipeline: str, rejects: Sequence[Reject]) -> None:
        about = {"kind": "reject", "pipeline": pipeline}
        await self._index.put_all(
            {
                identity("reject", pipeline, reject.table, reject.key): {
                    **about,
                    "table": reject.table,
                    "at": time_text(reject.at),
                    "body": _text(reject),
                }
                for reject in rejects
            }
        )

    async def rejects(self, pipeline: str, table: str | None = None, limit: int = 1000) -> list[Reject]:
        query = query_of("reject", pipeline=pipeline, table=table)
        newest = [hit["_id"] for hit in await self._index.search(query, _NEWEST, limit, _source=False)]
        remedy = "run `retl rejects --clear` to forget the rejects."
        found: list[Reject] = []
        # A thousand rejects may be more than one answer holds.
        for first in range(0, len(newest), _READ_AT_ONCE):
            bodies = await self._index.get_bodies(newest[first : first + _READ_AT_ONCE])
            found += [self._index.decode(body, Reject, "a reject", remedy) for body in bodies]
        return found

    async def count_rejects(self, pipeline: str) -> dict[str, int]:
        return await self._index.count_by(query_of("reject", pipeline=pipeline), "table")

    async def clear_rejects(self, pipeline: str, table: str | None = None) -> int:
        return await self._index.delete(query_of("reject", pipeline=pipeline, table=table))

    async def prune_rejects(self, pipeline: str, before: datetime, most: int) -> None:
        await self._index.delete(query_of("reject", {"range": {"at": {"lt": time_text(before)}}}, pipeline=pipeline))
        for table, count in (await self.count_rejects(pipeline)).items():
            if count > most:
                await self._keep_newest("reject", "at", most, pipeline=pipeline, table=table)

    async def _keep_newest(self, kind: str, order: str, most: int, **fields: str) -> None:
        """Delete all but the newest documents."""
        words = {"from": most, "_source": [order]}
        for hit in await self._index.search(query_of(kind, **fields), [{order: "desc"}], 1, **words):
            oldest = {"range": {order: {"lte": hit["_source"][order]}}}
            await self._index.delete(query_of(kind, oldest, **fields))

    # Reports ------------------------------------------------------------------

    async def add_report(self, report: ScanReport) -> None:
        fields = {"pipeline": report.pipeline, "table": report.table}
        body = {"kind": "report", **fields, "scan_id": report.scan_id, "body": _text(report)}
        await self._index.put(identity("report", report.pipeline, report.table, report.scan_id), body, _VISIBLE)
        table = report.pipeline, report.table
        self._reports[table] = self._reports.get(table, 0) + 1
        if (self._reports[table] - 1) % _PRUNED_EVERY == 0:
            await self._keep_newest("report", "scan_id", KEPT_REPORTS, **fields)

    async def reports(self, pipeline: str | None = None, table: str | None = None, limit: int = 20) -> list[ScanReport]:
        query = query_of("report", pipeline=pipeline, table=table)
        return [self._report(hit["_source"]) for hit in await self._index.search(query, _NEWEST_SCAN, limit)]

    async def last_reports(self, pipeline: str) -> dict[str, ScanReport]:
        query = query_of("report", pipeline=pipeline)
        found = await self._index.search(query, _NEWEST_SCAN, MOST_HITS, collapse={"field": "table"})
        return {hit["_source"]["table"]: self._report(hit["_source"]) for hit in reversed(found)}

    def _report(self, document: dict[str, Any]) -> ScanReport:
        try:
            return self._index.decode(document["body"], ScanReport, "a scan report", "")
        except StateError as error:
            scan = document["scan_id"]
            return unreadable_report(
                document["pipeline"], document["table"], scan, _began(scan), "failed", error.message
            )

    async def aclose(self) -> None:
        await self._index.shared.close()


def _checkpoint(saved: _Saved, pipeline: str) -> Checkpoint:
    try:
        checkpoint = msgspec.json.decode(saved.body, type=Checkpoint)
    except msgspec.MsgspecError as error:
        raise StateError(
            f"the checkpoint of table {saved.table!r} in the state store cannot be read ({error}).",
            remedy=start_over(saved.table),
        ) from None
    if checkpoint.version > CHECKPOINT_VERSION:
        raise StateError(
            f"the checkpoint of table {saved.table!r} is of version {checkpoint.version}, "
            f"but this retl knows versions up to {CHECKPOINT_VERSION}.",
            remedy="upgrade retl.",
            pipeline=pipeline,
        )
    return checkpoint


def _began(scan_id: str) -> datetime:
    """When a scan began, as its identifier says."""
    try:
        return datetime.strptime(f"{scan_id.split('-')[0]}+0000", "%Y%m%dT%H%M%S.%f%z")
    except ValueError:
        return EPOCH


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
