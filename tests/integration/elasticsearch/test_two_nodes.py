"""A target of two nodes that is another cluster than the source: copies, and the aliases of the source's indices."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import retl
from retl.connectors import DuckDB, Elasticsearch
from retl.model.actions import PreAction
from retl.model.errors import ConfigError
from tests import tiers
from tests.integration.elasticsearch.between import Answer, Asked, between
from tests.integration.elasticsearch.scene import Scene
from tests.servers import elasticsearch
from tests.servers.cache import DOWNLOAD_SECONDS
from tests.servers.process import free_port
from tests.servers.search import SearchServer
from tests.support import Warehouse

pytestmark = pytest.mark.timeout(DOWNLOAD_SECONDS + 300)

Forward = Callable[[], Awaitable[Answer]]
DOCUMENTS = {str(n): f'{{"n": {n}}}'.encode() for n in range(20)}


@pytest.fixture(scope="module")
def other(request: pytest.FixtureRequest) -> Iterator[SearchServer]:
    """Another cluster; one with two nodes where there is time for them."""
    if tiers.is_small():
        yield request.getfixturevalue("secured_server")
        return
    port = free_port()
    many = {"discovery.type": "multi-node", "discovery.seed_hosts": f"127.0.0.1:{port}"}
    first = {**many, "transport.port": port, "cluster.initial_master_nodes": "one"}
    with ExitStack() as nodes:
        one = nodes.enter_context(elasticsearch.started(8, settings=first, heap="300m"))
        second = {**many, "node.name": "two"}
        nodes.enter_context(elasticsearch.started(8, settings=second, heap="300m"))
        one.ask("GET", "/_cluster/health?wait_for_nodes=2&timeout=60s")
        yield one


@pytest.fixture
def there(other: SearchServer) -> Iterator[Scene]:
    with other.fresh_names() as prefix:
        yield Scene(other, prefix)


@pytest.fixture
def here(elasticsearch_server: SearchServer, there: Scene) -> Iterator[Scene]:
    """The source, under the same names."""
    yield Scene(elasticsearch_server, there.prefix)
    elasticsearch_server.remove(there.prefix)


# Copies -------------------------------------------------------------------------


def withhold(server: SearchServer, what: str | None) -> None:
    server.ask("PUT", "/_cluster/settings", {"persistent": {"cluster.routing.allocation.enable": what}})


@pytest.fixture
def no_copies(other: SearchServer) -> Iterator[None]:
    """No node takes a copy until that is allowed."""
    withhold(other, "primaries")
    yield
    withhold(other, None)


@pytest.mark.large
@pytest.mark.usefixtures("no_copies")
@pytest.mark.parametrize(
    "replicas", [{"number_of_replicas": 1}, {"number_of_replicas": 5}, {"auto_expand_replicas": "0-all"}]
)
async def test_a_swap_waits_for_the_copies_that_the_nodes_can_hold(
    there: Scene, tmp_path: Path, replicas: dict[str, object]
) -> None:
    name = f"{there.prefix}-t"
    there.ask("PUT", f"/{name}", {"settings": {"index": {"number_of_shards": 2, "number_of_replicas": 0}}})
    there.ask("PUT", f"/{name}/_settings", {"index": replicas})
    seen: list[tuple[str, int]] = []

    async def watch(asked: Asked, forward: Forward) -> Answer:
        if "wait_for_active_shards" in asked.path:
            shadow = asked.path.split("/")[3].split("?")[0]
            seen.append(("asked", (await there.server.run("GET", f"/_cluster/health/{shadow}"))["active_shards"]))
            await there.server.run(
                "PUT", "/_cluster/settings", {"persistent": {"cluster.routing.allocation.enable": None}}
            )
        if asked.path == "/_aliases" and b"add" in asked.body:
            (shadow,) = {action["add"]["index"] for action in asked.json["actions"] if "add" in action}
            seen.append(("switched", (await there.server.run("GET", f"/_cluster/health/{shadow}"))["active_shards"]))
        return await forward()

    await swap(there, tmp_path, name, watch)
    assert seen == [("asked", 2), ("switched", 4)]


@pytest.mark.large
@pytest.mark.usefixtures("no_copies")
async def test_a_swap_does_not_wait_forever(there: Scene, tmp_path: Path) -> None:
    name = f"{there.prefix}-t"
    there.ask("PUT", f"/{name}", {"settings": {"index": {"number_of_replicas": 1}}})

    async def hurry(asked: Asked, forward: Forward) -> Answer:
        if "wait_for_active_shards" not in asked.path:
            return await forward()
        assert "timeout=45000ms" in asked.path
        asked.path = asked.path.replace("45000ms", "10ms")
        status, body = await forward()
        assert status == 408
        return status, body

    await swap(there, tmp_path, name, hurry, request_timeout=45)
    assert there.about(name)["settings"]["index"]["number_of_replicas"] == "1"


async def swap(
    there: Scene, folder: Path, name: str, hook: Callable[[Asked, Forward], Awaitable[Answer]], **words: object
) -> None:
    source = Warehouse(folder / "w.duckdb")
    source.run("CREATE TABLE t AS SELECT i AS n FROM range(20) AS r(i)")
    async with between(there.server) as line:
        line.hook = hook
        pipeline = retl.Pipeline(
            "p",
            source=DuckDB(str(source.path)),
            target=there.options(url=line.url, **words),
            tables=[retl.Table("t", to=name, key="n", pre_action=PreAction.SWAP)],
        )
        report = await pipeline.run_once()
        assert report.ok, report
        await pipeline.aclose()
    assert there.server.documents(name) == {str(n): {"n": n} for n in range(20)}


# Aliases ------------------------------------------------------------------------

VIEWS = {
    "view": {"filter": {"range": {"n": {"gte": 15}}}},
    "routed": {"index_routing": "a", "search_routing": "a,b"},
    "written": {"is_write_index": True},
    "hidden": {"is_hidden": True},
}


def of_source(here: Scene, name: str) -> dict[str, object]:
    """An index with aliases; they, with their full names."""
    aliases = {f"{here.prefix}-{view}": about for view, about in VIEWS.items()}
    # What tells indices of a swap apart, and the name itself, are not for the copy.
    others: dict[str, object] = {f"retl-{name}-replaced": {}, f"{here.prefix}-copy": {}}
    here.ask("PUT", f"/{name}", {"aliases": {**aliases, **others}})
    here.server.put(name, DOCUMENTS)
    return dict(aliases)


def pipeline(here: Scene, there: Scene, pre_action: str, *names: str, **words: object) -> retl.Pipeline:
    return retl.Pipeline(
        "p",
        source=Elasticsearch(here.server.url, tls_ca=here.server.ca),
        target=there.options(**{"aliases": True, **words}),
        tables=[
            retl.Table(name, to=to, pre_action=PreAction(pre_action))
            for name, to in zip(names[::2], names[1::2], strict=True)
        ],
    )


@pytest.mark.parametrize("pre_action", ["none", "truncate", "swap"])
@pytest.mark.parametrize("before", [False, True])
async def test_an_index_that_is_created_gets_the_aliases(
    here: Scene, there: Scene, pre_action: str, before: bool
) -> None:
    name, copy = f"{here.prefix}-t", f"{here.prefix}-copy"
    aliases = of_source(here, name)
    own = {f"{copy}-own": {"filter": {"term": {"n": 7}}}, f"{here.prefix}-view": {}}
    if before:
        there.ask("PUT", f"/{copy}", {"aliases": own})
    kept = own if before else {}
    expected = kept if before and pre_action == "none" else {**aliases, **kept}
    job = pipeline(here, there, pre_action, name, copy)
    (planned,) = await job.plan()
    new = [alias for alias in aliases if alias not in kept] if expected != kept else []
    shown = "\n".join(planned.target.statements)
    assert all(alias in shown for alias in new) and (new or "aliases" not in shown), shown
    for _ in range(2):
        report = await job.run_once()
        assert report.ok, report
        found = there.about(copy)["aliases"]
        found.pop(copy, None)
        assert found == expected
        assert there.server.texts(copy) == DOCUMENTS
    await job.aclose()


async def test_indices_of_one_alias_share_it_in_the_target_too(here: Scene, there: Scene) -> None:
    one, two, both = (f"{here.prefix}-{name}" for name in ("one", "two", "both"))
    here.ask("PUT", f"/{one}", {"aliases": {both: {}}})
    here.ask("PUT", f"/{two}", {"aliases": {both: {"is_write_index": True}}})
    here.server.put(one, {"1": b"{}"})
    here.server.put(two, {"2": b"{}"})
    job = pipeline(here, there, "swap", one, one, two, two)
    for _ in range(2):
        report = await job.run_once()
        assert report.ok, report
        assert there.server.texts(both) == {"1": b"{}", "2": b"{}"}
        assert there.server.texts(one) == {"1": b"{}"}
    assert there.about(two)["aliases"][both] == {"is_write_index": True}
    await job.aclose()


async def test_of_several_indices_read_as_one_only_what_stands_for_all(here: Scene, there: Scene) -> None:
    copy, both, newest = (f"{here.prefix}-{name}" for name in ("copy", "both", "newest"))
    here.ask("PUT", f"/{here.prefix}-log-1", {"aliases": {both: {}}})
    here.ask("PUT", f"/{here.prefix}-log-2", {"aliases": {both: {"is_write_index": True}, newest: {}}})
    here.server.put(f"{here.prefix}-log-2", {"2": b"{}"})
    job = pipeline(here, there, "none", f"{here.prefix}-log-*", copy)
    assert (await job.run_once()).ok
    assert there.about(copy)["aliases"] == {both: {"is_write_index": True}}
    await job.aclose()


@pytest.mark.parametrize("taken", ["index", "alias", "written"])
async def test_a_name_that_has_a_meaning_in_the_target_keeps_it(here: Scene, there: Scene, taken: str) -> None:
    name, copy, view = (f"{here.prefix}-{word}" for word in ("t", "copy", "written"))
    of_source(here, name)
    holder = view if taken == "index" else f"{here.prefix}-other"
    ours = {"mappings": {"_meta": {"retl": {"key": ["_id"]}}}} if taken == "written" else {}
    about = {"is_write_index": True} if taken == "written" else {}
    there.ask("PUT", f"/{holder}", {**ours, **({"aliases": {view: about}} if taken != "index" else {})})
    job = pipeline(here, there, "swap", name, copy)
    message = {"index": "has an index of that name", "alias": "not created by retl", "written": "in the target writes"}
    with pytest.raises(ConfigError, match=message[taken]) as refused:
        await job.run_once()
    assert view in str(refused.value) and "aliases = false" in str(refused.value)
    assert there.indices() == [holder]
    await job.aclose()


async def test_within_one_cluster_an_alias_is_not_shared_with_its_own_source(there: Scene) -> None:
    name, copy = f"{there.prefix}-t", f"{there.prefix}-c"
    of_source(there, name)
    job = pipeline(there, there, "none", name, copy)
    with pytest.raises(ConfigError, match="the target is the same cluster"):
        await job.run_once()
    assert there.indices() == [name]
    await job.aclose()
    job = pipeline(there, there, "none", name, copy, aliases=False)
    assert (await job.run_once()).ok
    await job.aclose()
    assert there.server.texts(copy) == DOCUMENTS and there.about(copy)["aliases"] == {}
