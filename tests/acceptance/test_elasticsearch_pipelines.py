"""Elasticsearch by job file and command line, and inside a host: to itself, to SQL databases, and from them. A real server."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from retl.cli import main
from tests.acceptance.test_cli import Outcome
from tests.integration.elasticsearch.between import Answer, Asked, Hook, between
from tests.integration.elasticsearch.scene import Scene
from tests.integration.mysql.targets import Scene as Tables
from tests.servers.database import Server
from tests.servers.process import free_port
from tests.servers.search import SearchServer
from tests.support import Database, Warehouse

Documents = dict[str, Any]

# Documents are compared byte for byte: spaces, digits and names with dots are theirs.
OLD: Documents = {
    "a": b'{"city": "K\xc3\xb6ln", "total": 12.340000000000000001, "at": "2024-01-01T00:00:00.000Z"}',
    "b": b'{"city":"Bonn","tags":[ "x", "y" ],"geo.lat":1e400,"at":"2024-01-02T00:00:00.000Z"}',
    "c": b'{"at":"2024-01-03T00:00:00.000Z","lines":[{"sku":"1","n":9007199254740993},{"sku":"2","n":null}]}',
}
NEW: Documents = {
    "a": OLD["a"],
    "c": b'{"at":"2024-02-01T00:00:00.000Z","lines":[]}',
    "d": b'{"at":"2024-02-02T00:00:00.000Z","city":"\xf0\x9f\x99\x82"}',
}
BOTH = {**NEW, "b": OLD["b"]}
"""What an upsert leaves: the document that is gone from the source stays."""
MAPPING = {
    "dynamic": False,
    "properties": {
        "at": {"type": "date"},
        "city": {"type": "keyword", "ignore_above": 100},
        "total": {"type": "double", "index": False},
        "lines": {"type": "nested", "properties": {"sku": {"type": "keyword"}, "n": {"type": "long"}}},
    },
}


class Desk:
    """A folder with a job file, and somebody who types commands there."""

    def __init__(self, scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
        self.scene = scene
        self.server = scene.server
        self.orders, self.copy = f"{scene.prefix}-orders", f"{scene.prefix}-copy"
        self._capsys = capsys

    def words(self, **more: Any) -> str:
        """The server in a job file."""
        words = {"type": "elasticsearch", "url": self.server.url, **more}
        return "{ " + ", ".join(f"{word} = {json.dumps(value)}" for word, value in words.items()) + " }"

    def write(self, *lines: str, source: str = "", target: str = "") -> None:
        """The job file: one pipeline, whose further lines are given. ``source`` and ``target`` replace the server."""
        target = target or self.words(state_index=f".{self.scene.prefix}-state")
        head = f"[pipelines.shop]\nsource = {source or self.words()}\ntarget = {target}\n"
        Path("jobs.toml").write_text(head + "\n".join(lines) + "\n")

    def table(self, more: str = "", *, before: str = "", **words: str) -> None:
        """The job file with the table ``orders``, which goes to ``copy``; ``before`` it are words of the pipeline."""
        self.write(f'{before}[[pipelines.shop.tables]]\nname = "{self.orders}"\nto = "{self.copy}"\n{more}', **words)

    def fail(self, command: str) -> str:
        """What a command that cannot work prints: one message, and what to do."""
        done = Outcome(main(command.split()), *self._capsys.readouterr())
        assert done.code in (1, 2), done
        assert "Traceback" not in done.out + done.err
        return done.out + done.err

    def type(self, *arguments: str, code: int = 0) -> Outcome:
        done = Outcome(main(arguments), *self._capsys.readouterr())
        assert done.code == code, done
        assert "Traceback" not in done.out + done.err
        return done

    def run(self, *, code: int = 0) -> Outcome:
        return self.type("run", "--once", code=code)

    def create(self, index: str, mapping: dict[str, Any] = MAPPING, documents: Documents | None = None) -> None:
        body = {"settings": {"number_of_shards": 2, "number_of_replicas": 0}, "mappings": mapping}
        self.server.ask("PUT", f"/{index}", body)
        self.server.put(index, OLD if documents is None else documents)

    def change(self, index: str) -> None:
        """One document is new, one is changed, one is gone."""
        self.server.ask("DELETE", f"/{index}/_doc/b")
        self.server.put(index, {name: NEW[name] for name in ("c", "d")})

    def everything(self) -> dict[str, Any]:
        """Whatever there is, hidden or not, with mapping, settings and documents."""
        names = f"{self.scene.prefix}*,.{self.scene.prefix}*,retl-{self.scene.prefix}*"
        found: dict[str, Any] = self.server.ask("GET", f"/{names}?expand_wildcards=all")
        return {name: (about, self.server.texts(name)) for name, about in found.items()}


def instant(text: str) -> tuple[str, int]:
    """A time however it is written: its second and its nanoseconds."""
    second, _, rest = text.replace("T", " ").rstrip("Z").partition(".")
    return second, int(rest.ljust(9, "0"))


@pytest.fixture
def desk(
    elasticsearch_server: SearchServer,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Desk:
    monkeypatch.chdir(tmp_path)
    return Desk(Scene(elasticsearch_server, prefix), capsys)


# Elasticsearch to Elasticsearch -----------------------------------------------------


def several(desk: Desk, *mappings: dict[str, Any]) -> None:
    """Indices that are read by one pattern, one with each mapping; the last is the newest."""
    for number, properties in enumerate(mappings):
        desk.create(f"{desk.orders}-{number}", {"properties": properties}, {})
    desk.write("[[pipelines.shop.tables]]", f'name = "{desk.orders}-*"', f'to = "{desk.copy}"')


def test_several_indices_give_a_mapping_that_takes_the_documents_of_all(desk: Desk) -> None:
    text = {"type": "text", "fields": {"raw": {"type": "keyword"}}}
    old = {"n": {"type": "long"}, "o": {"properties": {"a": {"type": "ip"}, "t": {"type": "text"}}}}
    new = {"n": {"type": "integer"}, "o": {"properties": {"b": {"type": "ip"}, "t": text}}}
    several(desk, old, new)
    large = {"n": 2**40, "o": {"a": "::1"}}
    desk.server.put(f"{desk.orders}-0", {"1": large})
    desk.run()
    assert desk.server.documents(desk.copy) == {"1": large}
    inner = {"a": {"type": "ip"}, "b": {"type": "ip"}, "t": text}
    assert desk.scene.about(desk.copy)["mappings"]["properties"] == {"n": {"type": "long"}, "o": {"properties": inner}}


def test_a_field_on_which_indices_disagree_is_refused_unless_the_target_has_it(desk: Desk) -> None:
    several(desk, {"x": {"type": "long"}}, {"x": {"type": "keyword"}}, {"y": {"type": "ip"}})
    rows = {"1": {"x": 1}, "2": {"x": "a"}}
    for number, (name, row) in enumerate(rows.items()):
        desk.server.put(f"{desk.orders}-{number}", {name: row})
    for command in ("check", "run --once"):
        said = " ".join(desk.fail(command).split())
        assert f"disagree on the field 'x': it is keyword in {desk.orders}-1 and long in {desk.orders}-0." in said
    desk.server.ask("PUT", f"/{desk.copy}", {"mappings": {"properties": {"x": {"type": "keyword"}}}})
    desk.run()
    assert desk.server.documents(desk.copy) == rows
    assert desk.scene.about(desk.copy)["mappings"]["properties"] == {"x": {"type": "keyword"}, "y": {"type": "ip"}}


def test_documents_are_deleted_by_query_where_that_is_asked(desk: Desk) -> None:
    desk.create(desk.orders)
    target = desk.words(state_index=f".{desk.scene.prefix}-state", truncate="delete_by_query")
    desk.table('pre_action = "truncate"', target=target)
    desk.run()
    index = desk.scene.about(desk.copy)["settings"]["index"]["uuid"]
    desk.change(desk.orders)
    desk.run()
    assert desk.server.texts(desk.copy) == NEW
    assert desk.scene.about(desk.copy)["settings"]["index"]["uuid"] == index


def test_the_replaced_index_is_kept_where_that_is_asked(desk: Desk) -> None:
    desk.create(desk.orders)
    target = desk.words(state_index=f".{desk.scene.prefix}-state", keep_replaced=True)
    desk.table('pre_action = "swap"', target=target)
    desk.run()
    desk.change(desk.orders)
    desk.run()
    assert desk.server.texts(desk.copy) == NEW
    assert desk.server.texts(f"retl-{desk.copy}-replaced") == OLD


@pytest.mark.parametrize(
    ("field", "mapping", "times", "highest"),
    [
        (
            "at",
            {"type": "date"},
            ["2024-01-01T00:00:00.001Z", "2024-01-01T00:00:00.002Z", "2024-01-01T00:00:00.003Z"],
            "2024-01-01T00:00:00.003Z",
        ),
        (
            "changed.at",
            {"type": "date_nanos"},
            ["2024-01-01T00:00:00.123456788Z", "2024-01-01T00:00:00.123456789Z", "2024-01-01T00:00:00.12345679Z"],
            "2024-01-01T00:00:00.123456790Z",
        ),
        (
            "@timestamp",
            {"type": "date", "format": "strict_date_optional_time||epoch_millis"},
            ["2024-01-01T01:00:00.001+01:00", "1704067200002", "2024-01-01T00:00:00.003Z"],
            "2024-01-01T00:00:00.003Z",
        ),
    ],
)
def test_an_incremental_field(desk: Desk, field: str, mapping: dict[str, Any], times: list[str], highest: str) -> None:
    def document(time: str, text: str) -> bytes:
        return json.dumps({field: time, "text": text}, separators=(", ", ":")).encode()

    first = {name: document(time, name) for name, time in zip("abc", times[:2] * 2, strict=False)}
    desk.create(desk.orders, {"properties": {field: mapping}}, first)
    desk.table(f'cursor = "{field}"')
    assert "3 rows" in desk.run().out
    assert desk.server.texts(desk.copy) == first
    # What ties with the watermark is read again; what is below it is not, not even by the last of its digits.
    late = {"b2": document(times[1], "tie"), "d": document(times[2], "new"), "a": document(times[2], "changed")}
    desk.server.put(desk.orders, {**late, "unseen": document(times[0], "below")})
    done = desk.run()
    assert desk.server.texts(desk.copy) == {**first, **late}
    assert "4 rows" in done.out and "(incremental)" in done.out
    (saved, before) = desk.type("history", "--json").json()
    assert saved["rows"] == 4
    assert instant(saved["lower"]) == instant(before["watermark"])
    assert instant(saved["upper"]) == instant(saved["watermark"]) == instant(highest)
    desk.run()
    assert desk.server.texts(desk.copy) == {**first, **late}


def test_many_indices_of_a_pattern_an_alias_and_a_data_stream(desk: Desk) -> None:
    prefix = desk.scene.prefix
    for month in ("01", "02"):
        desk.create(f"{prefix}-log-{month}", documents={month: OLD["a"]})
    desk.server.ask(
        "POST", "/_aliases", {"actions": [{"add": {"index": f"{prefix}-log-*", "alias": f"{prefix}-logs"}}]}
    )
    template = {"index_patterns": [f"{prefix}-stream*"], "data_stream": {}, "template": {"mappings": {}}}
    desk.server.ask("PUT", f"/_index_template/{prefix}", template)
    line = b'{"@timestamp":"2024-01-01T00:00:00Z","n":1}'
    desk.server.put(f"{prefix}-stream", {"one": line}, op="create")
    desk.write(
        'pre_action = "swap"',
        *(
            f'[[pipelines.shop.tables]]\nname = "{prefix}-{name}"\nto = "{prefix}-{to}"'
            for name, to in (("log-*", "copy-1"), ("logs", "copy-2"), ("stream", "copy-3"))
        ),
    )
    done = desk.run()
    assert desk.server.texts(f"{prefix}-copy-1") == desk.server.texts(f"{prefix}-copy-2")
    assert desk.server.texts(f"{prefix}-copy-1") == {"01": OLD["a"], "02": OLD["a"]}
    assert desk.server.texts(f"{prefix}-copy-3") == {"one": line}
    assert "2 indices" in done.out


def test_a_query_and_chosen_fields(desk: Desk) -> None:
    desk.create(desk.orders)
    desk.table('columns = ["at", "city"]\nwhere = \'{"term": {"city": "Bonn"}}\'')
    desk.run()
    assert desk.server.documents(desk.copy) == {"b": {"at": "2024-01-02T00:00:00.000Z", "city": "Bonn"}}
    desk.table('where = "city:Köln"\npre_action = "truncate"')
    desk.run()
    assert desk.server.texts(desk.copy) == {"a": OLD["a"]}


def test_routing_and_joined_documents_arrive_as_they_are(desk: Desk) -> None:
    join = {"properties": {"kin": {"type": "join", "relations": {"parent": "child"}}}}
    desk.create(desk.orders, join, {"p": b'{"kin":"parent"}'})
    child = {f"c{n}": b'{"kin":{"name":"child","parent":"p"}}' for n in range(5)}
    desk.server.put(desk.orders, child, routing="p")
    desk.table('pre_action = "swap"')
    desk.run()
    found = {(hit.id, hit.routing, bytes(hit.source)) for hit in desk.server.hits(desk.copy)}
    assert found == {("p", None, b'{"kin":"parent"}'), *((name, "p", text) for name, text in child.items())}
    query = {"query": {"has_parent": {"parent_type": "parent", "query": {"match_all": {}}}}}
    assert desk.server.ask("POST", f"/{desk.copy}/_count", query)["count"] == 5


# Source and target in one cluster ----------------------------------------------------


@pytest.mark.parametrize("pre_action", ["none", "truncate", "swap"])
@pytest.mark.parametrize(
    ("name", "to"),
    [("-orders", "-orders"), ("-alias", "-orders"), ("-orders", "-alias"), ("-o*", "-orders-copy"), ("-o*", "-orders")],
)
def test_what_its_own_source_would_read_is_never_written(desk: Desk, name: str, to: str, pre_action: str) -> None:
    prefix = desk.scene.prefix
    desk.create(desk.orders)
    desk.server.ask("PUT", f"/{desk.orders}/_alias/{prefix}-alias")
    before = desk.everything()
    desk.write(f'[[pipelines.shop.tables]]\nname = "{prefix}{name}"\nto = "{prefix}{to}"\npre_action = "{pre_action}"')
    one = f"the table '{prefix}{name}' is its own target: source and target are one system, and '{prefix}{to}' is"
    among_others = f"would be both read, as '{prefix}{name}', and written, as '{prefix}{to}'"
    for command in ("plan", "check", "run --once"):
        assert (among_others if "*" in name else one) in " ".join(desk.fail(command).split())
    after = {name: found for name, found in desk.everything().items() if not name.startswith(".")}
    assert after == before


@pytest.mark.parametrize(("pre_action", "left_out"), [("truncate", "{copy}"), ("swap", "retl-{copy}-*")])
def test_a_pattern_may_leave_its_own_copy_out(desk: Desk, pre_action: str, left_out: str) -> None:
    copy = f"{desk.orders}-copy"
    pattern = f"{desk.orders}*,-{left_out.format(copy=copy)}"
    desk.create(desk.orders)
    desk.write(f'[[pipelines.shop.tables]]\nname = "{desk.orders}*"\nto = "{copy}"\npre_action = "{pre_action}"')
    assert f'name = "{pattern}"' in " ".join(desk.fail("run --once").split())
    desk.write(f'[[pipelines.shop.tables]]\nname = "{pattern}"\nto = "{copy}"\npre_action = "{pre_action}"')
    for _ in range(2):
        desk.run()
        assert desk.server.texts(copy) == OLD


# Commands ---------------------------------------------------------------------------


def test_check_plan_tables_and_status_write_nothing(desk: Desk) -> None:
    desk.create(desk.orders)
    desk.table('cursor = "at"\nwhere = "city:*"')
    before = desk.everything()
    checked = desk.type("check")
    assert [line.split()[:2] for line in checked.out.splitlines()[1:]] == [["ok", "shop"]] * 3
    assert "Elasticsearch 8" in checked.out
    planned = desk.type("plan")
    for part in (
        f"{desk.orders} -> {desk.copy}: incremental by at",
        "reads   2 rows in 1 slice",
        "window  at <= 2024-01-02T00:00:00.000",
        f"POST /{desk.orders}/_search",
        '"query_string":{"query":"city:*"}',
        f"PUT /{desk.copy}",
        f"POST /{desk.copy}/_bulk",
    ):
        assert part in planned.out, planned
    assert f"  {desk.orders}\n" in desk.type("tables").out
    for command in ("status", "rejects"):
        desk.type(command)
    assert "has never heard of this pipeline" in desk.type("history", code=1).err
    assert desk.everything() == before
    desk.run()
    status = desk.type("status").out
    assert "2024-01-02 00:00:00.000Z" in status and "last run" in status


@pytest.mark.parametrize(
    ("pre_action", "wanted"),
    [
        ("truncate", ["DELETE /{copy}", "PUT /{copy} (its own mapping, settings and aliases)"]),
        ("swap", ["PUT /retl-{copy}-<epoch>-<time>", "POST /_aliases ({copy} -> retl-{copy}-<epoch>-<time>)"]),
    ],
)
def test_a_plan_shows_index_and_alias_actions(desk: Desk, pre_action: str, wanted: list[str]) -> None:
    desk.create(desk.orders)
    desk.table(f'pre_action = "{pre_action}"')
    desk.run()
    desk.change(desk.orders)
    before = desk.everything()
    planned = desk.type("plan").out
    assert all(part.format(copy=desk.copy) in planned for part in wanted), planned
    assert desk.everything() == before


def test_documents_that_are_refused_are_put_aside(desk: Desk) -> None:
    desk.create(desk.orders)
    desk.server.ask("PUT", f"/{desk.copy}", {"mappings": {"properties": {"city": {"type": "date"}}}})
    desk.table('cursor = "at"')
    assert "rejected 2 rows" in desk.run(code=1).out
    assert desk.server.texts(f".{desk.scene.prefix}-state")
    desk.table('cursor = "at"\nmax_rejects = 2')
    assert "2 rows rejected" in desk.run().out
    assert desk.server.texts(desk.copy) == {"c": OLD["c"]}
    found = {each["reject"]["key"]: each["reject"] for each in desk.type("rejects", "--json").json()}
    assert [json.loads(key) for key in sorted(found)] == [{"_id": "a"}, {"_id": "b"}]
    assert all("failed to parse field [city]" in each["reason"] for each in found.values())
    desk.server.ask("DELETE", f"/{desk.copy}")
    assert desk.type("reset", "--yes").out == "shop: 1 checkpoint forgotten\n"
    desk.run()
    assert desk.server.texts(desk.copy) == OLD


# Actions that are forbidden -----------------------------------------------------------


# Mistakes -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run --once", "check", "plan"])
def test_an_index_cannot_be_renamed(desk: Desk, command: str) -> None:
    desk.create(desk.orders)
    desk.table('pre_action = "rename_and_create"')
    said = desk.fail(command)
    assert "an index cannot be" in said and 'use pre_action = "swap"' in said
    assert desk.scene.indices() == [desk.orders]


def test_an_index_that_is_not_there(desk: Desk) -> None:
    desk.create(desk.orders)
    desk.write(f'tables = ["{desk.orders[:-1]}"]')
    for command in ("run --once", "check", "plan"):
        said = desk.fail(command)
        assert f"the source has no index, alias or data stream '{desk.orders[:-1]}'" in said
        assert f"did you mean '{desk.orders}'?" in said
    assert desk.scene.indices() == [desk.orders]


def test_a_server_that_is_not_there(desk: Desk) -> None:
    desk.create(desk.orders)
    nowhere = f"http://127.0.0.1:{free_port()}"
    desk.table(source=desk.words(url=nowhere))
    done = desk.type("check", code=1)
    assert f"the connection to {nowhere[7:]} failed" in done.out and "check address" in done.out
    desk.table(target=desk.words(url=nowhere))
    done = desk.type("check", code=1)
    assert f"the connection to {nowhere[7:]} failed" in done.out + done.err
    assert desk.scene.indices() == [desk.orders]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('cursor = "city"', "the cursor 'city' is of type keyword"),
        ('cursor = "att"', "did you mean 'at'?"),
        ('rename = { city = "town" }', "documents travel as they are"),
        ('expressions = { city = "upper(city)" }', "Elasticsearch computes no columns"),
        ('where = "{city}"', "where is not valid JSON"),
    ],
)
def test_words_that_make_no_sense_are_said_in_one_line(desk: Desk, more: str, message: str) -> None:
    desk.create(desk.orders)
    desk.table(more)
    for command in ("run --once", "check", "plan"):
        said = desk.fail(command)
        assert message in said and said.count("What to do") == 1
    assert desk.scene.indices() == [desk.orders]


def test_a_name_that_no_index_can_have(desk: Desk) -> None:
    desk.create(desk.orders)
    desk.write(f'[[pipelines.shop.tables]]\nname = "{desk.orders}"\nto = "Copy"')
    assert "'Copy' cannot be the name of an index" in desk.type("check", code=1).out


SECRET = "hunter/22@"


@contextmanager
def locked(server: SearchServer, hook: Hook) -> Iterator[str]:
    """The server behind a door, which answers as that of Elasticsearch does; its URL."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(between(server)) as line:
        line.hook = hook
        yield line.url


def refused(status: int, reason: str) -> tuple[int, bytes]:
    cause = {"type": "security_exception", "reason": reason}
    return status, json.dumps({"error": {"root_cause": [cause], **cause}, "status": status}).encode()


async def door(asked: Asked, forward: Callable[[], Awaitable[Answer]]) -> Answer:
    if asked.headers.get("Authorization") == f"Basic {base64.b64encode(f'retl:{SECRET}'.encode()).decode()}":
        return await forward()
    return refused(401, "unable to authenticate user [retl] for REST request [/]")


@pytest.mark.parametrize("role", ["source", "target"])
def test_a_wrong_password(desk: Desk, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.create(desk.orders)
    state = f".{desk.scene.prefix}-state"
    with locked(desk.server, door) as url:
        desk.table(**{role: desk.words(url=url, user="retl", password="${RETL_TEST_SECRET}", state_index=state)})
        monkeypatch.setenv("RETL_TEST_SECRET", "wr0ng")
        for command in ("run --once", "check", "plan"):
            said = desk.fail(command)
            assert f"the {role} at {url[7:]} refused the login: unable to authenticate user [retl]" in said
            assert "What to do: check api_key, or user and password" in said and "wr0ng" not in said
        assert desk.scene.indices() == [desk.orders]
        monkeypatch.setenv("RETL_TEST_SECRET", SECRET)
        desk.run()
    assert desk.server.texts(desk.copy) == OLD


def test_a_privilege_that_is_missing(desk: Desk) -> None:
    desk.create(desk.orders)
    privileges = "this action is granted by the index privileges [create_index,manage,all]"

    async def no_creating(asked: Asked, forward: Callable[[], Awaitable[Answer]]) -> Answer:
        if asked.method == "PUT" and asked.path.startswith(f"/{desk.copy}"):
            return refused(403, f"action [indices:admin/create] is unauthorized for user [retl], {privileges}")
        return await forward()

    with locked(desk.server, no_creating) as url:
        desk.table(target=desk.words(url=url, state_index=f".{desk.scene.prefix}-state"))
        said = desk.fail("run --once")
    assert "lacks a privilege" in said and privileges in said
    assert desk.scene.indices() == [desk.orders]


# To SQL databases -----------------------------------------------------------------------

TYPED = {
    "properties": {
        "id": {"type": "long"},
        "name": {"type": "keyword"},
        "price": {"type": "double"},
        "at": {"type": "date_nanos"},
        "ok": {"type": "boolean"},
        "address": {"properties": {"city": {"type": "text"}, "zip.code": {"type": "keyword"}}},
        "lines": {"type": "nested", "properties": {"sku": {"type": "keyword"}}},
        "tags": {"type": "keyword"},
    }
}
FULL = {
    "id": 9007199254740993,
    "name": "Zoë 🙂",
    "price": 0.1,
    "at": "2024-01-01T00:00:00.123456789Z",
    "ok": True,
    "address": {"city": "Köln", "zip.code": "50667"},
    "lines": [{"sku": "x"}, {"sku": "y"}],
    "tags": ["a", "b"],
}
EMPTY = {"at": "2024-01-02T00:00:00Z", "tags": []}
TO_SQL = 'to = "orders"\ncursor = "at"\nformat = { arrays = ["tags"] }\ncolumns = ["_id", "id", "name", "price", "at", "ok", "address.city", "address.zip.code", "lines", "tags"]'


def brought(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows with their JSON as values."""
    return [
        (*row[:8], *(None if text is None else json.loads(text) for text in row[8:]))
        for row in sorted(rows, key=lambda row: row[0])
    ]


def test_to_sqlite(desk: Desk, tmp_path: Path) -> None:
    desk.create(desk.orders, TYPED, {"full": FULL, "empty": EMPTY})
    desk.write(
        f'[[pipelines.shop.tables]]\nname = "{desk.orders}"\n{TO_SQL}',
        target='{ type = "sqlite", path = "app.db" }',
    )
    assert "2 rows" in desk.run().out
    app = Database(tmp_path / "app.db")
    full = ("full", 9007199254740993, "Zoë 🙂", 0.1, "2024-01-01 00:00:00.123456789Z", 1, "Köln", "50667")
    empty = ("empty", None, None, None, "2024-01-02 00:00:00.000000000Z", None, None, None)
    assert brought(app.rows("orders")) == [(*empty, None, None), (*full, [{"sku": "x"}, {"sku": "y"}], ["a", "b"])]
    desk.server.put(desk.orders, {"empty": {**EMPTY, "name": "later", "at": "2024-01-03T00:00:00Z"}})
    assert "1 row" in desk.run().out
    assert app.run("SELECT _id, name, at FROM orders ORDER BY _id") == [
        ("empty", "later", "2024-01-03 00:00:00.000000000Z"),
        ("full", "Zoë 🙂", "2024-01-01 00:00:00.123456789Z"),
    ]


def test_to_duckdb(desk: Desk, tmp_path: Path) -> None:
    desk.create(desk.orders, TYPED, {"full": FULL, "empty": EMPTY})
    desk.write(
        f'[[pipelines.shop.tables]]\nname = "{desk.orders}"\npre_action = "swap"\n{TO_SQL.replace("cursor", "# cursor")}',
        target='{ type = "duckdb", path = "warehouse.duckdb" }',
    )
    for _ in range(2):
        desk.run()
    columns = '_id, id, name, price, "at", ok, "address.city", "address.zip.code", "lines", tags'
    found = Warehouse(tmp_path / "warehouse.duckdb").run(f"SELECT {columns} FROM orders")
    assert brought(found) == [
        ("empty", None, None, None, "2024-01-02 00:00:00.000000000Z", None, None, None, None, None),
        (
            *("full", 9007199254740993, "Zoë 🙂", 0.1, "2024-01-01 00:00:00.123456789Z", True, "Köln", "50667"),
            [{"sku": "x"}, {"sku": "y"}],
            ["a", "b"],
        ),
    ]


@pytest.fixture
def app(mysql_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tables]:
    monkeypatch.setenv("RETL_TEST_SECRET", mysql_server.password)
    with mysql_server.fresh_database() as name:
        yield Tables(mysql_server, name)


def mysql_words(app: Tables) -> str:
    at = f"{app.server.user}@{app.server.host}:{app.server.port}/{app.database}"
    return f'{{ type = "mysql", url = "mysql://{at}", password = "${{RETL_TEST_SECRET}}" }}'


def test_to_mysql(desk: Desk, app: Tables) -> None:
    desk.create(desk.orders, TYPED, {"full": FULL, "empty": EMPTY})
    table = f'[[pipelines.shop.tables]]\nname = "{desk.orders}"\n{TO_SQL}'
    desk.write(table, target=mysql_words(app))
    assert "timestamp[ns, tz=UTC], which has no lossless form" in desk.fail("run --once")
    desk.write(table.replace("format = {", 'format = { nanoseconds = "cut",'), target=mysql_words(app))
    desk.run()
    desk.server.put(desk.orders, {"empty": EMPTY, "below": {"at": "2024-01-01T23:59:59.999999999Z"}})
    assert "1 row" in desk.run().out  # the tie; the watermark keeps all digits
    full = (
        *("full", 9007199254740993, "Zoë 🙂", 0.1),
        *(dt.datetime(2024, 1, 1, 0, 0, 0, 123456), 1, "Köln", "50667"),  # noqa: DTZ001  # as the column has none
    )
    empty = ("empty", None, None, None, dt.datetime(2024, 1, 2), None, None, None)  # noqa: DTZ001
    assert brought(app.rows("orders")) == [(*empty, None, None), (*full, [{"sku": "x"}, {"sku": "y"}], ["a", "b"])]


# From SQL databases -----------------------------------------------------------------------


def test_from_duckdb(desk: Desk, tmp_path: Path) -> None:
    Warehouse(tmp_path / "warehouse.duckdb").run(
        'CREATE TABLE orders (id BIGINT, part VARCHAR, total DECIMAL(30, 10), "at" TIMESTAMP, day DATE, tags VARCHAR[], '
        "address STRUCT(city VARCHAR, zip INTEGER), doc JSON, PRIMARY KEY (id, part))",
        "INSERT INTO orders VALUES (7, 'eu', 12345678901234567890.0123456789, '2024-01-01 00:00:00.000001', '2024-01-01', "
        "['x', NULL], {'city': 'Köln', 'zip': 50667}, '{\"a\": [{\"b\": null}, {\"b\": 1}]}'), (8, 'us', NULL, NULL, NULL, [], NULL, NULL)",
    )
    desk.write(
        f'[[pipelines.shop.tables]]\nname = "orders"\nto = "{desk.copy}"',
        source='{ type = "duckdb", path = "warehouse.duckdb" }',
    )
    for _ in range(2):
        desk.run()
    texts = desk.server.texts(desk.copy)
    assert b"12345678901234567890.0123456789" in texts['["7","eu"]']
    documents = {name: json.loads(text, parse_float=str) for name, text in texts.items()}
    assert documents == {
        '["7","eu"]': {
            "id": 7,
            "part": "eu",
            "total": "12345678901234567890.0123456789",
            "at": "2024-01-01T00:00:00.000001",
            "day": "2024-01-01",
            "tags": ["x", None],
            "address": {"city": "Köln", "zip": 50667},
            "doc": {"a": [{"b": None}, {"b": 1}]},
        },
        '["8","us"]': {
            **dict.fromkeys(("total", "at", "day", "address", "doc")),
            "id": 8,
            "part": "us",
            "tags": [],
        },
    }
    properties = desk.scene.about(desk.copy)["mappings"]["properties"]
    assert {name: spec.get("type", "object") for name, spec in properties.items() if name != "doc"} == {
        "id": "long",
        "part": "keyword",
        "total": "double",
        "at": "date_nanos",
        "day": "date",
        "tags": "text",
        "address": "object",
    }


def test_from_sqlite_incrementally(desk: Desk, tmp_path: Path) -> None:
    shop = Database(tmp_path / "shop.db")
    shop.run(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, doc JSON, updated_at TIMESTAMP)",
        """INSERT INTO orders VALUES (1, '{"n": 1}', '2024-01-01 00:00:00.000001'), (2, '{"n": 2}', '2024-01-02 00:00:00')""",
    )
    desk.write(
        f'[[pipelines.shop.tables]]\nname = "orders"\nto = "{desk.copy}"\ncursor = "updated_at"',
        source='{ type = "sqlite", path = "shop.db" }',
    )
    desk.run()
    assert {name: (found["id"], found["doc"]) for name, found in desk.server.documents(desk.copy).items()} == {
        "1": (1, {"n": 1}),
        "2": (2, {"n": 2}),
    }
    shop.run("""UPDATE orders SET doc = '{"n": [3]}', updated_at = '2024-01-03 00:00:00' WHERE id = 1""")
    shop.run("INSERT INTO orders VALUES (3, NULL, '2024-01-03 00:00:00')")
    assert "3 rows" in desk.run().out
    assert {name: (found["id"], found["doc"]) for name, found in desk.server.documents(desk.copy).items()} == {
        "1": (1, {"n": [3]}),
        "2": (2, {"n": 2}),
        "3": (3, None),
    }
