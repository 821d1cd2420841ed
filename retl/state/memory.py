"""A store that lives and dies with its process: for tests, and for pipelines that may forget."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from itertools import chain, count
from operator import itemgetter
from typing import ClassVar

import msgspec

from retl.model.alerts import AlertState
from retl.model.checkpoint import Checkpoint, Fence, FencedCheckpoint, Reject
from retl.model.manifest import ManifestChange, ManifestEntry
from retl.model.report import ScanReport
from retl.model.steering import Steering
from retl.state.base import KEPT_REPORTS, MANIFEST_PAGE, Claim, LeaseRow, StateStore
from retl.state.base import lease_lost as lease_lost


class MemoryStore(StateStore):
    """Checkpoints in a dict. Pipelines that share one object are fenced against each other."""

    outlives_process: ClassVar[bool] = False

    def __init__(self) -> None:
        self._checkpoints: dict[str, dict[str, Checkpoint]] = {}
        self._manifests: dict[tuple[str, str], dict[str, ManifestEntry]] = {}
        self._leases: dict[str, LeaseRow] = {}
        self._steering: dict[str, Steering] = {}
        self._alerts: dict[str, AlertState] = {}
        self._claims: dict[tuple[str, str], Claim] = {}
        self._rejects: dict[tuple[str, str, str], Reject] = {}
        self._reports: dict[tuple[str, str], deque[tuple[int, ScanReport]]] = {}
        self._numbers = count()

    async def load(self, pipeline: str) -> dict[str, Checkpoint]:
        return dict(self._checkpoints.get(pipeline, {}))

    async def save(self, fenced: FencedCheckpoint) -> None:
        if not self._holds(fenced.fence):
            raise lease_lost(fenced.fence)
        self._checkpoints.setdefault(fenced.fence.pipeline, {})[fenced.table] = fenced.checkpoint
        change = fenced.manifest or ManifestChange()
        entries = self._manifests.setdefault((fenced.fence.pipeline, fenced.table), {})
        for name in change.remove:
            entries.pop(name, None)
        entries.update((entry.name, entry) for entry in change.put)

    async def read_manifest(
        self, pipeline: str, table: str, after: str = "", limit: int = MANIFEST_PAGE
    ) -> list[ManifestEntry]:
        entries = self._manifests.get((pipeline, table), {})
        return [entries[name] for name in heapq.nsmallest(limit, (name for name in entries if name > after))]

    async def forget(self, pipeline: str, table: str | None = None) -> int:
        for key in [key for key in self._manifests if key[0] == pipeline and table in (None, key[1])]:
            del self._manifests[key]
        tables = self._checkpoints.get(pipeline, {})
        gone = list(tables) if table is None else [name for name in tables if name == table]
        for name in gone:
            del tables[name]
        return len(gone)

    def _holds(self, fence: Fence) -> bool:
        lease = self._leases.get(fence.pipeline)
        return lease is not None and (lease.owner, lease.epoch) == (fence.owner, fence.epoch)

    async def read_lease(self, pipeline: str) -> LeaseRow:
        return self._leases.get(pipeline) or LeaseRow(pipeline, None, 0, 0, 0.0)

    async def take_lease(self, seen: LeaseRow, owner: str, ttl: float) -> Fence | None:
        if await self.read_lease(seen.pipeline) != seen:
            return None
        self._leases[seen.pipeline] = LeaseRow(seen.pipeline, owner, seen.epoch + 1, 0, ttl)
        return Fence(seen.pipeline, owner, seen.epoch + 1)

    async def beat(self, fence: Fence) -> bool:
        if not self._holds(fence):
            return False
        held = self._leases[fence.pipeline]
        self._leases[fence.pipeline] = LeaseRow(held.pipeline, held.owner, held.epoch, held.beat + 1, held.ttl)
        return True

    async def read_steering(self, pipeline: str) -> Steering:
        return self._steering.get(pipeline, Steering())

    async def save_steering(self, pipeline: str, steering: Steering) -> bool:
        if (await self.read_steering(pipeline)).revision != steering.revision:
            return False
        self._steering[pipeline] = msgspec.structs.replace(steering, revision=steering.revision + 1)
        return True

    async def give_up_lease(self, fence: Fence) -> None:
        if self._holds(fence):
            held = self._leases[fence.pipeline]
            self._leases[fence.pipeline] = LeaseRow(held.pipeline, None, held.epoch, held.beat, held.ttl)

    async def read_alerts(self, pipeline: str) -> AlertState:
        return self._alerts.get(pipeline, AlertState())

    async def save_alerts(self, fence: Fence, state: AlertState) -> None:
        if not self._holds(fence):
            raise lease_lost(fence)
        self._alerts[fence.pipeline] = state

    async def claims(self, target: str) -> list[Claim]:
        return [claim for claim in self._claims.values() if claim.target == target]

    async def claim(self, fence: Fence, claim: Claim) -> None:
        if not self._holds(fence):
            raise lease_lost(fence)
        self._claims[claim.pipeline, claim.table] = claim

    async def release_claims(self, pipeline: str, table: str | None = None) -> int:
        gone = [key for key in self._claims if key[0] == pipeline and table in (None, key[1])]
        for key in gone:
            del self._claims[key]
        return len(gone)

    async def add_rejects(self, pipeline: str, rejects: Sequence[Reject]) -> None:
        for reject in rejects:
            identity = (pipeline, reject.table, reject.key)
            self._rejects.pop(identity, None)
            self._rejects[identity] = reject

    async def rejects(self, pipeline: str, table: str | None = None, limit: int = 1000) -> list[Reject]:
        found = [
            reject for (owner, name, _), reject in self._rejects.items() if owner == pipeline and table in (None, name)
        ]
        return found[::-1][:limit]

    async def count_rejects(self, pipeline: str) -> dict[str, int]:
        counts: dict[str, int] = {}
        for owner, table, _ in self._rejects:
            if owner == pipeline:
                counts[table] = counts.get(table, 0) + 1
        return counts

    async def clear_rejects(self, pipeline: str, table: str | None = None) -> int:
        gone = [key for key in self._rejects if key[0] == pipeline and table in (None, key[1])]
        for key in gone:
            del self._rejects[key]
        return len(gone)

    async def prune_rejects(self, pipeline: str, before: datetime, most: int) -> None:
        kept: dict[str, int] = {}
        for key, reject in sorted(self._rejects.items(), key=lambda item: item[1].at, reverse=True):
            if key[0] != pipeline:
                continue
            kept[reject.table] = kept.get(reject.table, 0) + 1
            if reject.at < before or kept[reject.table] > most:
                del self._rejects[key]

    async def add_report(self, report: ScanReport) -> None:
        history = self._reports.setdefault((report.pipeline, report.table), deque(maxlen=KEPT_REPORTS))
        history.append((next(self._numbers, 0), report))

    async def reports(self, pipeline: str | None = None, table: str | None = None, limit: int = 20) -> list[ScanReport]:
        wanted = [
            history
            for (owner, name), history in self._reports.items()
            if pipeline in (None, owner) and table in (None, name)
        ]
        newest_first = sorted(chain.from_iterable(wanted), key=itemgetter(0), reverse=True)
        return [report for _, report in newest_first[:limit]]

    async def last_reports(self, pipeline: str) -> dict[str, ScanReport]:
        newest = [history[-1] for (owner, _), history in self._reports.items() if owner == pipeline]
        return {report.table: report for _, report in sorted(newest, key=itemgetter(0))}

    async def aclose(self) -> None:
        return None
