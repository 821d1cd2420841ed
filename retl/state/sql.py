"""A store in a SQL system: its steps, for every system that can hold its tables.

Each step is a generator that yields ``Statement`` and is sent the answer: the rows of a
SELECT, the number of changed rows of anything else. So the same step runs on a blocking
driver in a thread and on an asyncio driver, alone or inside a transaction that also
carries data.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import anyio.lowlevel
import msgspec

from retl.model.alerts import AlertState
from retl.model.checkpoint import CHECKPOINT_VERSION, Checkpoint, Fence, FencedCheckpoint, Reject
from retl.model.errors import StateError
from retl.model.manifest import ManifestChange, ManifestEntry
from retl.model.plain import time_text
from retl.model.report import ScanReport
from retl.model.steering import Steering
from retl.state import records
from retl.state.base import MANIFEST_PAGE, Claim, LeaseRow, StateStore, lease_lost, start_over
from retl.state.records import add_rejects
from retl.state.statement import Statement, Step, decode, encode, narrowed, of_nothing, short_key
from retl.state.tables import STATE_TABLES, StateDialect, check_version

__all__ = [
    "STATE_TABLES",
    "SqlStore",
    "StateDialect",
    "Statement",
    "Step",
    "add_rejects",
    "beat",
    "check_version",
    "claims",
    "forget",
    "give_up_lease",
    "hear",
    "load",
    "of_nothing",
    "prove",
    "read_lease",
    "read_manifest",
    "read_steering",
    "release_claims",
    "save",
    "save_claim",
    "save_steering",
    "start_over",
    "take_lease",
]

T = TypeVar("T")
_MOST_AT_ONCE = 200
"""Entries of a manifest in one statement: no system takes fewer values."""
_DECODED_AT_ONCE = 1_000
_UNREADABLE_TTL = 30.0


def load(pipeline: str) -> Step[dict[str, Checkpoint]]:
    rows = yield Statement("SELECT table_name, body FROM retl_checkpoints WHERE pipeline = ?", (pipeline,), rows=True)
    found: dict[str, Checkpoint] = {}
    for table, body in rows:
        checkpoint = decode(body, Checkpoint, f"the checkpoint of table {table!r}", start_over(table))
        if checkpoint.version > CHECKPOINT_VERSION:
            raise StateError(
                f"the checkpoint of table {table!r} is of version {checkpoint.version}, "
                f"but this retl knows versions up to {CHECKPOINT_VERSION}.",
                remedy="upgrade retl.",
                pipeline=pipeline,
            )
        found[table] = checkpoint
    return found


def prove(fence: Fence) -> Step[None]:
    """Raise ``LeaseLost`` unless the fence holds. An UPDATE, so that the row stays locked until the commit."""
    changed = yield Statement(
        "UPDATE retl_leases SET beat = beat + 1 WHERE pipeline = ? AND owner = ? AND epoch = ?",
        (fence.pipeline, fence.owner, fence.epoch),
    )
    if changed != 1:
        raise lease_lost(fence)


def save(fenced: FencedCheckpoint) -> Step[None]:
    yield from prove(fenced.fence)
    yield from _save_manifest(fenced)
    values = (fenced.checkpoint.watermark, encode(fenced.checkpoint), fenced.fence.epoch, _now())
    identity = (fenced.fence.pipeline, fenced.table)
    changed = yield Statement(
        "UPDATE retl_checkpoints SET watermark = ?, body = ?, epoch = ?, updated_at = ? WHERE pipeline = ? AND table_name = ?",
        (*values, *identity),
    )
    if changed:
        return
    # Some systems count only changed rows: this one may be there, and be what was to be saved.
    there = yield Statement("SELECT 1 FROM retl_checkpoints WHERE pipeline = ? AND table_name = ?", identity, rows=True)
    if not there:
        yield Statement(
            "INSERT INTO retl_checkpoints (watermark, body, epoch, updated_at, pipeline, table_name) VALUES (?, ?, ?, ?, ?, ?)",
            (*values, *identity),
        )


def _save_manifest(fenced: FencedCheckpoint) -> Step[None]:
    change = fenced.manifest or ManifestChange()
    here = (fenced.fence.pipeline, fenced.table)
    for names in _chunks([*change.remove, *(entry.name for entry in change.put)]):
        marks = ", ".join("?" * len(names))
        yield Statement(
            f"DELETE FROM retl_manifest WHERE pipeline = ? AND table_name = ? AND name IN ({marks})", (*here, *names)
        )
    for entries in _chunks(change.put):
        rows = ", ".join(["(?, ?, ?, ?)"] * len(entries))
        values = [value for entry in entries for value in (*here, entry.name, encode(entry))]
        yield Statement(f"INSERT INTO retl_manifest (pipeline, table_name, name, body) VALUES {rows}", tuple(values))


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _MOST_AT_ONCE):
        yield items[start : start + _MOST_AT_ONCE]


def read_manifest(pipeline: str, table: str, after: str, limit: int) -> Step[list[Any]]:
    """The entries as they are stored."""
    rows = yield Statement(
        "SELECT body FROM retl_manifest WHERE pipeline = ? AND table_name = ? AND name > ? "
        f"ORDER BY name LIMIT {int(limit)}",
        (pipeline, table, after),
        rows=True,
    )
    return [body for (body,) in rows]


def forget(pipeline: str, table: str | None) -> Step[int]:
    yield narrowed("DELETE FROM retl_manifest", pipeline, table)
    count = yield narrowed("DELETE FROM retl_checkpoints", pipeline, table)
    return int(count)


def read_lease(pipeline: str) -> Step[LeaseRow]:
    rows = yield Statement("SELECT owner, epoch, beat, ttl FROM retl_leases WHERE pipeline = ?", (pipeline,), rows=True)
    if not rows:
        return LeaseRow(pipeline, None, 0, 0, 0.0)
    owner, epoch, beat, ttl = rows[0]
    try:
        return LeaseRow(pipeline, owner, int(epoch), int(beat), _seconds(ttl))
    except (TypeError, ValueError) as error:
        name = pipeline.replace("'", "''")
        raise StateError(
            f"the lease of {pipeline!r} in the state store cannot be read ({error}).",
            remedy="make sure that no process runs the pipeline, then run in its database: "
            f"DELETE FROM retl_leases WHERE pipeline = '{name}'",
        ) from None


def _seconds(ttl: Any) -> float:
    """The stored time to live. One that makes no sense becomes the default; the next owner writes its own."""
    try:
        seconds = float(ttl)
    except (TypeError, ValueError):
        return _UNREADABLE_TTL
    return seconds if 0 <= seconds <= 86_400 else _UNREADABLE_TTL


def take_lease(seen: LeaseRow, owner: str, ttl: float) -> Step[Fence | None]:
    if seen.epoch == 0:
        if (yield from read_lease(seen.pipeline)) != seen:
            return None
        yield Statement(
            "INSERT INTO retl_leases (pipeline, owner, epoch, beat, ttl) VALUES (?, ?, 1, 0, ?)",
            (seen.pipeline, owner, ttl),
        )
    else:
        changed = yield Statement(
            "UPDATE retl_leases SET owner = ?, epoch = epoch + 1, beat = 0, ttl = ? WHERE pipeline = ? AND epoch = ? AND beat = ?",
            (owner, ttl, seen.pipeline, seen.epoch, seen.beat),
        )
        if changed != 1:
            return None
    return Fence(seen.pipeline, owner, seen.epoch + 1)


def beat(fence: Fence) -> Step[bool]:
    changed = yield Statement(
        "UPDATE retl_leases SET beat = beat + 1 WHERE pipeline = ? AND owner = ? AND epoch = ?",
        (fence.pipeline, fence.owner, fence.epoch),
    )
    return bool(changed == 1)


def hear(fence: Fence, known: Steering) -> Step[Steering | None]:
    """A beat that says whether there is news: one statement where there is none."""
    changed = yield Statement(
        "UPDATE retl_leases SET beat = beat + 1 WHERE pipeline = ? AND owner = ? AND epoch = ? "
        "AND NOT EXISTS (SELECT 1 FROM retl_steering AS s WHERE s.pipeline = ? AND s.revision <> ?)",
        (fence.pipeline, fence.owner, fence.epoch, fence.pipeline, known.revision),
    )
    if changed == 1:
        return known
    if not (yield from beat(fence)):
        return None
    return (yield from read_steering(fence.pipeline))


def read_steering(pipeline: str) -> Step[Steering]:
    rows = yield Statement("SELECT revision, body FROM retl_steering WHERE pipeline = ?", (pipeline,), rows=True)
    if not rows:
        return Steering()
    name = pipeline.replace("'", "''")
    remedy = f"to pause it no more, run in its database: DELETE FROM retl_steering WHERE pipeline = '{name}'"
    known = decode(rows[0][1], Steering, f"what is asked of {pipeline!r}", remedy)
    return msgspec.structs.replace(known, revision=int(rows[0][0]))


def save_steering(pipeline: str, steering: Steering) -> Step[bool]:
    body = encode(steering)
    if steering.revision:
        changed = yield Statement(
            "UPDATE retl_steering SET revision = revision + 1, body = ? WHERE pipeline = ? AND revision = ?",
            (body, pipeline, steering.revision),
        )
        return int(changed) == 1
    if (yield Statement("SELECT 1 FROM retl_steering WHERE pipeline = ?", (pipeline,), rows=True)):
        return False
    yield Statement("INSERT INTO retl_steering (pipeline, revision, body) VALUES (?, 1, ?)", (pipeline, body))
    return True


def give_up_lease(fence: Fence) -> Step[None]:
    yield Statement(
        "UPDATE retl_leases SET owner = NULL, beat = beat + 1 WHERE pipeline = ? AND owner = ? AND epoch = ?",
        (fence.pipeline, fence.owner, fence.epoch),
    )


def save_alerts(fence: Fence, state: AlertState) -> Step[None]:
    yield from prove(fence)
    yield from records.save_alerts(fence.pipeline, state)


def claims(target: str) -> Step[list[Claim]]:
    rows = yield Statement(
        "SELECT pipeline, table_name, replaces FROM retl_claims WHERE target = ?", (short_key(target),), rows=True
    )
    return [Claim(pipeline, table, target, bool(replaces)) for pipeline, table, replaces in rows]


def save_claim(fence: Fence, claim: Claim) -> Step[None]:
    yield from prove(fence)
    yield narrowed("DELETE FROM retl_claims", claim.pipeline, claim.table)
    yield Statement(
        "INSERT INTO retl_claims (pipeline, table_name, target, replaces) VALUES (?, ?, ?, ?)",
        (claim.pipeline, claim.table, short_key(claim.target), int(claim.replaces)),
    )


def release_claims(pipeline: str, table: str | None) -> Step[int]:
    count = yield narrowed("DELETE FROM retl_claims", pipeline, table)
    return int(count)


class SqlStore(StateStore):
    """A store on a SQL system, which only has to say how to run a step."""

    manifest_page = 125_000

    @abstractmethod
    async def _step(self, make: Callable[[], Step[T]], *, write: bool = True, single: bool = False) -> T:
        """Run a step in a transaction of its own. ``make`` is called again for a retry.

        ``single``: at most one of its statements writes, and may run twice, so it needs no transaction.
        """

    async def load(self, pipeline: str) -> dict[str, Checkpoint]:
        return await self._step(lambda: load(pipeline), write=False)

    async def save(self, fenced: FencedCheckpoint) -> None:
        await self._step(lambda: save(fenced))

    async def read_manifest(
        self, pipeline: str, table: str, after: str = "", limit: int = MANIFEST_PAGE
    ) -> list[ManifestEntry]:
        return _entries(table, await self._bodies(pipeline, table, after, limit))

    async def manifest(self, pipeline: str, table: str) -> AsyncGenerator[ManifestEntry, None]:
        after = ""
        while True:
            bodies = await self._bodies(pipeline, table, after, self.manifest_page)
            # A page is decoded as it is asked for: as a whole it takes more memory, and longer than a loop may wait.
            for start in range(0, len(bodies), _DECODED_AT_ONCE):
                for entry in _entries(table, bodies[start : start + _DECODED_AT_ONCE]):
                    yield entry
                    after = entry.name
                await anyio.lowlevel.checkpoint()
            if len(bodies) < self.manifest_page:
                return
            bodies = []  # two pages are never in memory at once

    async def _bodies(self, pipeline: str, table: str, after: str, limit: int) -> list[Any]:
        return await self._step(lambda: read_manifest(pipeline, table, after, limit), write=False)

    async def forget(self, pipeline: str, table: str | None = None) -> int:
        return await self._step(lambda: forget(pipeline, table))

    async def read_lease(self, pipeline: str) -> LeaseRow:
        return await self._step(lambda: read_lease(pipeline), write=False)

    async def take_lease(self, seen: LeaseRow, owner: str, ttl: float) -> Fence | None:
        return await self._step(lambda: take_lease(seen, owner, ttl), single=True)

    async def beat(self, fence: Fence) -> bool:
        return await self._step(lambda: beat(fence), single=True)

    async def hear(self, fence: Fence, known: Steering) -> Steering | None:
        return await self._step(lambda: hear(fence, known), single=True)

    async def read_steering(self, pipeline: str) -> Steering:
        return await self._step(lambda: read_steering(pipeline), write=False)

    async def save_steering(self, pipeline: str, steering: Steering) -> bool:
        return await self._step(lambda: save_steering(pipeline, steering))

    async def give_up_lease(self, fence: Fence) -> None:
        await self._step(lambda: give_up_lease(fence), single=True)

    async def read_alerts(self, pipeline: str) -> AlertState:
        return await self._step(lambda: records.read_alerts(pipeline), write=False)

    async def save_alerts(self, fence: Fence, state: AlertState) -> None:
        await self._step(lambda: save_alerts(fence, state))

    async def claims(self, target: str) -> list[Claim]:
        return await self._step(lambda: claims(target), write=False)

    async def claim(self, fence: Fence, claim: Claim) -> None:
        await self._step(lambda: save_claim(fence, claim))

    async def release_claims(self, pipeline: str, table: str | None = None) -> int:
        return await self._step(lambda: release_claims(pipeline, table))

    async def add_rejects(self, pipeline: str, rejects: Sequence[Reject]) -> None:
        await self._step(lambda: records.add_rejects(pipeline, rejects))

    async def rejects(self, pipeline: str, table: str | None = None, limit: int = 1000) -> list[Reject]:
        return await self._step(lambda: records.rejects(pipeline, table, limit), write=False)

    async def count_rejects(self, pipeline: str) -> dict[str, int]:
        return await self._step(lambda: records.count_rejects(pipeline), write=False)

    async def clear_rejects(self, pipeline: str, table: str | None = None) -> int:
        return await self._step(lambda: records.clear_rejects(pipeline, table))

    async def prune_rejects(self, pipeline: str, before: datetime, most: int) -> None:
        await self._step(lambda: records.prune_rejects(pipeline, before, most))

    async def add_report(self, report: ScanReport) -> None:
        await self._step(lambda: records.add_report(report))

    async def reports(self, pipeline: str | None = None, table: str | None = None, limit: int = 20) -> list[ScanReport]:
        return await self._step(lambda: records.reports(pipeline, table, limit), write=False)

    async def last_reports(self, pipeline: str) -> dict[str, ScanReport]:
        return await self._step(lambda: records.last_reports(pipeline), write=False)


def _entries(table: str, bodies: Sequence[Any]) -> list[ManifestEntry]:
    what, remedy = f"the manifest of table {table!r}", start_over(table)
    return [decode(body, ManifestEntry, what, remedy) for body in bodies]


def _now() -> str:
    return time_text(datetime.now(UTC))
