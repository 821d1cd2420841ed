"""What the tests of state stores write into them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio

from retl.model.backfills import BackfillStatus
from retl.model.checkpoint import Backfill, Backfilled, Checkpoint, Fence, Refresh, Reject
from retl.model.manifest import LONGEST_NAME, ManifestEntry
from retl.model.report import ScanReport
from retl.model.steering import Command, Steering
from retl.model.window import Position
from retl.state.base import LeaseRow, StateStore

RICH = Checkpoint(
    cursor="updated_at",
    cursor_type="timestamp(6)",
    watermark="2024-02-29 23:59:59.123456789+05:30",
    position=Position("1", "2", 7, 3, "2"),
    refresh=Refresh("s1", "rename_and_create", archives=False),
    scan_id="s1",
    columns={"id": "bigint", "naïve": "text", "a'b\\": "😀?"},
    detail={"files": {"a/😀.csv": ["etag", 12]}},
    backfill=Backfill(
        since="2024-01-01", cursor="updated_at", selection="s", done="2024-01-02", rows=7, rows_planned=9
    ),
    backfilled=Backfilled("b1", 2**40),
)
PAUSED = Steering(
    paused_since=datetime(2024, 2, 29, 23, 59, 59, 123456, UTC),
    by="it's \\me 😀",
    commands=(
        Command(id="a1", word="trigger", epoch=3, table="naïve 'table\\", at=datetime(2024, 3, 1, tzinfo=UTC), by="me"),
        Command(id="a2", word="stop", epoch=3, at=datetime(2024, 3, 1, 0, 0, 1, tzinfo=UTC), by="you", grace=0.5),
    ),
    backfills=(
        BackfillStatus(
            id="b1", table="naïve 'table\\", since="2024-03-01", at=datetime(2024, 3, 1, tzinfo=UTC), by="me"
        ),
        BackfillStatus(
            id="b2",
            table="😀",
            until="9" * 30,
            state="failed",
            at=datetime(2024, 3, 1, 0, 0, 1, 5, tzinfo=UTC),
            by="you",
            epoch=2**40,
            started_at=datetime(2024, 3, 1, 0, 0, 2, tzinfo=UTC),
            ended_at=datetime(2024, 3, 1, 0, 0, 3, tzinfo=UTC),
            rows=2**40,
            error="no \\ 'answer'",
        ),
    ),
)
NAMES = [
    "A",
    "a",
    "b/ü.csv",
    "b/é",
    "Z z",
    "z",
    "\uffee",
    "🙂",
    " lead",
    "tail ",
    'q"\\\n%_',
    "x" * LONGEST_NAME,
    "é" * 512,
]
"""Names of entries: their order by code points is that of no collation, and not that of UTF-16 either."""


async def owned(store: StateStore, pipeline: str = "p", owner: str = "me") -> Fence:
    """The fence of an owner that takes the pipeline over."""
    fence = await store.take_lease(await store.read_lease(pipeline), owner, 15.0)
    assert fence is not None
    return fence


async def race(stores: Sequence[StateStore], seen: LeaseRow) -> list[Fence]:
    """Those that got the lease, when all of them take it at once."""
    won: list[Fence | None] = []

    async def take(store: StateStore, owner: str) -> None:
        won.append(await store.take_lease(seen, owner, 15.0))

    async with anyio.create_task_group() as tasks:
        for number, store in enumerate(stores):
            tasks.start_soon(take, store, f"owner {number}")
    return [fence for fence in won if fence is not None]


def report(number: int, pipeline: str = "p", table: str = "t", **more: Any) -> ScanReport:
    """The report of a scan; its number gives its time."""
    return ScanReport(
        pipeline=pipeline,
        table=table,
        to=table,
        scan_id=f"scan-{number:06d}",
        status="done",
        mode="full",
        started_at=datetime(2024, 1, 1, 0, 0, 0, number, tzinfo=UTC),
        seconds=0.5,
        **more,
    )


def reject(key: str, at: int, table: str = "t", reason: str = "too long") -> Reject:
    """A rejected row; ``at`` gives its time."""
    return Reject(
        table=table,
        key=key,
        reason=reason,
        content=f'{{"id":"{key}"}}',
        column="name",
        scan_id="s",
        at=moment(at),
    )


def moment(number: int) -> datetime:
    """The time of day of a number of seconds."""
    return datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=number)


def entry(name: str, identity: str = "1", **more: Any) -> ManifestEntry:
    return ManifestEntry(name=name, identity=identity, **more)
