"""Logins, certificates and privileges, on a server that insists on them."""

from __future__ import annotations

import base64
import hashlib
import ssl
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anyio.to_thread
import msgspec
import pyarrow as pa
import pytest

import retl
from retl.connectors import Elasticsearch
from retl.connectors.base import SystemInfo
from retl.connectors.elasticsearch import Truncate
from retl.model.checkpoint import Reject
from retl.model.errors import ConfigError, ConnectionFailed
from retl.testing import table_spec
from retl.testing.target_base import Session
from tests import tiers
from tests.servers.elasticsearch import PASSWORD, USER
from tests.servers.search import SearchServer

SECRET = "s3cret/ü@"
DOCUMENTS: dict[str, Any] = {
    "a": {"at": "2024-01-01T00:00:00Z", "n": 1},
    "b": {"at": "2024-01-02T00:00:00Z", "n": 2},
}
LATER: dict[str, Any] = {"b": {"at": "2024-02-01T00:00:00Z", "n": 3}, "c": {"at": "2024-02-02T00:00:00Z", "n": 4}}
MAPPING = {"properties": {"at": {"type": "date"}, "n": {"type": "long"}}}


@pytest.fixture
def secured(secured_server: SearchServer) -> SearchServer:
    return secured_server


@pytest.fixture
def prefix(secured: SearchServer) -> Iterator[str]:
    with secured.fresh_names() as name:
        yield name


def place(server: SearchServer) -> str:
    return f"{server.host}:{server.port}"


def options(server: SearchServer, **words: Any) -> Elasticsearch:
    """The server, trusted, as the superuser; ``words`` say otherwise."""
    login = {} if "api_key" in words else {"user": USER, "password": PASSWORD}
    return Elasticsearch(**{"url": f"https://{place(server)}", "tls_ca": server.ca, **login, **words})


def told(server: SearchServer) -> SystemInfo:
    return SystemInfo("Elasticsearch", server.version)


def fingerprint(pem: str) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


async def greeted(asked: Elasticsearch) -> SystemInfo:
    source = asked.source()
    try:
        return await source.ping()
    finally:
        await source.aclose()


async def refused(asked: Elasticsearch) -> str:
    """What is said of a server that cannot be used so."""
    with pytest.raises(ConfigError) as error:
        await greeted(asked)
    assert SECRET not in str(error.value) + repr(error.value)
    return str(error.value)


# Logins --------------------------------------------------------------------------------


async def test_a_password_beside_the_url_and_in_it(secured: SearchServer) -> None:
    for asked in (options(secured), Elasticsearch(secured.url, tls_ca=secured.ca)):
        assert await greeted(asked) == told(secured)


@pytest.mark.parametrize("user", [USER, "nobody"])
async def test_a_wrong_password_is_said_with_user_and_place(secured: SearchServer, user: str) -> None:
    said = await refused(options(secured, user=user, password=SECRET))
    assert f"the source at {place(secured)} refused the login: unable to authenticate user [{user}]" in said
    assert "What to do: check api_key, or user and password" in said


async def test_no_login_at_all(secured: SearchServer) -> None:
    said = await refused(options(secured, user=None, password=None))
    assert f"{place(secured)} refused the login: missing authentication credentials" in said


async def test_an_api_key_in_both_its_forms(secured: SearchServer, prefix: str) -> None:
    key = secured.ask("POST", "/_security/api_key", {"name": prefix})
    for form in (key["encoded"], f"{key['id']}:{key['api_key']}"):
        assert await greeted(options(secured, api_key=form)) == told(secured)
    for wrong in (f"{key['id']}:{SECRET}", f"nobody:{SECRET}", SECRET):
        said = await refused(options(secured, api_key=wrong))
        assert f"the source at {place(secured)} refused the login: " in said
    secured.ask("DELETE", "/_security/api_key", {"ids": [key["id"]]})
    assert "refused the login" in await refused(options(secured, api_key=key["encoded"]))


async def test_a_cloud_id_is_the_address_of_a_deployment(secured: SearchServer) -> None:
    def cloud_id(domain: str) -> str:
        # The deployment comes first in the address, though not in the id.
        first, _, rest = domain.partition(".")
        return "shop:" + base64.b64encode(f"{rest}${first}$kibana".encode()).decode()

    asked = options(secured, url=None, cloud_id=cloud_id(place(secured)))
    assert await greeted(asked) == told(secured)
    mark = fingerprint(ssl.get_server_certificate((secured.host, secured.port)))
    assert await greeted(msgspec.structs.replace(asked, tls_ca=None, tls_fingerprint=mark)) == told(secured)
    assert f"{place(secured)} refused the login" in await refused(msgspec.structs.replace(asked, password=SECRET))
    # Where it names no port it is that of https.
    with pytest.raises(ConnectionFailed, match=r"the connection to nowhere\.invalid:443 failed"):
        await greeted(options(secured, url=None, cloud_id=cloud_id("nowhere.invalid")))


# Certificates --------------------------------------------------------------------------


async def test_the_authorities_of_the_system_do_not_know_the_server(secured: SearchServer) -> None:
    said = await refused(options(secured, tls_ca=None))
    assert f"{place(secured)} cannot be trusted: " in said and "verify failed" in said
    assert "What to do: name the authority in tls_ca" in said


async def test_the_fingerprint_of_the_server_or_of_its_authority(secured: SearchServer) -> None:
    assert secured.ca is not None
    own = fingerprint(ssl.get_server_certificate((secured.host, secured.port)))
    for mark in (own, fingerprint(Path(secured.ca).read_text())):
        assert await greeted(options(secured, tls_ca=None, tls_fingerprint=mark)) == told(secured)
    said = await refused(options(secured, tls_ca=None, tls_fingerprint="12" * 32))
    assert f"{place(secured)} cannot be trusted" in said and own in said


async def test_whoever_wants_it_trusts_everybody(secured: SearchServer) -> None:
    assert await greeted(options(secured, tls_ca=None, tls="insecure")) == told(secured)


async def test_plain_http_to_a_server_that_speaks_https(secured: SearchServer) -> None:
    with pytest.raises(ConnectionFailed, match="check address, http or https") as error:
        await greeted(options(secured, url=f"http://{place(secured)}"))
    assert f"the connection to {place(secured)} failed" in str(error.value)


async def test_https_to_a_server_that_speaks_plain_http(elasticsearch_server: SearchServer) -> None:
    if elasticsearch_server.url.startswith("https"):
        pytest.skip("the server speaks https")
    url = f"https://{place(elasticsearch_server)}"
    for asked in (
        Elasticsearch(url),
        Elasticsearch(url, tls="insecure"),
        Elasticsearch(url, tls_fingerprint="12" * 32),
    ):
        said = await refused(asked)
        assert f"{place(elasticsearch_server)} cannot be trusted" in said and "check http or https in url" in said


# Privileges ----------------------------------------------------------------------------


class Users:
    """Users of the test's own, each with exactly some privileges; they go with the server."""

    def __init__(self, server: SearchServer, prefix: str) -> None:
        self._server = server
        self._prefix = prefix
        self._made = 0

    def make(self, indices: Mapping[str, Sequence[str]], cluster: Sequence[str] = ("monitor",)) -> Elasticsearch:
        """Somebody new, who may do these things with indices of these names."""
        name = f"{self._prefix}-{self._made}"
        self._made += 1
        granted = [{"names": [names], "privileges": privileges} for names, privileges in indices.items() if privileges]
        self._server.ask("PUT", f"/_security/role/{name}", {"cluster": list(cluster), "indices": granted})
        self._server.ask("PUT", f"/_security/user/{name}", {"password": SECRET, "roles": [name]})
        return options(self._server, user=name, password=SECRET, state_index=f".{self._prefix}-state")


@pytest.fixture
def users(secured: SearchServer, prefix: str) -> Users:
    return Users(secured, prefix)


READS = ("read", "view_index_metadata")
KEEPS_STATE = ("read", "write", "view_index_metadata", "create_index")
INCREMENTAL: dict[str, Any] = {"cursor": "at", "settle": "0s", "lookback": "30d"}


class Way(NamedTuple):
    """Words of a table, and what its target's user must be allowed with the index, and with those beside it."""

    words: dict[str, Any]
    own: tuple[str, ...]
    beside: tuple[str, ...] = ()
    truncate: Truncate = "recreate"


WAYS = {
    "incremental": Way(INCREMENTAL, ("read", "index", "view_index_metadata")),
    "swap": Way({"pre_action": "swap"}, ("read", "manage"), ("read", "index", "manage")),
    "truncate": Way(
        {"pre_action": "truncate"},
        ("read", "index", "view_index_metadata", "create_index", "delete_index"),
        ("view_index_metadata", "create_index", "delete_index"),
    ),
    "by query": Way(
        {"pre_action": "truncate"},
        ("read", "write", "view_index_metadata", "maintenance"),
        truncate="delete_by_query",
    ),
}


class Place:
    """An index to read and one to write, with something in both."""

    def __init__(self, server: SearchServer, prefix: str) -> None:
        self.server = server
        self.prefix = prefix
        self.orders, self.copy = f"{prefix}-orders", f"{prefix}-copy"
        self.old = {"z": {"at": "2023-01-01T00:00:00Z", "n": 0}}
        for name, documents in ((self.orders, DOCUMENTS), (self.copy, self.old)):
            server.ask("PUT", f"/{name}", {"settings": {"number_of_replicas": 0}, "mappings": MAPPING})
            server.put(name, documents)

    async def run(self, source: Elasticsearch, target: Elasticsearch, words: dict[str, Any], **more: Any) -> None:
        table = retl.Table(self.orders, to=self.copy, **words)
        async with retl.Pipeline(self.prefix, source=source, target=target, tables=[table], **more) as pipeline:
            await pipeline.run_once()

    async def copied(self) -> dict[str, Any]:
        return await anyio.to_thread.run_sync(self.server.documents, self.copy)

    async def change(self) -> None:
        await anyio.to_thread.run_sync(self.server.put, self.orders, LATER)


@pytest.mark.parametrize("way", tiers.some(*WAYS, of_small=2))
async def test_a_target_needs_these_privileges_each_of_them_and_no_other(
    secured: SearchServer, prefix: str, users: Users, way: str
) -> None:
    there, chosen = Place(secured, prefix), WAYS[way]
    source = users.make({there.orders: READS})

    def target(lacking: tuple[str, str] = ("", "")) -> Elasticsearch:
        wanted = {there.copy: chosen.own, f"retl-{there.copy}-*": chosen.beside}
        granted = {name: [one for one in some if (name, one) != lacking] for name, some in wanted.items()}
        return msgspec.structs.replace(users.make(granted), truncate=chosen.truncate)

    for name, some in ((there.copy, chosen.own), (f"retl-{there.copy}-*", chosen.beside)):
        for privilege in some:
            lacking = target((name, privilege))
            with pytest.raises(ConfigError, match=rf"lacks a privilege: .*{lacking.user}.*\b{privilege}\b") as error:
                await there.run(source, lacking, chosen.words, state=retl.MemoryStore())
            assert f"the target at {place(secured)}" in str(error.value)
            assert await there.copied() == there.old, "nothing is deleted that could not be written again"
    state = retl.MemoryStore()
    for expected in (DOCUMENTS, {**DOCUMENTS, **LATER}):
        await there.run(source, target(), chosen.words, state=state)
        assert await there.copied() == {**expected, **(there.old if way == "incremental" else {})}
        await there.change()


@pytest.mark.parametrize("lacking", ["monitor", *READS])
async def test_what_the_user_of_a_source_needs(secured: SearchServer, prefix: str, users: Users, lacking: str) -> None:
    there = Place(secured, prefix)
    cluster = () if lacking == "monitor" else ("monitor",)
    source = users.make({there.orders: [one for one in READS if one != lacking]}, cluster)
    with pytest.raises(ConfigError, match=rf"lacks a privilege: .*{source.user}.*\b{lacking}\b") as error:
        await there.run(source, options(secured), INCREMENTAL, state=retl.MemoryStore())
    assert f"the source at {place(secured)}" in str(error.value) and SECRET not in str(error.value)
    assert await there.copied() == there.old


async def test_whoever_may_read_one_index_is_offered_only_that(
    secured: SearchServer, prefix: str, users: Users
) -> None:
    there = Place(secured, prefix)
    source = users.make({there.orders: READS}).source()
    assert await source.list_tables() == [there.orders]
    await source.aclose()


@pytest.mark.parametrize("lacking", KEEPS_STATE)
async def test_what_keeping_the_state_in_the_server_needs(
    secured: SearchServer, prefix: str, users: Users, lacking: str
) -> None:
    there, words = Place(secured, prefix), {**INCREMENTAL, "max_rejects": 1}
    state = f".{prefix}-state"
    source = users.make({there.orders: READS})
    target = users.make({there.copy: WAYS["incremental"].own, state: [one for one in KEEPS_STATE if one != lacking]})
    with pytest.raises(ConfigError, match=rf"lacks a privilege: .*{target.user}.*{lacking}"):
        await there.run(source, target, words)
    assert await there.copied() == there.old
    if lacking == "create_index":
        # Whoever may not create it may use one that is there.
        secured.ask("PUT", f"/{state}", {"settings": {"number_of_replicas": 0}})
        await there.run(source, target, words)
        assert await there.copied() == {**DOCUMENTS, **there.old}


async def test_a_pipeline_that_keeps_its_state_in_the_server(secured: SearchServer, prefix: str, users: Users) -> None:
    there = Place(secured, prefix)
    source = users.make({there.orders: READS})
    target = users.make({there.copy: WAYS["incremental"].own, f".{prefix}-state": KEEPS_STATE})
    table = retl.Table(there.orders, to=there.copy, max_rejects=1, **INCREMENTAL)
    async with retl.Pipeline(prefix, source=source, target=target, tables=[table]) as pipeline:
        await pipeline.run_once()
        await there.change()
        (scan,) = (await pipeline.run_once()).scans
        assert scan.lower is not None
        assert await there.copied() == {**DOCUMENTS, **LATER, **there.old}
        store = target.target().state_store()
        assert store is not None
        await store.add_rejects(prefix, [Reject(table=there.orders, key="y", reason="r", content="{}")])
        assert [one.key for one in await pipeline.rejects()] == ["y"]
        assert (await pipeline.clear_rejects(), await pipeline.rejects()) == (1, [])
        assert len(await pipeline.history()) == 2
        assert await pipeline.reset() == 1
        await store.aclose()
    beside = f"retl-{there.copy}-*"
    granted = {there.copy: WAYS["swap"].own, beside: WAYS["swap"].beside, f".{prefix}-state": KEEPS_STATE}
    await there.run(source, users.make(granted), WAYS["swap"].words)
    assert await there.copied() == {**DOCUMENTS, **LATER}


@pytest.mark.parametrize("may_delete", [True, False])
async def test_appended_rows_are_taken_back_by_whoever_may_delete(
    secured: SearchServer, prefix: str, users: Users, may_delete: bool
) -> None:
    there, own = Place(secured, prefix), ["read", "index", "view_index_metadata", *(["delete"] if may_delete else [])]
    rows = pa.RecordBatch.from_pydict({"n": pa.array([1, 2], pa.int64())})
    target = users.make({there.copy: own, f".{prefix}-state": KEEPS_STATE}).target()
    session = await Session.begin(target)
    writer = await session.prepare(session.load(table_spec(there.copy, write="append"), schema=rows.schema))
    await writer.write(rows)
    if may_delete:
        await writer.discard()
        await writer.write(rows)
        await session.commit(writer)
        await session.finish(writer)
        assert sorted(each["n"] for each in (await there.copied()).values()) == [0, 1, 2]
    else:
        with pytest.raises(ConfigError, match=r"lacks a privilege: .*\bdelete\b"):
            await writer.discard()
        await writer.abort()
    await target.aclose()


async def test_aliases_move_with_a_swap_only_for_whoever_may_give_them(
    secured: SearchServer, prefix: str, users: Users
) -> None:
    there, swap, alias = Place(secured, prefix), {"pre_action": "swap"}, f"{prefix}-all"
    secured.ask("PUT", f"/{there.copy}/_alias/{alias}")
    may = ["read", "index", "manage"]
    source, granted = users.make({there.orders: READS}), {there.copy: may, f"retl-{there.copy}-*": may}
    with pytest.raises(ConfigError, match=r"lacks a privilege: action \[indices:admin/aliases\].*\bmanage\b"):
        await there.run(source, users.make(granted), swap, state=retl.MemoryStore())
    assert await there.copied() == there.old
    await there.run(source, users.make({**granted, alias: ["read", "manage"]}), swap, state=retl.MemoryStore())
    assert await there.copied() == secured.documents(alias) == DOCUMENTS


async def test_an_api_key_that_may_read_and_not_write(secured: SearchServer, prefix: str) -> None:
    there = Place(secured, prefix)
    may = {"names": [f"{prefix}*"], "privileges": READS}
    state = {"names": [f".{prefix}-state"], "privileges": ["all"]}
    for granted in ([may], [may, state]):
        role = {"cluster": ["monitor"], "indices": granted}
        key = secured.ask("POST", "/_security/api_key", {"name": prefix, "role_descriptors": {"r": role}})
        asked = options(secured, api_key=key["encoded"], state_index=f".{prefix}-state")
        with pytest.raises(ConfigError, match=rf"lacks a privilege: .*API key id \[{key['id']}\]") as error:
            await there.run(asked, asked, {"pre_action": "none"})
        assert "granted by the index privileges" in str(error.value) and key["encoded"] not in str(error.value)
        assert await there.copied() == there.old
    # The same key may read.
    await there.run(asked, options(secured), {"pre_action": "none"}, state=retl.MemoryStore())
    assert await there.copied() == {**DOCUMENTS, **there.old}
