"""The store's tables and statements as data, for every SQL system that can hold them.

Each step is a generator that yields ``Statement`` and is sent the answer: the rows of a
SELECT, the number of changed rows of anything else. So the same step runs on a blocking
driver in a thread and on an asyncio driver, alone or inside a transaction that also
carries data.
"""

from __future__ import annotations

import hashlib
import shlex
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar, get_args

import msgspec

from retl.model.checkpoint import CHECKPOINT_VERSION, Checkpoint, Fence, FencedCheckpoint, Reject
from retl.model.errors import StateError
from retl.model.manifest import ManifestChange, ManifestEntry
from retl.model.report import ScanReport, ScanStatus
from retl.state.base import MANIFEST_PAGE, STATE_VERSION, Claim, LeaseRow, StateStore, unreadable_report
from retl.state.memory import lease_lost

T = TypeVar("T")
_KEPT_REPORTS = 1000
_LONGEST_KEY = 255
_MOST_AT_ONCE = 200
"""Entries of a manifest in one statement: no system takes fewer values."""
_UNREADABLE_TTL = 30.0


class Statement(NamedTuple):
    """SQL with ``?`` for each value. ``rows`` tells whether it answers with rows or with a count."""

    sql: str
    values: tuple[Any, ...] = ()
    rows: bool = False


Step = Generator[Statement, Any, T]


@dataclass(frozen=True)
class StateDialect:
    """How a system spells the store's tables."""

    key_type: str = "TEXT"
    text_type: str = "TEXT"
    integer_type: str = "BIGINT"
    real_type: str = "DOUBLE PRECISION"
    name_type: str = ""
    """For texts of up to 1,024 bytes in a key, ordered by their bytes; ``key_type`` where it can do that."""
    table_suffix: str = ""

    def create(self) -> list[str]:
        """The DDL of the store. Safe to run again."""
        key, text, integer, real = self.key_type, self.text_type, self.integer_type, self.real_type
        tables = {
            "retl_meta": f"name {key} NOT NULL PRIMARY KEY, value {text} NOT NULL",
            "retl_checkpoints": (
                f"pipeline {key} NOT NULL, table_name {key} NOT NULL, watermark {text}, body {text} NOT NULL, "
                f"epoch {integer} NOT NULL, updated_at {text} NOT NULL, PRIMARY KEY (pipeline, table_name)"
            ),
            "retl_manifest": (
                f"pipeline {key} NOT NULL, table_name {key} NOT NULL, name {self.name_type or key} NOT NULL, body {text} NOT NULL, "
                "PRIMARY KEY (pipeline, table_name, name)"
            ),
            "retl_leases": (
                f"pipeline {key} NOT NULL PRIMARY KEY, owner {text}, epoch {integer} NOT NULL, beat {integer} NOT NULL, ttl {real} NOT NULL"
            ),
            "retl_claims": (
                f"pipeline {key} NOT NULL, table_name {key} NOT NULL, target {key} NOT NULL, replaces {integer} NOT NULL, "
                "PRIMARY KEY (pipeline, table_name)"
            ),
            "retl_rejects": (
                f"pipeline {key} NOT NULL, table_name {key} NOT NULL, row_key {key} NOT NULL, rejected_at {key} NOT NULL, "
                f"reason {text} NOT NULL, body {text} NOT NULL, PRIMARY KEY (pipeline, table_name, row_key)"
            ),
            "retl_scans": (
                f"pipeline {key} NOT NULL, table_name {key} NOT NULL, scan_id {key} NOT NULL, started_at {key} NOT NULL, "
                f"status {text} NOT NULL, body {text} NOT NULL, PRIMARY KEY (pipeline, table_name, scan_id)"
            ),
        }
        return [f"CREATE TABLE IF NOT EXISTS {name} ({columns}){self.table_suffix}" for name, columns in tables.items()]


STATE_TABLES = (
    "retl_meta",
    "retl_checkpoints",
    "retl_manifest",
    "retl_leases",
    "retl_claims",
    "retl_rejects",
    "retl_scans",
)
"""The tables that a store inside a target adds to it; never listed as tables to sync."""


def check_version() -> Step[None]:
    """Refuse a store that a newer retl has written; stamp a new one."""
    rows = yield Statement("SELECT value FROM retl_meta WHERE name = 'version'", rows=True)
    if not rows:
        yield Statement("INSERT INTO retl_meta (name, value) VALUES ('version', ?)", (str(STATE_VERSION),))
    elif not str(rows[0][0]).isdigit():
        raise StateError(
            f"the state store says its version is {rows[0][0]!r}.",
            remedy="restore it from a backup; or, if no newer retl has ever used it, run in its database: "
            f"UPDATE retl_meta SET value = '{STATE_VERSION}' WHERE name = 'version'",
        )
    elif int(rows[0][0]) > STATE_VERSION:
        raise StateError(
            f"the state store is of version {rows[0][0]}, but this retl knows versions up to {STATE_VERSION}.",
            remedy="upgrade retl, or name another store.",
        )


def start_over(table: str) -> str:
    """What to do about a checkpoint that is damaged."""
    return (
        f"restore it from a backup, or run `retl reset --table {shlex.quote(table)}` to start over: the table is then "
        "read in full once, which an upsert absorbs."
    )


def of_nothing(step: Step[T]) -> T:
    """What a step that reads finds where there are no tables."""
    answer: Any = None
    while True:
        try:
            step.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        answer = []


def _decode(body: Any, kind: type[T], what: str, remedy: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise StateError(f"{what} in the state store cannot be read ({error}).", remedy=remedy) from None


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def load(pipeline: str) -> Step[dict[str, Checkpoint]]:
    rows = yield Statement("SELECT table_name, body FROM retl_checkpoints WHERE pipeline = ?", (pipeline,), rows=True)
    found: dict[str, Checkpoint] = {}
    for table, body in rows:
        checkpoint = _decode(body, Checkpoint, f"the checkpoint of table {table!r}", start_over(table))
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
    values = (fenced.checkpoint.watermark, _encode(fenced.checkpoint), fenced.fence.epoch, _now())
    identity = (fenced.fence.pipeline, fenced.table)
    # Asked for, and not seen by what an UPDATE counts: some systems count only rows that it made different.
    known = yield Statement("SELECT 1 FROM retl_checkpoints WHERE pipeline = ? AND table_name = ?", identity, rows=True)
    if known:
        yield Statement(
            "UPDATE retl_checkpoints SET watermark = ?, body = ?, epoch = ?, updated_at = ? WHERE pipeline = ? AND table_name = ?",
            (*values, *identity),
        )
    else:
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
        values = [value for entry in entries for value in (*here, entry.name, _encode(entry))]
        yield Statement(f"INSERT INTO retl_manifest (pipeline, table_name, name, body) VALUES {rows}", tuple(values))


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _MOST_AT_ONCE):
        yield items[start : start + _MOST_AT_ONCE]


def read_manifest(pipeline: str, table: str, after: str, limit: int) -> Step[list[ManifestEntry]]:
    rows = yield Statement(
        "SELECT body FROM retl_manifest WHERE pipeline = ? AND table_name = ? AND name > ? "
        f"ORDER BY name LIMIT {int(limit)}",
        (pipeline, table, after),
        rows=True,
    )
    what = f"the manifest of table {table!r}"
    return [_decode(body, ManifestEntry, what, start_over(table)) for (body,) in rows]


def forget(pipeline: str, table: str | None) -> Step[int]:
    yield _narrowed("DELETE FROM retl_manifest", pipeline, table)
    count = yield _narrowed("DELETE FROM retl_checkpoints", pipeline, table)
    return int(count)


def _narrowed(start: str, pipeline: str, table: str | None, end: str = "", rows: bool = False) -> Statement:
    values: tuple[Any, ...] = (pipeline,)
    sql = f"{start} WHERE pipeline = ?"
    if table is not None:
        sql, values = sql + " AND table_name = ?", (*values, table)
    return Statement(sql + end, values, rows=rows)


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
    """A time to live as it was stored; one that makes no sense is taken for an ordinary one, and the next owner writes its own."""
    try:
        seconds = float(ttl)
    except (TypeError, ValueError):
        return _UNREADABLE_TTL
    return seconds if 0 <= seconds <= 86_400 else _UNREADABLE_TTL


def take_lease(seen: LeaseRow, owner: str, ttl: float) -> Step[Fence | None]:
    current = yield from read_lease(seen.pipeline)
    if current != seen:
        return None
    if seen.epoch == 0:
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


def give_up_lease(fence: Fence) -> Step[None]:
    yield Statement(
        "UPDATE retl_leases SET owner = NULL, beat = beat + 1 WHERE pipeline = ? AND owner = ? AND epoch = ?",
        (fence.pipeline, fence.owner, fence.epoch),
    )


def claims(target: str) -> Step[list[Claim]]:
    rows = yield Statement(
        "SELECT pipeline, table_name, replaces FROM retl_claims WHERE target = ?", (_short(target),), rows=True
    )
    return [Claim(pipeline, table, target, bool(replaces)) for pipeline, table, replaces in rows]


def save_claim(fence: Fence, claim: Claim) -> Step[None]:
    yield from prove(fence)
    yield _narrowed("DELETE FROM retl_claims", claim.pipeline, claim.table)
    yield Statement(
        "INSERT INTO retl_claims (pipeline, table_name, target, replaces) VALUES (?, ?, ?, ?)",
        (claim.pipeline, claim.table, _short(claim.target), int(claim.replaces)),
    )


def release_claims(pipeline: str, table: str | None) -> Step[int]:
    count = yield _narrowed("DELETE FROM retl_claims", pipeline, table)
    return int(count)


def add_rejects(pipeline: str, rejects: Sequence[Reject]) -> Step[None]:
    for reject in rejects:
        identity = (pipeline, reject.table, _short(reject.key))
        yield Statement("DELETE FROM retl_rejects WHERE pipeline = ? AND table_name = ? AND row_key = ?", identity)
        yield Statement(
            "INSERT INTO retl_rejects (pipeline, table_name, row_key, rejected_at, reason, body) VALUES (?, ?, ?, ?, ?, ?)",
            (*identity, reject.at, reject.reason, _encode(reject)),
        )


def _short(key: str) -> str:
    """A key at a length that every system takes into an index, and different where the key is."""
    if len(key) <= _LONGEST_KEY:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f"{key[: _LONGEST_KEY - len(digest) - 1]}#{digest}"


def rejects(pipeline: str, table: str | None, limit: int) -> Step[list[Reject]]:
    rows = yield _narrowed(
        "SELECT body FROM retl_rejects",
        pipeline,
        table,
        f" ORDER BY rejected_at DESC, row_key LIMIT {int(limit)}",
        rows=True,
    )
    remedy = "run `retl rejects --clear` to forget the rejects."
    return [_decode(body, Reject, "a reject", remedy) for (body,) in rows]


def count_rejects(pipeline: str) -> Step[dict[str, int]]:
    rows = yield Statement(
        "SELECT table_name, COUNT(*) FROM retl_rejects WHERE pipeline = ? GROUP BY table_name", (pipeline,), rows=True
    )
    return {table: int(count) for table, count in rows}


def clear_rejects(pipeline: str, table: str | None) -> Step[int]:
    count = yield _narrowed("DELETE FROM retl_rejects", pipeline, table)
    return int(count)


def prune_rejects(pipeline: str, before: str, most: int) -> Step[None]:
    yield Statement("DELETE FROM retl_rejects WHERE pipeline = ? AND rejected_at < ?", (pipeline, before))
    counts = yield from count_rejects(pipeline)
    for table in (table for table, count in counts.items() if count > most):
        rows = yield _narrowed(
            "SELECT rejected_at FROM retl_rejects",
            pipeline,
            table,
            f" ORDER BY rejected_at DESC, row_key LIMIT 1 OFFSET {int(most)}",
            rows=True,
        )
        if rows:
            yield Statement(
                "DELETE FROM retl_rejects WHERE pipeline = ? AND table_name = ? AND rejected_at <= ?",
                (pipeline, table, rows[0][0]),
            )


_REPORT = "s.pipeline, s.table_name, s.scan_id, s.started_at, s.status, s.body"


def add_report(report: ScanReport) -> Step[None]:
    yield Statement(
        "INSERT INTO retl_scans (pipeline, table_name, scan_id, started_at, status, body) VALUES (?, ?, ?, ?, ?, ?)",
        (report.pipeline, report.table, report.scan_id, report.started_at, report.status, _encode(report)),
    )
    rows = yield Statement(
        f"SELECT scan_id FROM retl_scans WHERE pipeline = ? AND table_name = ? ORDER BY scan_id DESC LIMIT 1 OFFSET {_KEPT_REPORTS}",
        (report.pipeline, report.table),
        rows=True,
    )
    if rows:
        yield Statement(
            "DELETE FROM retl_scans WHERE pipeline = ? AND table_name = ? AND scan_id <= ?",
            (report.pipeline, report.table, rows[0][0]),
        )


def reports(pipeline: str | None, table: str | None, limit: int) -> Step[list[ScanReport]]:
    wanted = {name: value for name, value in (("pipeline", pipeline), ("table_name", table)) if value is not None}
    where = " WHERE " + " AND ".join(f"{name} = ?" for name in wanted) if wanted else ""
    rows = yield Statement(
        f"SELECT {_REPORT} FROM retl_scans AS s{where} ORDER BY scan_id DESC LIMIT {int(limit)}",
        tuple(wanted.values()),
        rows=True,
    )
    return [_report(*row) for row in rows]


def last_reports(pipeline: str) -> Step[dict[str, ScanReport]]:
    newest = "SELECT table_name, MAX(scan_id) AS scan_id FROM retl_scans WHERE pipeline = ? GROUP BY table_name"
    rows = yield Statement(
        f"SELECT {_REPORT} FROM retl_scans AS s JOIN ({newest}) AS n ON n.table_name = s.table_name "
        "AND n.scan_id = s.scan_id WHERE s.pipeline = ? ORDER BY s.scan_id",
        (pipeline, pipeline),
        rows=True,
    )
    return {table: _report(name, table, *rest) for name, table, *rest in rows}


def _report(pipeline: str, table: str, scan_id: str, started_at: str, status: str, body: Any) -> ScanReport:
    try:
        return _decode(body, ScanReport, "a scan report", "")
    except StateError as error:
        known: ScanStatus = status if status in get_args(ScanStatus) else "failed"  # type: ignore[assignment]
        return unreadable_report(pipeline, table, scan_id, started_at, known, error.message)


class SqlStore(StateStore):
    """A store whose steps run on some SQL system; what is left to it is how to run one."""

    @abstractmethod
    async def _step(self, make: Callable[[], Step[T]], *, write: bool = True, single: bool = False) -> T:
        """Run a step in a transaction of its own. ``make`` may be called again where it is tried again.

        ``single``: no more than one of its statements writes, and that may be done twice, so it needs no transaction.
        """

    async def load(self, pipeline: str) -> dict[str, Checkpoint]:
        return await self._step(lambda: load(pipeline), write=False)

    async def save(self, fenced: FencedCheckpoint) -> None:
        await self._step(lambda: save(fenced))

    async def read_manifest(
        self, pipeline: str, table: str, after: str = "", limit: int = MANIFEST_PAGE
    ) -> list[ManifestEntry]:
        return await self._step(lambda: read_manifest(pipeline, table, after, limit), write=False)

    async def forget(self, pipeline: str, table: str | None = None) -> int:
        return await self._step(lambda: forget(pipeline, table))

    async def read_lease(self, pipeline: str) -> LeaseRow:
        return await self._step(lambda: read_lease(pipeline), write=False)

    async def take_lease(self, seen: LeaseRow, owner: str, ttl: float) -> Fence | None:
        return await self._step(lambda: take_lease(seen, owner, ttl), single=True)

    async def beat(self, fence: Fence) -> bool:
        return await self._step(lambda: beat(fence), single=True)

    async def give_up_lease(self, fence: Fence) -> None:
        await self._step(lambda: give_up_lease(fence), single=True)

    async def claims(self, target: str) -> list[Claim]:
        return await self._step(lambda: claims(target), write=False)

    async def claim(self, fence: Fence, claim: Claim) -> None:
        await self._step(lambda: save_claim(fence, claim))

    async def release_claims(self, pipeline: str, table: str | None = None) -> int:
        return await self._step(lambda: release_claims(pipeline, table))

    async def add_rejects(self, pipeline: str, rejects: Sequence[Reject]) -> None:
        await self._step(lambda: add_rejects(pipeline, rejects))

    async def rejects(self, pipeline: str, table: str | None = None, limit: int = 1000) -> list[Reject]:
        return await self._step(lambda: rejects(pipeline, table, limit), write=False)

    async def count_rejects(self, pipeline: str) -> dict[str, int]:
        return await self._step(lambda: count_rejects(pipeline), write=False)

    async def clear_rejects(self, pipeline: str, table: str | None = None) -> int:
        return await self._step(lambda: clear_rejects(pipeline, table))

    async def prune_rejects(self, pipeline: str, before: str, most: int) -> None:
        await self._step(lambda: prune_rejects(pipeline, before, most))

    async def add_report(self, report: ScanReport) -> None:
        await self._step(lambda: add_report(report))

    async def reports(self, pipeline: str | None = None, table: str | None = None, limit: int = 20) -> list[ScanReport]:
        return await self._step(lambda: reports(pipeline, table, limit), write=False)

    async def last_reports(self, pipeline: str) -> dict[str, ScanReport]:
        return await self._step(lambda: last_reports(pipeline), write=False)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
