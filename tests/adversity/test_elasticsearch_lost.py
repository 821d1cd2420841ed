"""What a scan reads or writes vanishes under it: the server is killed, the line is cut, an index is deleted or rolled over."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, get_args

import anyio
import anyio.to_thread
import msgspec
import pytest

import retl
from retl.connectors import Elasticsearch
from retl.model import events
from retl.model.errors import ConnectionFailed
from tests import tiers
from tests.adversity.feed import Heard
from tests.adversity.patches import patch_backoff
from tests.adversity.search_world import BEGINNING, Documents, SearchLook, moment
from tests.integration.elasticsearch.between import Answer, Asked, between
from tests.servers.proxy import Direction, Proxy
from tests.servers.search import SearchServer
from tests.support import Database

pytestmark = pytest.mark.adversity


@pytest.fixture
def no_blocking_call() -> None:
    """Not watched here: the looks into the server are meant to be so."""


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_backoff(monkeypatch, 0.1)


@pytest.fixture
def look(elasticsearch_server: SearchServer, prefix: str) -> SearchLook:
    return SearchLook(elasticsearch_server, prefix)


def documents(count: int, generation: int = 0, width: int = 20) -> Documents:
    start = BEGINNING + generation * 10**12
    return {
        f"{n:05}": f'{{"at": "{moment(start + n)}", "text": "{generation} {"x" * width}"}}'.encode()
        for n in range(count)
    }


def pipeline(look: SearchLook, mode: str, *, target: str = "", **words: Any) -> retl.Pipeline:
    job = look.job(mode, **words)
    return msgspec.structs.replace(job, target=target or job.target).pipeline()


# The server --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", tiers.some("incremental", "swap"))
async def test_a_scan_survives_a_server_that_is_killed(mode: str, look: SearchLook) -> None:
    """It holds source, target and checkpoints: all points in time are lost, what was acknowledged is not."""
    look.server.log()  # skips where the server is not the tests' own
    look.write(documents(100))
    await pipeline(look, mode).run_once()
    look.write(documents(200, 1))
    job = pipeline(look, mode)
    heard = Heard(job)
    retried = anyio.Event()
    heard.at(events.SliceCommitted, look.server.kill, 3)
    heard.at(events.RetryScheduled, retried.set)

    async def start_again() -> None:
        await retried.wait()
        await anyio.to_thread.run_sync(look.server.start)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(start_again)
        assert (await job.run_once()).ok
    assert retried.is_set()
    assert look.documents() == documents(200, 1)
    assert look.leftovers() == []
    assert (await pipeline(look, mode).run_once()).ok
    assert look.documents() == documents(200, 1)


# The line ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", tiers.some("incremental", "swap", "truncate", "none", of_small=2))
async def test_a_line_that_is_cut_in_the_middle_of_a_bulk(mode: str, look: SearchLook) -> None:
    """After any byte of a request, or of its answer: then the server has done it and nobody knows."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    async with Proxy(look.server.host, look.server.port) as proxy:
        through = f"http://{proxy.host}:{proxy.port}"
        look.write(documents(300, width=500))
        await pipeline(look, mode, target=through, slice_rows=100).run_once()
        whole = dict(proxy.passed)
        for generation, way in enumerate(get_args(Direction) * 2, 1):
            expected = documents(300, generation, width=500)
            look.write(expected)
            job = pipeline(look, mode, target=through, slice_rows=100)
            heard = Heard(job)
            after = chance.randrange(whole[way] // 2)

            def cut(way: Direction = way, after: int = after) -> None:
                proxy.break_after(after, way, chance.choice(("reset", "close")))

            heard.at(events.ScanPlanned, cut)
            try:
                assert (await job.run_once()).ok
            except ConnectionFailed:
                assert (await pipeline(look, mode, target=through, slice_rows=100).run_once()).ok
            proxy.mend()
            assert look.documents() == expected
            assert look.leftovers() == []
        assert proxy.broken >= 2


async def test_rows_without_a_key_are_not_doubled_by_a_line_that_is_cut(look: SearchLook, tmp_path: Path) -> None:
    """Their ids are made before they are sent, so the same request may be sent twice."""
    shop = Database(tmp_path / "shop.db")
    shop.run("CREATE TABLE log (n INTEGER, text TEXT)")
    text = "x" * 400
    shop.run("INSERT INTO log VALUES " + ", ".join(f"({n % 7}, '{text}')" for n in range(1400)))
    async with Proxy(look.server.host, look.server.port) as proxy:
        proxy.break_after(200_000, "to_server")
        target = f"http://{proxy.host}:{proxy.port}"
        table = retl.Table("log", to=look.copy, write=retl.Write.APPEND, slice_rows=5000)
        options = Elasticsearch(target, state_index=look.state, writers=1)
        await retl.Pipeline("p", source=shop.source(), target=options, tables=[table]).run_once()
        assert proxy.broken == 1
    found = look.server.documents(look.copy)
    assert Counter(document["n"] for document in found.values()) == dict.fromkeys(range(7), 200)


async def test_a_state_index_that_was_created_a_moment_ago_is_waited_for(look: SearchLook) -> None:
    """As after a kill: its shard has not started yet, and the server says so."""
    look.write(documents(30))
    refused = 0

    async def not_yet(asked: Asked, forward: Callable[[], Awaitable[Answer]]) -> Answer:
        nonlocal refused
        if asked.method == "GET" and f"{look.state}/_doc" in asked.path and refused < 2:
            refused += 1
            return 503, b'{"error":{"type":"no_shard_available_action_exception","reason":"No shard"},"status":503}'
        return await forward()

    async with between(look.server) as line:
        line.hook = not_yet
        assert (await pipeline(look, "incremental", target=line.url).run_once()).ok
    assert refused == 2
    assert look.documents() == documents(30)


# Indices -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["incremental", "truncate", "swap"])
async def test_the_source_is_deleted_during_a_scan(mode: str, look: SearchLook) -> None:
    look.write(documents(2000))
    if mode == "swap":
        await pipeline(look, mode).run_once()
        before = look.documents()
    job = pipeline(look, mode, slice_rows=500)
    heard = Heard(job)
    heard.at(events.ScanPlanned, lambda: look.server.ask("DELETE", f"/{look.source}"))
    with pytest.raises(retl.RetlError):
        await job.run_once()
    look.settle()
    if mode == "swap":
        assert look.documents() == before
        assert look.leftovers() == []
    assert heard.count(events.ScanFinished) == 0
    # It is made again, and the next scan finds what is in it.
    again = SearchLook(look.server, look.source.removesuffix("-t"))
    again.write(documents(50, 1))
    await pipeline(look, mode).run_once()
    found = look.documents()
    assert found is not None
    assert {name: found[name] for name in documents(50)} == documents(50, 1)


async def test_the_target_is_deleted_during_a_scan(look: SearchLook) -> None:
    """A write would create it anew, without its mapping and without what came before: that is said."""
    look.write(documents(100))
    job = pipeline(look, "incremental")
    heard = Heard(job)
    heard.at(events.SliceCommitted, lambda: look.server.ask("DELETE", f"/{look.copy}"), 3)
    with pytest.raises(retl.TargetError, match=r"was deleted while it was written.*retl reset"):
        await job.run_once()
    assert look.checkpoint().watermark is not None
    look.remove()
    await pipeline(look, "incremental").run_once()
    assert look.documents() == documents(100)


async def test_a_source_that_is_rolled_over_during_a_scan(look: SearchLook) -> None:
    """A scan reads the indices of its beginning; the next one reads what was written behind the alias meanwhile."""
    alias = f"{look.source}-alias"
    actions = [{"add": {"index": look.source, "alias": alias, "is_write_index": True}}]
    look.server.ask("POST", "/_aliases", {"actions": actions})
    look.write(documents(100))
    job = pipeline(look, "incremental", name=alias)
    later = {"later": documents(101)["00100"]}

    def roll_over() -> None:
        mapping = {"mappings": {"dynamic": False, "properties": {"at": {"type": "date_nanos"}}}}
        look.server.ask("POST", f"/{alias}/_rollover/{look.source}-2", mapping)
        look.server.put(alias, later)

    heard = Heard(job)
    heard.at(events.SliceCommitted, roll_over, 2)
    await job.run_once()
    assert look.documents() == documents(100)
    assert sorted(look.server.ask("GET", f"/_alias/{alias}")) == [look.source, f"{look.source}-2"]
    await pipeline(look, "incremental", name=alias).run_once()
    assert look.documents() == {**documents(100), **later}


async def test_a_target_that_is_rolled_over_during_a_scan(look: SearchLook) -> None:
    """Documents go where the alias leads, none is lost."""
    mapping = {"mappings": {"properties": {"at": {"type": "date_nanos"}}}, "settings": {"number_of_replicas": 0}}
    aliases = {look.copy: {"is_write_index": True}}
    look.server.ask("PUT", f"/{look.copy}-000001", {**mapping, "aliases": aliases})
    look.write(documents(100))
    job = pipeline(look, "incremental")
    heard = Heard(job)
    heard.at(events.SliceCommitted, lambda: look.server.ask("POST", f"/{look.copy}/_rollover"), 5)
    await job.run_once()
    assert look.documents() == documents(100)
    first, second = (look.server.texts(f"{look.copy}-00000{number}") for number in (1, 2))
    assert first and second and {**first, **second} == documents(100)
