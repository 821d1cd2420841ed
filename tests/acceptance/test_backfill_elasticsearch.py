"""A backfill between indices of a real server, whose state store is an index too: here, and in the process that owns it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

import retl
from retl import TargetBusy, events
from retl.connectors import Elasticsearch
from retl.model.backfills import BackfillStatus
from tests.servers.search import SearchServer
from tests.support import Recorder, running

DAYS = [f"2024-01-{day:02d}T12:00:00.000Z" for day in range(1, 11)]
RANGE: dict[str, Any] = {"since": "2024-01-03", "until": "2024-01-07"}
IN_RANGE = set(range(6, 18))
SLICE_ROWS = 4


class Orders:
    """Three documents a day, and their copy."""

    def __init__(self, server: SearchServer, prefix: str) -> None:
        self.server = server
        self.prefix = prefix
        mapped = {"ts": {"type": "date"}, "v": {"type": "keyword"}}
        body = {"settings": {"number_of_replicas": 0}, "mappings": {"properties": mapped}}
        self.server.ask("PUT", f"/{prefix}-orders", body)

    def write(self, value: str) -> None:
        """Every document anew, but for its cursor."""
        documents = {str(key): {"ts": DAYS[key // 3], "v": value} for key in range(30)}
        self.server.put(f"{self.prefix}-orders", documents)

    def values(self) -> dict[int, str]:
        return {int(key): found["v"] for key, found in self.server.documents(f"{self.prefix}-copy").items()}

    def pipeline(self, **words: Any) -> retl.Pipeline:
        """A pipeline as another process would have it, too: its owner is named by ``owner``."""
        owner = words.pop("owner", None)
        side = Elasticsearch(self.server.url, state_index=f".{self.prefix}-state")
        table = retl.Table(f"{self.prefix}-orders", to=f"{self.prefix}-copy", cursor="ts", slice_rows=SLICE_ROWS)
        given: dict[str, Any] = {"interval": "manual", "lease_ttl": "900ms"}
        job = retl.Pipeline("shop", source=side, target=side, tables=[table], **given | words)
        job._runner.lease._owner = owner
        return job


@pytest.fixture
def orders(elasticsearch_server: SearchServer) -> Iterator[Orders]:
    with elasticsearch_server.fresh_names() as prefix:
        yield Orders(elasticsearch_server, prefix)


async def loaded(orders: Orders, job: retl.Pipeline) -> str | None:
    """The first load; then every document has changed at the source. Returns the watermark."""
    await anyio.to_thread.run_sync(orders.write, "old")
    await job.run_once()
    await anyio.to_thread.run_sync(orders.write, "new")
    return await watermark(job)


async def watermark(job: retl.Pipeline) -> str | None:
    (table,) = (await job.status()).tables
    return table.watermark


async def ended(job: retl.Pipeline, sent: BackfillStatus) -> BackfillStatus:
    with anyio.fail_after(60):
        async for found in job.follow_backfill(sent):
            sent = found
    return sent


async def expect(orders: Orders, value: str = "new") -> None:
    found = await anyio.to_thread.run_sync(orders.values)
    assert found == {key: value if key in IN_RANGE else "old" for key in range(30)}


async def test_a_range_of_an_index_is_read_again_and_the_watermark_stays(orders: Orders) -> None:
    job = orders.pipeline()
    before = await loaded(orders, job)
    plan = await job.plan_backfill(f"{orders.prefix}-orders", **RANGE)
    assert plan.source.rows == len(IN_RANGE)
    report = await job.backfill(f"{orders.prefix}-orders", **RANGE)
    (scan,) = report.scans
    assert (scan.mode, scan.status, scan.rows) == ("backfill", "done", len(IN_RANGE))
    await expect(orders)
    assert await watermark(job) == before == DAYS[-1].replace("T", " ")
    await job.aclose()


async def test_the_owner_runs_what_is_sent_to_it_through_the_index_of_the_state(orders: Orders) -> None:
    elsewhere, owner = orders.pipeline(), orders.pipeline(owner="elsewhere/1//1/x")
    before = await loaded(orders, elsewhere)
    async with running(owner, patience=60) as after:
        await after(events.LeaseAcquired)
        with pytest.raises(TargetBusy):
            await elsewhere.backfill(f"{orders.prefix}-orders", **RANGE)
        done = await ended(elsewhere, await elsewhere.send_backfill(f"{orders.prefix}-orders", **RANGE))
    assert (done.state, done.rows, done.error) == ("done", len(IN_RANGE), None)
    assert (await elsewhere.status()).backfills == (done,)
    await expect(orders)
    assert await watermark(elsewhere) == before
    for job in (owner, elsewhere):
        await job.aclose()


KILLED = """
import asyncio, os, sys
import retl
from retl import events
from retl.connectors import Elasticsearch

url, prefix = sys.argv[1:]
side = Elasticsearch(url, state_index=f".{prefix}-state")
table = retl.Table(f"{prefix}-orders", to=f"{prefix}-copy", cursor="ts", slice_rows=4)
job = retl.Pipeline("shop", source=side, target=side, tables=[table], interval="manual", lease_ttl="900ms")
job.subscribe(lambda event: os._exit(9) if isinstance(event, events.SliceCommitted) else None)
asyncio.run(job.run_forever())
"""


@pytest.mark.processes
async def test_a_successor_goes_on_behind_the_last_slice_of_an_owner_that_was_killed(orders: Orders) -> None:
    successor = orders.pipeline()
    before = await loaded(orders, successor)
    sent = await successor.send_backfill(f"{orders.prefix}-orders", **RANGE)
    command = [sys.executable, "-c", KILLED, orders.server.url, orders.prefix]
    killed = await anyio.run_process(command, check=False)
    assert (killed.returncode, killed.stderr.decode()) == (9, "")
    first = {key for key, value in (await anyio.to_thread.run_sync(orders.values)).items() if value == "new"}
    assert first and first < IN_RANGE
    heard = Recorder(successor)
    async with running(successor, patience=60):
        done = await ended(successor, sent)
    assert done.state == "done"
    assert len(IN_RANGE) <= done.rows < len(IN_RANGE) + SLICE_ROWS  # what ties with the last slice is read again
    (begun,) = heard.of(events.BackfillStarted)
    (scan,) = [event.report for event in heard.of(events.ScanFinished)]
    assert begun.resumed and scan.rows == done.rows - SLICE_ROWS
    await expect(orders)
    assert await watermark(successor) == before
    await successor.aclose()
