"""The state store in an index of the target.

Elasticsearch has no transactions, but it compares and sets one document. So a pipeline is
*one* document: its lease and all its checkpoints. A checkpoint is saved only over the very
document in which the lease was seen to hold; there is no moment between the proof of the
fence and the save. Rejects and reports are documents of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import msgspec

from retl.connectors.elasticsearch.connection import Client
from retl.connectors.elasticsearch.state.index import History, identity, text
from retl.model.checkpoint import CHECKPOINT_VERSION, Checkpoint, Fence, FencedCheckpoint
from retl.model.errors import StateError, TargetBusy
from retl.model.manifest import ManifestEntry
from retl.state.base import MANIFEST_PAGE, STATE_VERSION, Claim, LeaseRow
from retl.state.memory import lease_lost
from retl.state.sql import start_over

T = TypeVar("T")
_TRIES = 50
"""How often a document is tried to be set while somebody else sets it too."""
_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


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


class ElasticsearchStore(History):
    """Checkpoints in a hidden index of the cluster that the target writes. It is created by the first who writes it."""

    async def load(self, pipeline: str) -> dict[str, Checkpoint]:
        async with self._line.use() as client:
            state, _ = await self._read(client, pipeline)
        return {saved.table: _checkpoint(saved, pipeline) for saved in state.checkpoints}

    async def save(self, fenced: FencedCheckpoint) -> None:
        def change(state: _State) -> bool:
            if not state.holds(fenced.fence):
                raise lease_lost(fenced.fence)
            others = [saved for saved in state.checkpoints if saved.table != fenced.table]
            state.checkpoints = [*others, _Saved(fenced.table, text(fenced.checkpoint))]
            return True

        await self._change(fenced.fence.pipeline, change, lambda state: None)

    async def read_manifest(
        self, pipeline: str, table: str, after: str = "", limit: int = MANIFEST_PAGE
    ) -> list[ManifestEntry]:
        return []

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

    async def holds(self, fence: Fence) -> bool:
        """Whether an owner still is the owner."""
        async with self._line.use() as client:
            state, _ = await self._read(client, fence.pipeline)
        return state.holds(fence)

    async def claim(self, fence: Fence, claim: Claim) -> None:
        # Not compared and set with the lease: a claim that a former owner is late with stops a scan, and spoils none.
        if not await self.holds(fence):
            raise lease_lost(fence)
        await self._put_claim(claim)

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
                path = f"{self._path}/_doc/{identity('pipeline', pipeline)}"
                answer = await client.request("PUT", path, params=params, body=body, allow=(409,))
                if answer.status != 409:
                    self._check_kept(answer.json())
                    return result(state)
        raise TargetBusy(
            f"the state of {pipeline!r} in {self._index!r} is changed by somebody else all the time.",
            remedy="see who else runs a pipeline of this name; the scan is tried again.",
        )

    async def _read(self, client: Client, pipeline: str) -> tuple[_State, _Found]:
        """The document of a pipeline, as of this moment, and what it must still be when it is set."""
        path = f"{self._path}/_doc/{identity('pipeline', pipeline)}"
        # An index that somebody has created a moment ago cannot answer at once.
        for pause in _PAUSES:
            answer = await client.request("GET", path, allow=(404, 503))
            if answer.status != 503:
                break
            await anyio.sleep(pause)
        else:
            answer = await client.request("GET", path, allow=(404,))
        there = (
            _Found()
            if answer.status == 404
            else self._decode(answer.body, _Found, "the answer", "see what stands between retl and the server.")
        )
        if not there.found:
            return _State(pipeline=pipeline), there
        remedy = (
            "restore it from a snapshot; or make sure that no process runs the pipeline, and start over by: "
            f"DELETE {path}"
        )
        state = self._decode(bytes(there.source), _State, f"the state of {pipeline!r}", remedy)
        if state.version > STATE_VERSION:
            raise StateError(
                f"the state in {self._index!r} is of version {state.version}, but this retl knows versions up to {STATE_VERSION}.",
                remedy="upgrade retl, or name another state_index.",
                pipeline=pipeline,
            )
        return state, there


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
