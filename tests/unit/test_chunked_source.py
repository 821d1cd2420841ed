"""The wrapper around a source of documents: what of a scan it passes on, and what it checks itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

import pyarrow as pa
import pytest

from retl.connectors.base import Checkpoint, Scope, Slice, SourceScan
from retl.connectors.documents.source import ChunkedScan
from retl.model.documents import Chunks
from retl.model.errors import SourceError, TransientError
from retl.model.plan import SourcePlan
from retl.testing.rows import table_spec

SCHEMA = pa.schema([("id", pa.int64()), ("body", pa.string())])
TABLE = replace(table_spec("docs", chunks=Chunks()), scope="document")


class Documents(SourceScan):
    """One slice that was counted as ``rows`` documents, of which two come."""

    def __init__(self, *, rows: int, exact: bool = False, there: int | None = None, scope: Scope | None = None) -> None:
        self._there = there
        slice_ = Slice(index=0, rows=rows, divisible=scope is None, scope=scope)
        self.plan = SourcePlan(
            table_spec("docs"), SCHEMA, ("id",), (slice_,), rows=rows, exact_rows=exact, unique_key=True
        )

    async def read(self, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        assert slice_ == self.plan.slices[0]
        yield pa.RecordBatch.from_pylist(
            [{"id": 1, "body": "# A\n\none\n\n# B\n\ntwo"}, {"id": 2, "body": None}], SCHEMA
        )

    async def recount(self, slice_: Slice) -> int | None:
        return self._there


async def read(documents: Documents) -> tuple[ChunkedScan, list[str]]:
    scan = ChunkedScan(documents, TABLE, Checkpoint())
    found = [content async for batch in scan.read(scan.plan.slices[0]) for content in batch["content"].to_pylist()]
    return scan, found


async def test_a_slice_replaces_the_chunks_of_the_documents_that_came() -> None:
    scan, found = await read(Documents(rows=2, exact=True))
    assert found == ["# A\n\none", "# B\n\ntwo"]
    (planned,) = scan.plan.slices
    assert (planned.rows, planned.divisible, planned.scope) == (None, False, None)
    delivered = scan.delivered(planned)
    assert delivered is not None
    assert delivered.scope == Scope("document", ("1", "2"))


async def test_a_scope_of_the_documents_stays_theirs() -> None:
    scan, _ = await read(Documents(rows=2, scope=Scope("id", ("1", "2", "3"))))
    delivered = scan.delivered(scan.plan.slices[0])
    assert delivered is not None
    assert delivered.scope == Scope("document_id", ("1", "2", "3"))


async def test_documents_that_were_counted_and_do_not_come_are_missed() -> None:
    with pytest.raises(SourceError, match="counted 3 rows for this slice and sent 2"):
        await read(Documents(rows=3, exact=True))
    with pytest.raises(TransientError, match="has 3 rows for this slice and sent 2"):
        await read(Documents(rows=3, there=3))


async def test_documents_that_have_gone_since_are_not() -> None:
    assert (await read(Documents(rows=3, there=2)))[1] == ["# A\n\none", "# B\n\ntwo"]
