"""Rows that a source marks as rejects never reach the target, and count as rejects of their commit."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pytest

from retl.connectors.base import CommitResult, RowReject, TableWriter, with_rejects
from retl.engine.guard import apply_null_cursor
from retl.engine.rejects import SourceRejects
from retl.model.checkpoint import Checkpoint, Fence, FencedCheckpoint, Reject
from retl.model.errors import RowsRejected
from retl.model.plan import WriteSpec
from retl.model.window import Slice
from retl.state.memory import MemoryStore
from retl.testing import table_spec

SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string())])
LOAD = WriteSpec(pipeline="p", table=table_spec("t"), schema=SCHEMA, key=("id",), scan_id="s", checkpoint=Checkpoint())
PART = Slice(index=0)
BAD = RowReject("the reason", '{"id":2}', "name")


def batch(*names: str | None, rejects: Sequence[int] = ()) -> pa.RecordBatch:
    found = pa.RecordBatch.from_arrays(
        [pa.array(range(len(names)), pa.int64()), pa.array(names, pa.string())], schema=SCHEMA
    )
    return with_rejects(found, dict.fromkeys(rejects, BAD))


class Kept(TableWriter):
    """Keeps what it is given; a row named ``refused`` it refuses."""

    def __init__(self) -> None:
        self.names: list[str | None] = []
        self.allowed: list[int] = []
        self.begun: list[Slice] = []

    async def begin(self, slice_: Slice) -> None:
        self.begun.append(slice_)

    async def write(self, batch: pa.RecordBatch) -> None:
        assert batch.schema.equals(SCHEMA)
        self.names += batch.column("name").to_pylist()

    async def discard(self) -> None:
        self.names.clear()

    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        self.allowed.append(rejects_left)
        theirs = [Reject(table="t", key="k", reason="r", content="c") for name in self.names if name == "refused"]
        if len(theirs) > rejects_left:
            error = RowsRejected("too many")
            error.rejects = theirs
            raise error
        return CommitResult(len(self.names), rejects=theirs)

    async def count(self) -> int:
        return len(self.names)

    async def finish(self, fenced: FencedCheckpoint | None) -> None: ...

    async def abort(self) -> None: ...


async def test_they_are_put_aside_and_counted() -> None:
    kept = Kept()
    writer = SourceRejects(kept, LOAD, MemoryStore())
    await writer.begin(PART)
    await writer.write(batch("a", "b", "refused", rejects=[1]))
    await writer.write(batch("c"))
    done = await writer.commit(None, PART, 2)
    assert kept.begun == [PART]
    assert kept.names == ["a", "refused", "c"]
    assert kept.allowed == [1]
    assert done.rows == 4
    (mine, theirs) = done.rejects
    assert (mine.table, mine.key, mine.reason, mine.content, mine.column) == (
        "t",
        '{"id":"1"}',
        "the reason",
        '{"id":2}',
        "name",
    )
    assert theirs.key == "k"
    assert (await writer.commit(None, PART, 2)).rejects == (theirs,)


async def test_with_more_than_are_allowed_nothing_is_committed() -> None:
    kept = Kept()
    writer = SourceRejects(kept, LOAD, MemoryStore())
    await writer.write(batch("a", "b", rejects=[0, 1]))
    with pytest.raises(
        RowsRejected, match=r"2 rows with a value that no target can store .*max_rejects allows 1 more"
    ) as error:
        await writer.commit(None, PART, 1)
    assert len(error.value.rejects) == 2
    assert kept.allowed == []
    await writer.discard()
    await writer.write(batch("a", "refused", "b", rejects=[0]))
    with pytest.raises(RowsRejected, match="too many") as error:
        await writer.commit(None, PART, 1)
    assert [each.key for each in error.value.rejects] == ['{"id":"0"}', "k"]


async def test_a_target_that_holds_the_state_keeps_them_too() -> None:
    store = MemoryStore()
    writer = SourceRejects(Kept(), LOAD, store)
    await writer.write(batch("a", rejects=[0]))
    await writer.commit(FencedCheckpoint(Fence("p", "me", 1), "t", Checkpoint()), PART, 1)
    assert [each.reason for each in await store.rejects("p")] == ["the reason"]


def test_a_reject_without_a_cursor_is_a_reject_all_the_same() -> None:
    found, rows = apply_null_cursor(table_spec("t", cursor="name"), batch("a", None, None, rejects=[1]), "name")
    assert rows == 1
    assert found.column("id").to_pylist() == [0, 1]
