"""The state store in an index of the target.

Elasticsearch has no transactions, but it compares and sets one document. So a pipeline is
*one* document: its lease and all its checkpoints. A checkpoint is saved only over the very
document in which the lease was seen to hold; there is no moment between the proof of the
fence and the save. Rejects and reports are documents of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from retl.connectors.elasticsearch.client import Client, quoted
from retl.connectors.elasticsearch.line import Line
from retl.model.checkpoint import CHECKPOINT_VERSION, Checkpoint, Fence, Mark, Reject
from retl.model.errors import StateError, TargetBusy
from retl.model.report import ScanReport
from retl.state.base import STATE_VERSION, LeaseRow, StateStore
from retl.state.memory import lease_lost

T = TypeVar("T")
_KEPT_REPORTS = 1000
_MOST_FOUND = 10_000
"""Hits that the server gives at once."""
_TRIES = 50
"""How often a document is tried to be set while somebody else sets it too."""
_CORRUPT = (
    "restore it from a snapshot, or run `retl reset` to start over: incremental tables are then read in full once, "
    "which an upsert absorbs."
)
_KEYWORDS = ("kind", "pipeline", "table", "scan_id", "at")
_INDEX = {
    "settings": {"index": {"number_of_shards": 1, "auto_expand_replicas": "0-1", "hidden": True}},
    "mappings": {
        "dynamic": False,
        "properties": {name: {"type": "keyword", "ignore_above": 8191} for name in _KEYWORDS},
    },
}


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

    def holds(self, fence: Fence) -> bool:
        return (self.owner, self.epoch) == (fence.owner, fence.epoch)

    def lease(self) -> LeaseRow:
        return LeaseRow(self.pipeline, self.owner, self.epoch, self.beat, self.ttl)


class _Found(msgspec.Struct, rename={"seq_no": "_seq_no", "term": "_primary_term", "source": "_source"}):
    found: bool = False
    seq_no: int = 0
    term: int = 0
    source: msgspec.Raw = msgspec.Raw(b"")


class ElasticsearchStore(StateStore):
    """Checkpoints in a hidden index of the cluster that the target writes. It is created by the first who writes it."""

    def __init__(self, line: Line, index: str) -> None:
        self._line = line
        self._index = index
        self._path = f"/{quoted(index)}"
        self._ready = False

    # Checkpoints and the lease ------------------------------------------------

    async def load(self, pipeline: str) -> dict[str, Checkpoint]:
        async with self._line.use() as client:
            state, _ = await self._read(client, pipeline)
        return {saved.table: _checkpoint(saved, pipeline) for saved in state.checkpoints}

    async def save(self, mark: Mark) -> None:
        def change(state: _State) -> bool:
            if not state.holds(mark.fence):
                raise lease_lost(mark.fence)
            others = [saved for saved in state.checkpoints if saved.table != mark.table]
            state.checkpoints = [*others, _Saved(mark.table, _text(mark.checkpoint))]
            return True

        await self._change(mark.fence.pipeline, change, lambda state: None)

    async def forget(self, pipeline: str, table: str | None = None) -> int:
        gone = 0

        def change(state: _State) -> bool:
            nonlocal gone
            kept = [saved for saved in state.checkpoints if table is not None and saved.table != table]
            gone = len(state.checkpoints) - len(kept)
            state.checkpoints = kept
            return gone > 0

        return await self._change(pipeline, change, lambda state: gone)

    async def read_lease(self, pipeline: str) -> LeaseRow:
        async with self._line.use() as client:
            state, _ = await self._read(client, pipeline)
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

    async def beat(self, fence: Fence) -> bool:
        def change(state: _State) -> bool:
            state.beat += 1
            return state.holds(fence)

        return await self._change(fence.pipeline, change, lambda state: state.holds(fence))

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
        async with self._line.use() as client:
            for _ in range(_TRIES):
                state, there = await self._read(client, pipeline)
                if not change(state):
                    return result(state)
                await self._create(client)
                params = (
                    {"if_seq_no": there.seq_no, "if_primary_term": there.term} if there.found else {"op_type": "create"}
                )
                body = msgspec.json.encode(state)
                path = f"{self._path}/_doc/{_identity('pipeline', pipeline)}"
                answer = await client.request("PUT", path, params=params, body=body, allow=(409,))
                if answer.status != 409:
                    return result(state)
        raise TargetBusy(
            f"the state of {pipeline!r} in {self._index!r} is changed by somebody else all the time.",
            remedy="see who else runs a pipeline of this name; the scan is tried again.",
        )

    async def _read(self, client: Client, pipeline: str) -> tuple[_State, _Found]:
        """The document of a pipeline, as of this moment, and what it must still be when it is set."""
        answer = await client.request("GET", f"{self._path}/_doc/{_identity('pipeline', pipeline)}", allow=(404,))
        there = _Found() if answer.status == 404 else self._decode(answer.body, _Found, "the answer")
        if not there.found:
            return _State(pipeline=pipeline), there
        state = self._decode(bytes(there.source), _State, f"the state of {pipeline!r}")
        if state.version > STATE_VERSION:
            raise StateError(
                f"the state in {self._index!r} is of version {state.version}, but this retl knows versions up to {STATE_VERSION}.",
                remedy="upgrade retl, or name another state_index.",
                pipeline=pipeline,
            )
        return state, there

    async def _create(self, client: Client) -> None:
        if self._ready:
            return
        # Asked first: whoever may not create indices may still use one that is there.
        if (await client.request("HEAD", self._path, allow=(404,))).status == 404:
            answer = await client.request("PUT", self._path, body=_INDEX, allow=(400,))
            if answer.status == 400 and b"resource_already_exists_exception" not in answer.body:
                raise StateError(
                    f"the state index {self._index!r} cannot be created: {answer.body[:300].decode('utf-8', 'replace')}.",
                    remedy="name another one with state_index.",
                )
        self._ready = True

    # Rejects and reports ------------------------------------------------------

    async def add_rejects(self, pipeline: str, rejects: Sequence[Reject]) -> None:
        if not rejects:
            return
        lines = [
            part
            for reject in rejects
            for part in (
                {"index": {"_id": _identity("reject", pipeline, reject.table, reject.key)}},
                {"kind": "reject", "pipeline": pipeline, "table": reject.table, "at": reject.at, "body": _text(reject)},
            )
        ]
        async with self._line.use() as client:
            await self._create(client)
            body = msgspec.json.Encoder().encode_lines(lines)
            path = f"{self._path}/_bulk"
            answer = await client.call("POST", path, params={"refresh": "true"}, body=body, ndjson=True)
        if answer["errors"]:
            first = next(item["index"] for item in answer["items"] if "error" in item["index"])
            raise TargetBusy(f"the state index {self._index!r} does not take the refused rows: {first['error']}.")

    async def rejects(self, pipeline: str, table: str | None = None, limit: int = 1000) -> list[Reject]:
        found = await self._search("reject", pipeline, table, limit, [{"at": "desc"}])
        return [self._decode(body.encode(), Reject, "a reject") for body in found]

    async def count_rejects(self, pipeline: str) -> dict[str, int]:
        body = {
            "size": 0,
            "query": _query("reject", pipeline, None),
            "aggs": {"t": {"terms": {"field": "table", "size": 10_000}}},
        }
        async with self._line.use() as client:
            answer = await client.call("POST", f"{self._path}/_search", params=_IF_THERE, body=body)
        buckets = answer.get("aggregations", {}).get("t", {}).get("buckets", ())
        return {bucket["key"]: int(bucket["doc_count"]) for bucket in buckets}

    async def clear_rejects(self, pipeline: str, table: str | None = None) -> int:
        return await self._delete(_query("reject", pipeline, table))

    async def add_report(self, report: ScanReport) -> None:
        document = {
            "kind": "report",
            "pipeline": report.pipeline,
            "table": report.table,
            "scan_id": report.scan_id,
            "body": _text(report),
        }
        path = f"{self._path}/_doc/{_identity('report', report.pipeline, report.table, report.scan_id)}"
        async with self._line.use() as client:
            await self._create(client)
            await client.request("PUT", path, params={"refresh": "true"}, body=document)
        query = _query("report", report.pipeline, report.table)
        oldest = await self._search(
            "report", report.pipeline, report.table, 1, _NEWEST, skip=_KEPT_REPORTS, what="scan_id"
        )
        if oldest:
            await self._delete({"bool": {"filter": [query, {"range": {"scan_id": {"lte": oldest[0]}}}]}})

    async def reports(self, pipeline: str | None = None, table: str | None = None, limit: int = 20) -> list[ScanReport]:
        found = await self._search("report", pipeline, table, limit, _NEWEST)
        return [self._decode(body.encode(), ScanReport, "a scan report") for body in found]

    async def _search(
        self,
        kind: str,
        pipeline: str | None,
        table: str | None,
        limit: int,
        sort: list[Any],
        *,
        skip: int = 0,
        what: str = "body",
    ) -> list[str]:
        body = {
            "query": _query(kind, pipeline, table),
            "sort": sort,
            "size": min(limit, _MOST_FOUND - skip),
            "from": skip,
        }
        async with self._line.use() as client:
            answer = await client.call("POST", f"{self._path}/_search", params=_IF_THERE, body=body)
        return [str(hit["_source"][what]) for hit in answer["hits"]["hits"]]

    async def _delete(self, query: dict[str, Any]) -> int:
        params = {**_IF_THERE, "refresh": "true", "conflicts": "proceed"}
        async with self._line.use() as client:
            answer = await client.call("POST", f"{self._path}/_delete_by_query", params=params, body={"query": query})
        return int(answer["deleted"])

    async def aclose(self) -> None:
        await self._line.close()

    def _decode(self, body: bytes, kind: type[T], what: str) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise StateError(f"{what} in {self._index!r} cannot be read ({error}).", remedy=_CORRUPT) from None


_IF_THERE = {"ignore_unavailable": "true"}
_NEWEST = [{"scan_id": "desc"}]


def _query(kind: str, pipeline: str | None, table: str | None) -> dict[str, Any]:
    wanted = {"kind": kind, "pipeline": pipeline, "table": table}
    return {"bool": {"filter": [{"term": {name: value}} for name, value in wanted.items() if value is not None]}}


def _identity(kind: str, *names: str) -> str:
    """The ``_id`` of a document: the same names, the same document, however long they are."""
    return f"{kind}-{hashlib.sha256(msgspec.json.encode(names)).hexdigest()}"


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _checkpoint(saved: _Saved, pipeline: str) -> Checkpoint:
    try:
        checkpoint = msgspec.json.decode(saved.body, type=Checkpoint)
    except msgspec.MsgspecError as error:
        raise StateError(
            f"the checkpoint of table {saved.table!r} in the state store cannot be read ({error}).", remedy=_CORRUPT
        ) from None
    if checkpoint.version > CHECKPOINT_VERSION:
        raise StateError(
            f"the checkpoint of table {saved.table!r} is of version {checkpoint.version}, "
            f"but this retl knows versions up to {CHECKPOINT_VERSION}.",
            remedy="upgrade retl.",
            pipeline=pipeline,
        )
    return checkpoint
