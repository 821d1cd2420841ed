"""What a pipeline says of itself: from memory at once, and with its store where that answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

import retl
from retl import events
from retl.connectors import IteratorSource, SQLite
from retl.state.base import StateStore
from tests.support import Recorder, state_is


class Api:
    """A source that can be down."""

    def __init__(self) -> None:
        self.down = False

    def read(self) -> Iterator[dict[str, Any]]:
        if self.down:
            raise retl.TransientError("the API is down")
        yield {"id": 1}


def pipeline(api: Api, path: Path, **words: Any) -> retl.Pipeline:
    source = IteratorSource(api.read, key="id")
    return retl.Pipeline("p", source=source, target=SQLite(str(path / "app.db")), tables=["t"], **words)


async def test_failures_are_counted_until_it_recovers_which_is_an_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retl.engine.run.backoff", lambda *_, **__: 100.0)  # no second attempt
    api = Api()
    job = pipeline(api, tmp_path)
    heard = Recorder(job)
    assert (job.snapshot().healthy, job.snapshot().last_success, job.snapshot().tables) == (True, None, ())
    await job.run_once()
    fine = job.snapshot()
    assert (fine.healthy, fine.state, fine.failures, fine.reachable) == (True, "stopped", 0, True)
    assert fine.last_success is not None and fine.last_success <= datetime.now(UTC)
    api.down = True
    for failures in (1, 2, 3):
        await job.run_once(check=False)
        seen = job.snapshot()
        assert (seen.healthy, seen.failures, seen.last_success) == (False, failures, fine.last_success)
        assert seen.error is not None and "the API is down" in seen.error
    (table,) = seen.tables
    assert (table.table, table.failures, table.since) == ("t", 3, seen.since)
    assert heard.of(events.Recovered) == []
    api.down = False
    await job.run_once()
    (recovered,) = heard.of(events.Recovered)
    assert (recovered.table, recovered.failures) == ("t", 3)
    assert seen.since is not None and recovered.since == seen.since
    again = job.snapshot()
    assert (again.healthy, again.failures, again.since, again.error) == (True, 0, None, None)


async def test_it_says_what_it_waits_for(tmp_path: Path) -> None:
    job = pipeline(Api(), tmp_path, interval=3600)
    async with retl.running(job):
        await state_is(job, "idle")
        assert str(job.snapshot().waits_for).startswith("the next run at 20")
        job.pause()
        await state_is(job, "paused")
        assert job.snapshot().waits_for == "resume() or trigger()"
    assert job.snapshot().waits_for is None


async def test_a_snapshot_is_plain_json(tmp_path: Path) -> None:
    job = pipeline(Api(), tmp_path)
    await job.run_once()
    told = json.loads(json.dumps([job.snapshot().to_dict(), (await job.status()).to_dict()]))
    assert told[0]["tables"][0]["last_success"].endswith("Z")
    assert told[1]["tables"][0]["last"]["rows"] == 1


def test_status_leaves_nothing_open_and_works_in_another_loop(tmp_path: Path) -> None:
    job = pipeline(Api(), tmp_path)
    asyncio.run(job.run_once())
    for _ in range(2):
        status = asyncio.run(job.status())
        assert (status.reachable, status.tables[0].last is not None) == (True, True)


class Hung(retl.MemoryStore):
    """A store that answers nothing."""

    async def load(self, pipeline: str) -> Any:
        await anyio.sleep_forever()


class Down(retl.MemoryStore):
    async def load(self, pipeline: str) -> Any:
        raise retl.StateError("the store is gone")


@pytest.mark.parametrize("store", [Hung(), Down()], ids=["hung", "down"])
async def test_status_tells_what_it_knows_where_the_store_does_not_answer(
    tmp_path: Path, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retl.engine.status._ANSWER_SECONDS", 0.05)
    status = await pipeline(Api(), tmp_path, state=store).status()
    assert (status.reachable, status.state, [table.table for table in status.tables]) == (False, "stopped", ["t"])
    assert ("has not answered" if isinstance(store, Hung) else "the store is gone") in str(status.error)


async def test_status_raises_the_error_of_the_store_where_that_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(retl.StateError, match="the store is gone"):
        await pipeline(Api(), tmp_path, state=Down()).status(check=True)
