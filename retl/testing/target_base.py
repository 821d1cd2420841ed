"""What the author of a target gives to its contract suite, and how the suite plays the engine."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from retl.connectors.base import CommitResult, TableWriter, Target
from retl.model.actions import PreAction
from retl.model.checkpoint import Checkpoint, Fence, FencedCheckpoint, Refresh
from retl.model.plan import WriteSpec
from retl.model.table import TableSpec
from retl.model.window import Slice
from retl.state.base import StateStore
from retl.testing.rows import table_spec
from retl.testing.source_base import SCHEMA, TABLE, Row, rows_of, table_of

PIPELINE = "contract"
UPSERT = table_spec(TABLE, cursor="updated_at", key="id")
FIRST = "20240501T120000.000001-aaaaaa"
"""The scan in which a refresh began. Identifiers of scans begin with their time."""


class TargetBase:
    """The hooks. A suite's object lives for one test, so what a test sets up may be kept in attributes."""

    pytestmark: ClassVar[Any] = [pytest.mark.anyio]

    transactional: ClassVar[bool] = True
    """Whether checkpoints live in the target, and a commit proves the fence with them."""
    stages: ClassVar[bool] = True
    """Whether staged rows are hidden and can be forgotten; otherwise they are written at once, by their key."""
    has_tables: ClassVar[bool] = True
    """Whether there are tables that can be described, counted, created and changed."""
    pre_actions: ClassVar[frozenset[PreAction]] = frozenset(PreAction)
    """Those that the target can do."""
    keyed: ClassVar[bool] = True
    """Whether an upsert needs a key, and a row with NULL in the key is a reject."""
    rejected: ClassVar[Row] = {"id": None, "name": "a row without a key", "updated_at": None}
    """A row that the target must reject."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    def target(self) -> Target:
        """A new target object on the system under test; the suite closes it."""
        raise NotImplementedError

    async def contents(self, table: str) -> list[Row]:
        """The rows of a table, read by other means than the target; empty if the table does not exist."""
        raise NotImplementedError

    async def tables(self) -> list[str]:
        """The names of all tables there are, those of a half-done load included, those of the state store not."""
        raise NotImplementedError

    def unreachable(self) -> Target | None:
        """A target whose system does not answer; ``None`` where that cannot be."""
        return None

    # For the tests ----------------------------------------------------------

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """The engine's side of one owner of the pipeline. A second one takes the lease away from the first."""
        async with Session.of(self.target()) as session:
            yield session

    async def loaded(self, rows: Sequence[Row], table: TableSpec = UPSERT) -> None:
        """Fill the suite's table by a whole scan."""
        async with self.session() as session:
            await session.scan(rows, table)

    def needs(self, what: bool, reason: str) -> None:
        if not what:
            pytest.skip(reason)

    def needs_transactions(self) -> None:
        self.needs(self.transactional, "this target has no transactions")

    def needs_staging(self) -> None:
        self.needs(self.transactional and self.stages, "this target stages nothing")

    def needs_tables(self) -> None:
        self.needs(self.has_tables, "this target has no tables")

    def needs_pre_action(self, pre_action: PreAction) -> None:
        self.needs(pre_action in self.pre_actions, f"this target cannot {pre_action}")


class Session:
    """Calls a target as the engine does."""

    def __init__(self, target: Target, store: StateStore | None, fence: Fence) -> None:
        self.target = target
        self.store = store
        self.fence = fence
        self._loads: list[tuple[TableWriter, AbstractAsyncContextManager[TableWriter]]] = []

    @classmethod
    @asynccontextmanager
    async def of(cls, target: Target) -> AsyncGenerator[Session, None]:
        """A session with the next fence; loads that are still open at its end are aborted, and the target is closed."""
        session = None
        try:
            session = await cls.begin(target)
            yield session
        finally:
            if session is not None:
                await session.leave()
            await target.aclose()

    @classmethod
    async def begin(cls, target: Target) -> Session:
        store = target.state_store()
        if store is None:
            return cls(target, None, Fence(PIPELINE, "suite", 1))
        fence = await store.take_lease(await store.read_lease(PIPELINE), "suite", 30.0)
        assert fence is not None
        return cls(target, store, fence)

    def load(self, table: TableSpec = UPSERT, *, schema: pa.Schema = SCHEMA, **words: Any) -> WriteSpec:
        """A scan of one table; ``words`` are those of ``WriteSpec``."""
        given = {
            "pipeline": PIPELINE,
            "table": table,
            "schema": schema,
            "key": table.key,
            "scan_id": FIRST,
            "fence": self.fence,
            "state_in_target": self.store is not None,
            "unique_key": False,
            **words,
        }
        return WriteSpec(**given)

    def fenced(self, watermark: str | None, *, refresh: Refresh | None = None) -> FencedCheckpoint | None:
        """A checkpoint on its way into the target, where that holds them."""
        if self.store is None:
            return None
        checkpoint = Checkpoint(cursor="updated_at", watermark=watermark, scan_id=FIRST, refresh=refresh)
        return FencedCheckpoint(self.fence, TABLE, checkpoint)

    async def checkpoint(self) -> Checkpoint | None:
        """What the target remembers of the table."""
        assert self.store is not None
        return (await self.store.load(PIPELINE)).get(TABLE)

    async def prepare(self, spec: WriteSpec | None = None, *, crash: bool = False) -> TableWriter:
        """Open a load as the engine does: a refresh that readers see is noted together with the pre-action.

        With ``crash`` it is never left, as if the process had died.
        """
        spec = spec or self.load()
        begun = None
        if spec.table.pre_action in (PreAction.TRUNCATE, PreAction.RENAME_AND_CREATE):
            if spec.refresh is None:
                existed = await self.target.describe(spec.table.to) is not None
                spec = with_refresh(spec, Refresh(spec.scan_id, str(spec.table.pre_action), existed))
            begun = self.fenced(None, refresh=spec.refresh)
        load = self.target.open_load(spec, begun)
        if crash:
            with _never_finalized():
                return await load.__aenter__()
        writer = await load.__aenter__()
        self._loads.append((writer, load))
        return writer

    async def commit(
        self, writer: TableWriter, watermark: str | None = None, *, rejects_left: int = 0, slice_: Slice | None = None
    ) -> CommitResult:
        return await writer.commit(self.fenced(watermark), slice_ or Slice(index=0), rejects_left)

    async def finish(self, writer: TableWriter, watermark: str | None = None) -> None:
        """Finish a load and leave it."""
        await writer.finish(self.fenced(watermark))
        await self.abort(writer)

    async def abort(self, writer: TableWriter) -> None:
        """Leave a load; one that was left already stays so."""
        for number, (opened, load) in enumerate(self._loads):
            if opened is writer:
                del self._loads[number]
                await load.__aexit__(None, None, None)
                return

    async def leave(self) -> None:
        """Leave every load that is open, the last one first."""
        for writer, _ in reversed(self._loads):
            await self.abort(writer)

    async def scan(
        self, rows: Iterable[Row], table: TableSpec = UPSERT, *, watermark: str | None = None, **words: Any
    ) -> CommitResult:
        """A whole scan of one slice."""
        writer = await self.prepare(self.load(table, **words))
        try:
            await write(writer, rows)
            done = await self.commit(writer, watermark)
            await self.finish(writer, watermark)
        finally:
            await self.abort(writer)
        return done


@contextmanager
def _never_finalized() -> Iterator[None]:
    """Generators that begin here are dropped as they stand: none of their clean-up runs, as in a process that dies."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter=None, finalizer=lambda _: None)
    try:
        yield
    finally:
        sys.set_asyncgen_hooks(*hooks)


def with_refresh(spec: WriteSpec, refresh: Refresh) -> WriteSpec:
    """The load as the scan that a refresh began with, or that carries it on."""
    words = {name: getattr(spec, name) for name in WriteSpec.__dataclass_fields__}
    return WriteSpec(**{**words, "refresh": refresh})


async def write(
    writer: TableWriter, rows: Iterable[Row], schema: pa.Schema = SCHEMA, *, slice_: Slice | None = None
) -> None:
    """Stage rows of a slice, in batches of at most a thousand."""
    await writer.begin(slice_ or Slice(index=0))
    for batch in pa.Table.from_pylist(list(rows), schema=schema).to_batches(max_chunksize=1000):
        await writer.write(batch)


__all__ = [
    "FIRST",
    "SCHEMA",
    "TABLE",
    "UPSERT",
    "Session",
    "TargetBase",
    "rows_of",
    "table_of",
    "with_refresh",
    "write",
]
