"""What a scan of Elasticsearch reads: every document once, as it is, to the last digit of its cursor."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import anyio
import anyio.lowlevel
import pyarrow as pa
import pytest

from retl.connectors import Elasticsearch
from retl.connectors.elasticsearch.source import pages, reader
from retl.connectors.elasticsearch.source.catalog import stands_for
from retl.connectors.elasticsearch.source.pages import PAGE_BYTES
from retl.connectors.elasticsearch.types import index_of
from retl.model.checkpoint import Checkpoint
from retl.model.cursor import compare
from retl.model.errors import ConfigError, ConnectionFailed, GuardStopped, RetlError, SchemaDrift, UnsupportedError
from retl.model.plan import SourcePlan
from retl.model.table import TableSpec
from retl.testing import Scans, collect, table_spec
from tests.integration.elasticsearch.between import Answer, Asked, between
from tests.servers.search import SearchServer

NANOS = {"properties": {"at": {"type": "date_nanos"}, "n": {"type": "long"}}}


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven documents to a page."""
    monkeypatch.setattr(pages, "_FIRST_ROWS", 7)
    monkeypatch.setattr(pages.PageSize, "came", lambda self, rows, size: None)


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_MOST_PAUSE", 0.0)


def documents(name: str, **words: Any) -> TableSpec:
    """A table whose target takes whole documents."""
    return dataclasses.replace(table_spec(name, **words), documents=True)


def create(server: SearchServer, index: str, mappings: Any = NANOS, shards: int = 3, **settings: Any) -> str:
    body = {"settings": {"number_of_shards": shards, "number_of_replicas": 0, **settings}, "mappings": mappings}
    server.ask("PUT", f"/{index}", body)
    return index


def text_of(found: pa.Table, column: str) -> list[str]:
    return list(found[column].cast(pa.string()).to_pylist())


def by_id(found: pa.Table) -> dict[str, bytes]:
    """The documents that were read, by their ids; none came twice."""
    ids = found["_id"].to_pylist()
    assert [key for key, times in Counter(ids).items() if times > 1] == []
    return dict(zip(ids, found["_source"].to_pylist(), strict=True))


def after(plan: SourcePlan, watermark: str) -> Checkpoint:
    return Checkpoint(cursor=plan.table.cursor, cursor_type=plan.cursor_type, watermark=watermark)


def nanos(number: int) -> str:
    return f"2024-05-01T12:00:00.{number:09d}Z"


# Documents as they are -----------------------------------------------------------


async def test_documents_come_byte_for_byte(elasticsearch_server: SearchServer, prefix: str) -> None:
    index = create(elasticsearch_server, prefix, {"dynamic": False, "properties": {}})
    texts = {
        "plain": b'{"a":1}',
        "digits": b'{"n":12345678901234567890.123456789012345678901234567890, "e":1E+5,"z":1.10}',
        "spaces": b'{ "b" : [ 1 ,2 ] , "a":null}',
        "signs": '{"t":"é 🙂 \\u00e9 \\" \\\\ \\n"}'.encode(),
        "dots": b'{"user.name":"a","user":{"age":3}}',
        "empty": b"{}",
        'odd / "id" ü': b'{"x":[[],{}]}',
    }
    elasticsearch_server.put(index, texts)
    found = await collect(Elasticsearch(elasticsearch_server.url), documents(index))
    assert found.schema.names == ["_id", "_routing", "_source"]
    assert by_id(found) == texts == elasticsearch_server.texts(index)


async def test_routing_nested_and_joined_documents_are_unharmed(
    elasticsearch_server: SearchServer, prefix: str
) -> None:
    join = {"link": {"type": "join", "relations": {"question": "answer"}}, "parts": {"type": "nested"}}
    index = create(elasticsearch_server, prefix, {"properties": join})
    parents = {f"q{n}": b'{"link":"question","parts":[{"a":1},{"a":2}]}' for n in range(20)}
    elasticsearch_server.put(index, parents)
    for n in range(20):
        child = {"link": {"name": "answer", "parent": f"q{n}"}}
        elasticsearch_server.put(index, {f"a{n}": child}, routing=f"q{n}")
    found = await collect(Elasticsearch(elasticsearch_server.url), documents(index))
    assert by_id(found) == elasticsearch_server.texts(index)
    routing = dict(zip(found["_id"].to_pylist(), found["_routing"].to_pylist(), strict=True))
    assert routing == {hit.id: hit.routing for hit in elasticsearch_server.hits(index)}
    assert routing["a7"] == "q7"
    assert routing["q7"] is None


async def test_a_document_of_50_megabytes(elasticsearch_server: SearchServer, prefix: str) -> None:
    index = create(elasticsearch_server, prefix, {"dynamic": False, "properties": {}}, shards=1)
    large = json.dumps({"text": "x" * 50_000_000}).encode()
    elasticsearch_server.put(index, {"small": b'{"a":1}'})
    elasticsearch_server.put(index, {"large": large})
    found = await collect(Elasticsearch(elasticsearch_server.url), documents(index))
    read = by_id(found)
    assert read.keys() == {"small", "large"}
    assert read["large"] == large


@pytest.mark.parametrize("slices", [1, 2, 4, 7])
async def test_parallel_slices_read_every_document_once(
    elasticsearch_server: SearchServer, prefix: str, small_pages: None, slices: int
) -> None:
    index = create(elasticsearch_server, prefix)
    elasticsearch_server.put(index, {str(n): {"n": n} for n in range(1000)})
    found = await collect(Elasticsearch(elasticsearch_server.url, read_slices=slices), documents(index))
    assert by_id(found) == elasticsearch_server.texts(index)


async def test_the_plan_tells_the_index_it_comes_from(elasticsearch_server: SearchServer, prefix: str) -> None:
    analysis = {"analyzer": {"mine": {"type": "custom", "tokenizer": "whitespace"}}}
    mappings = {"dynamic": "strict", "properties": {"t": {"type": "text", "analyzer": "mine"}}}
    index = create(elasticsearch_server, prefix, mappings, shards=2, analysis=analysis, max_result_window=123)
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    plan = await source.plan(documents(index), Checkpoint())
    await source.aclose()
    told = index_of(plan.schema)
    assert told is not None
    assert told["mappings"] == mappings
    assert told["settings"]["index"] == {
        "number_of_shards": "2",
        "number_of_replicas": "0",
        "analysis": analysis,
        "max_result_window": "123",
    }
    elasticsearch_server.ask("PUT", f"/{prefix}-copy", {name: told[name] for name in ("mappings", "settings")})


# Cursors -------------------------------------------------------------------------


@pytest.mark.usefixtures("small_pages")
async def test_nanosecond_neighbours_are_told_apart(elasticsearch_server: SearchServer, prefix: str) -> None:
    index = create(elasticsearch_server, prefix)
    elasticsearch_server.put(index, {str(n): {"at": nanos(n)} for n in range(1, 31)})
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    plan = await source.plan(documents(index, cursor="at"), Checkpoint())
    assert plan.window is not None
    assert compare(plan.window.upper, nanos(30), "time") == 0
    first = await collect(source.source, documents(index, cursor="at"))
    assert text_of(first, "at") == [nanos(n).replace("T", " ") for n in range(1, 31)]
    again = await collect(source.source, documents(index, cursor="at"), after(plan, "2024-05-01 12:00:00.000000029Z"))
    assert again["_id"].to_pylist() == ["29", "30"]
    await source.aclose()


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        ("date", ["2024-05-01T12:00:00.001Z", "2024-05-01T12:00:00.002Z", "2024-05-01T12:00:01.000Z"]),
        ("date", [1714564800001, 1714564800002, 1714564801000]),
        ("date_nanos", ["2024-05-01", "2024-05-01T12:00:00.123456789+02:00", "2024-05-02"]),
        ("long", [-(2**63), 0, 2**63 - 1]),
        ("integer", [-5, 0, 5]),
    ],
)
async def test_cursors_of_every_type_go_on_where_they_were(
    elasticsearch_server: SearchServer, prefix: str, type_: str, values: list[Any]
) -> None:
    index = create(elasticsearch_server, prefix, {"properties": {"c": {"type": type_}}})
    elasticsearch_server.put(index, {str(n): {"c": value} for n, value in enumerate(values)})
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    table = documents(index, cursor="c")
    found = await collect(source.source, table)
    assert found["_id"].to_pylist() == ["0", "1", "2"]
    plan = await source.plan(table, Checkpoint())
    for number, value in enumerate(text_of(found, "c")):
        rest = await collect(source.source, table, after(plan, value))
        assert rest["_id"].to_pylist() == ["0", "1", "2"][number:]
    await source.aclose()


async def test_ten_thousand_documents_of_one_timestamp(elasticsearch_server: SearchServer, prefix: str) -> None:
    index = create(elasticsearch_server, prefix)
    elasticsearch_server.put(index, {str(n): {"at": nanos(5), "n": n} for n in range(10_000)})
    elasticsearch_server.put(index, {"before": {"at": nanos(4)}, "behind": {"at": nanos(6)}})
    table = documents(index, cursor="at")
    found = await collect(Elasticsearch(elasticsearch_server.url), table)
    assert by_id(found) == elasticsearch_server.texts(index)
    assert found["_id"][0].as_py() == "before"
    assert found["_id"][-1].as_py() == "behind"


@pytest.mark.usefixtures("small_pages")
async def test_ties_across_pages_and_shards_come_once(elasticsearch_server: SearchServer, prefix: str) -> None:
    index = create(elasticsearch_server, prefix)
    elasticsearch_server.put(index, {str(n): {"at": nanos(n // 10)} for n in range(200)})
    found = await collect(Elasticsearch(elasticsearch_server.url), documents(index, cursor="at"))
    assert by_id(found) == elasticsearch_server.texts(index)
    assert text_of(found, "at") == sorted(text_of(found, "at"))


async def test_documents_without_the_cursor_are_counted_and_read_where_that_is_wanted(
    elasticsearch_server: SearchServer, prefix: str
) -> None:
    index = create(elasticsearch_server, prefix)
    texts = {"a": b'{"at":"2024-05-01"}', "b": b'{"n":1}', "c": b'{"at":null}', "d": b'{"at":[]}'}
    elasticsearch_server.put(index, texts)
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    plan = await source.plan(documents(index, cursor="at"), Checkpoint())
    assert plan.null_cursor_rows == 3
    assert by_id(await collect(source.source, documents(index, cursor="at"))) == {"a": texts["a"]}
    included = await collect(source.source, documents(index, cursor="at", null_cursor="include"))
    assert by_id(included) == texts
    await source.aclose()


async def test_several_values_of_a_cursor_never_lift_the_watermark_above_what_was_read(
    elasticsearch_server: SearchServer, prefix: str
) -> None:
    index = create(elasticsearch_server, prefix)
    elasticsearch_server.put(index, {"both": {"at": [nanos(1), "2200-01-01"]}, "one": {"at": nanos(2)}})
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    plan = await source.plan(documents(index, cursor="at"), Checkpoint())
    assert plan.window is not None
    assert compare(plan.window.upper, nanos(2), "time") == 0
    found = await collect(source.source, documents(index, cursor="at"))
    assert text_of(found, "at") == [nanos(1).replace("T", " "), nanos(2).replace("T", " ")]
    await source.aclose()


async def test_a_refresh_before_the_plan_shows_what_was_written(
    elasticsearch_server: SearchServer, prefix: str
) -> None:
    index = create(elasticsearch_server, prefix, refresh_interval="-1")
    elasticsearch_server.ask("PUT", f"/{index}/_doc/1", {"at": nanos(1)})
    assert elasticsearch_server.ask("GET", f"/{index}/_search")["hits"]["hits"] == []
    for table in (documents(index, cursor="at"), documents(index)):
        found = await collect(Elasticsearch(elasticsearch_server.url), table)
        assert found["_id"].to_pylist() == ["1"]


async def test_documents_that_become_visible_late_are_not_missed(
    elasticsearch_server: SearchServer, prefix: str
) -> None:
    index = create(elasticsearch_server, prefix, refresh_interval="-1")
    now = time.time_ns()
    old, young = now - 60 * 10**9, now - 10**9
    elasticsearch_server.put(index, {"old": {"at": _instant(old)}, "young": {"at": _instant(young)}})
    elasticsearch_server.ask("PUT", f"/{index}/_doc/late", {"at": _instant(young - 1)})

    async def no_right(asked: Asked, forward: Callable[[], Awaitable[Answer]]) -> Answer:
        return (403, b'{"error":"no"}') if "_refresh" in asked.path else await forward()

    async with between(elasticsearch_server) as way:
        way.hook = no_right
        source = Scans(Elasticsearch(way.url).source())
        first = await source.plan(documents(index, cursor="at"), Checkpoint())
        assert first.window is not None
        assert compare(first.window.upper, _instant(old), "time") == 0  # what is younger than 5 s waits
        assert list(by_id(await collect(source.source, documents(index, cursor="at")))) == ["old"]
        elasticsearch_server.ask("POST", f"/{index}/_refresh")
        later = await collect(source.source, documents(index, cursor="at", settle=0), after(first, first.window.upper))
        assert later["_id"].to_pylist() == ["old", "late", "young"]
        await source.aclose()


def _instant(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


async def test_settle_and_lookback(elasticsearch_server: SearchServer, prefix: str) -> None:
    index = create(elasticsearch_server, prefix)
    now = time.time_ns()
    elasticsearch_server.put(index, {str(age): {"at": _instant(now - age * 10**9)} for age in (7200, 1800, 60, 1)})
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    settled = await collect(source.source, documents(index, cursor="at", settle="10m"))
    assert settled["_id"].to_pylist() == ["7200", "1800"]
    plan = await source.plan(documents(index, cursor="at"), Checkpoint())
    back = documents(index, cursor="at", lookback="1h", settle=0)
    assert (await collect(source.source, back, after(plan, _instant(now - 10**9))))["_id"].to_pylist() == [
        "1800",
        "60",
        "1",
    ]
    await source.aclose()


@pytest.mark.parametrize("settle", [None, "0s"])
@pytest.mark.parametrize("type_", ["date", "date_nanos"])
async def test_a_document_of_the_future_waits_and_is_told(
    elasticsearch_server: SearchServer, prefix: str, type_: str, settle: str | None
) -> None:
    index = create(elasticsearch_server, prefix, {"properties": {"at": {"type": type_}}})
    soon = _instant(time.time_ns() + 3600 * 10**9)
    elasticsearch_server.put(index, {"now": {"at": "2024-05-01"}, "soon": {"at": soon}, "far": {"at": "2199-01-01"}})
    elasticsearch_server.put(index, {"both": {"at": ["2024-04-01", "2199-01-01"]}})
    table = documents(index, cursor="at", **({} if settle is None else {"settle": settle}))
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    plan = await source.plan(table, Checkpoint())
    assert plan.window is not None
    assert compare(plan.window.upper, "2024-05-01T00:00:00Z", "time") == 0
    (warned,) = plan.warnings
    assert "'at' lies more than a day in the future by the source's clock: 1." in warned
    assert (await collect(source.source, table))["_id"].to_pylist() == ["both", "now"]
    elasticsearch_server.put(index, {"later": {"at": "2024-06-01"}, "far": {"at": soon}})
    plan = await source.plan(table, after(plan, plan.window.upper))
    assert (plan.rows, plan.warnings) == (2, ())
    await source.aclose()


async def test_a_cursor_that_became_finer_goes_on(elasticsearch_server: SearchServer, prefix: str) -> None:
    create(elasticsearch_server, f"{prefix}-1", {"properties": {"at": {"type": "date"}}})
    create(elasticsearch_server, f"{prefix}-2", {"properties": {"at": {"type": "date_nanos"}}})
    elasticsearch_server.put(f"{prefix}-1", {"a": {"at": "2024-05-01T12:00:00.001Z"}})
    elasticsearch_server.put(f"{prefix}-2", {"b": {"at": nanos(1_000_001)}, "c": {"at": nanos(999_999)}})
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    old = await source.plan(documents(f"{prefix}-1", cursor="at"), Checkpoint())
    both = documents(f"{prefix}-*", cursor="at")
    found = await collect(source.source, both)
    assert found["_id"].to_pylist() == ["c", "a", "b"]
    assert found.schema.field("at").type == pa.timestamp("ns", "UTC")
    again = await collect(source.source, both, after(old, "2024-05-01 12:00:00.001Z"))
    assert again["_id"].to_pylist() == ["a", "b"]
    with pytest.raises(SchemaDrift):
        await source.plan(documents(f"{prefix}-1", cursor="at"), Checkpoint(watermark="5", cursor_type="integer"))
    await source.aclose()


# Names ---------------------------------------------------------------------------


async def test_aliases_patterns_and_lists_are_names(elasticsearch_server: SearchServer, prefix: str) -> None:
    server = elasticsearch_server
    for number in (1, 2):
        create(server, f"{prefix}-{number}")
        server.put(f"{prefix}-{number}", {f"{number}-{n}": {"n": n} for n in range(20)})
    few = {"term": {"n": 3}}
    server.ask(
        "POST",
        "/_aliases",
        {
            "actions": [
                {"add": {"index": f"{prefix}-*", "alias": f"{prefix}all"}},
                {"add": {"index": f"{prefix}-1", "alias": f"{prefix}few", "filter": few}},
            ]
        },
    )
    server.ask("PUT", f"/.{prefix}hidden", {"settings": {"hidden": True}})
    source = Scans(Elasticsearch(server.url).source())
    everything = server.texts(f"{prefix}-*")
    for name in (f"{prefix}all", f"{prefix}-*", f"{prefix}-1,{prefix}-2"):
        assert by_id(await collect(source.source, documents(name))) == everything
    assert list(by_id(await collect(source.source, documents(f"{prefix}few")))) == ["1-3"]
    # Each document is offered once: an alias stands for what is there already.
    assert [name for name in await source.list_tables() if prefix in name] == [f"{prefix}-1", f"{prefix}-2"]
    plan = await source.plan(documents(f"{prefix}all"), Checkpoint())
    assert not plan.unique_key
    assert "share an _id" in plan.warnings[0]
    await source.aclose()


async def test_a_data_stream_is_a_name(elasticsearch_server: SearchServer, prefix: str) -> None:
    server = elasticsearch_server
    server.ask(
        "PUT",
        f"/_index_template/{prefix}",
        {"index_patterns": [f"{prefix}*"], "data_stream": {}, "template": {"settings": {"number_of_replicas": 0}}},
    )
    server.bulk(prefix, (({"create": {}}, {"@timestamp": f"2024-05-01T12:00:{n:02d}Z", "n": n}) for n in range(30)))
    server.ask("POST", f"/{prefix}/_rollover")
    server.bulk(prefix, (({"create": {}}, {"@timestamp": f"2024-05-01T12:01:{n:02d}Z", "n": n}) for n in range(30)))
    source = Scans(Elasticsearch(server.url).source())
    assert prefix in await source.list_tables()
    found = await collect(source.source, documents(prefix, cursor="@timestamp"))
    assert by_id(found) == server.texts(prefix)
    times = text_of(found, "@timestamp")
    assert times == sorted(times)
    assert len(times) == 60
    await source.aclose()


@pytest.mark.parametrize("name", ["_search", "_cat", "_nodes", "_alias", "orders,_search", "..", "orders,"])
async def test_a_name_that_means_something_else_to_the_server_is_refused(
    elasticsearch_server: SearchServer, name: str
) -> None:
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    with pytest.raises(ConfigError, match="cannot be the name of an index"):
        await source.plan(documents(name), Checkpoint())
    await source.aclose()


async def test_names_and_patterns_are_read_as_the_server_reads_them(
    elasticsearch_server: SearchServer, prefix: str
) -> None:
    alias = f"{prefix}-view"
    there = [create(elasticsearch_server, f"{prefix}-{name}", shards=1) for name in ("a", "ab", "b")]
    elasticsearch_server.ask("PUT", f"/{prefix}-b/_alias/{alias}")
    for expression in (
        *("-a", "-a*", "-*", "-v*", "-view", "-a,{}-b", "-*,-{}-a", "-*,-{}-a*", "-a*,-{}-*,{}-ab"),
        *("-*,-{}-view", "-*,-{}-v*", "-*,-{}-b", "-a,-{}-a*", "-v*,-{}-b*,{}-view"),
    ):
        asked = prefix + expression.format(*[prefix] * 2)
        found = elasticsearch_server.ask("GET", f"/{asked}", allow=(404,))
        told = [name for name in there if stands_for(asked, name, alias=alias if name == there[-1] else name)]
        assert told == [name for name in there if name in found], asked
    assert all(stands_for("_all", name, alias=name) for name in there)


async def test_a_name_that_is_not_there_says_what_is(elasticsearch_server: SearchServer, prefix: str) -> None:
    create(elasticsearch_server, f"{prefix}orders")
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    with pytest.raises(ConfigError, match=f"did you mean '{prefix}orders'"):
        await source.plan(documents(f"{prefix}order"), Checkpoint())
    with pytest.raises(ConfigError, match="no index"):
        await source.plan(documents(f"{prefix}x*"), Checkpoint())
    await source.aclose()


# What is chosen ------------------------------------------------------------------


@pytest.mark.parametrize("where", ['{"range": {"n": {"gte": 8}}}', "n:[8 TO *]"])
async def test_where_filters(elasticsearch_server: SearchServer, prefix: str, where: str) -> None:
    index = create(elasticsearch_server, prefix)
    elasticsearch_server.put(index, {str(n): {"n": n, "at": nanos(20 - n)} for n in range(10)})
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    assert by_id(await collect(source.source, documents(index, where=where))).keys() == {"8", "9"}
    found = await collect(source.source, documents(index, where=where, cursor="at"))
    assert found["_id"].to_pylist() == ["9", "8"]
    await source.aclose()


async def test_columns_filter_the_source(elasticsearch_server: SearchServer, prefix: str) -> None:
    index = create(elasticsearch_server, prefix)
    elasticsearch_server.put(index, {"1": {"n": 1, "user": {"name": "a", "age": 2}, "other": True, "at": nanos(1)}})
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    for columns, left in (
        (["n", "user.name"], {"n": 1, "user": {"name": "a"}}),
        (["user"], {"user": {"name": "a", "age": 2}}),
        (["user.*", "n"], {"n": 1, "user": {"name": "a", "age": 2}}),
    ):
        found = by_id(await collect(source.source, documents(index, columns=columns, cursor="at")))
        assert json.loads(found["1"]) == left
    await source.aclose()


@pytest.mark.parametrize(
    ("words", "error", "match"),
    [
        ({"where": '{"term": '}, ConfigError, "where is not valid JSON"),
        ({"where": '{"nonsense": {}}'}, RetlError, "nonsense"),
        ({"columns": ["nn"]}, ConfigError, "nn"),
        ({"rename": {"n": "m"}}, UnsupportedError, "renamed"),
        ({"expressions": {"x": "1"}}, UnsupportedError, "computes no columns"),
        ({"query": "SELECT 1"}, UnsupportedError, "no SQL"),
        ({"key": "n"}, UnsupportedError, "keep their _id"),
        ({"format": {"arrays": ["n"]}}, UnsupportedError, "format"),
        ({"cursor": "t"}, ConfigError, "of type text"),
        ({"cursor": "t.raw"}, ConfigError, "t.raw"),
        ({"cursor": "n", "settle": "5s"}, ConfigError, "cursor is a number"),
        ({"cursor": "n", "lookback": "5s"}, ConfigError, "cursor is a number"),
        ({"cursor": "n", "settle": "0s"}, ConfigError, "cursor is a number"),
    ],
)
async def test_words_that_make_no_sense_are_refused(
    elasticsearch_server: SearchServer, prefix: str, words: dict[str, Any], error: type[Exception], match: str
) -> None:
    text = {"type": "text", "fields": {"raw": {"type": "keyword"}}}
    index = create(elasticsearch_server, prefix, {"properties": {**NANOS["properties"], "t": text}})
    elasticsearch_server.put(index, {"1": {"n": 1, "t": "x"}})
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    with pytest.raises(error, match=match):
        checkpoint = Checkpoint(watermark="1", cursor_type="integer") if "lookback" in words else Checkpoint()
        await source.plan(documents(index, **words), checkpoint)
    await source.aclose()


async def test_an_index_without_sources_is_refused(elasticsearch_server: SearchServer, prefix: str) -> None:
    index = create(elasticsearch_server, prefix, {"_source": {"enabled": False}})
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    with pytest.raises(ConfigError, match="_source is disabled"):
        await source.plan(documents(index), Checkpoint())
    await source.aclose()


@pytest.mark.parametrize(
    ("about", "left_out"),
    [({"excludes": ["text", "raw.*"]}, "raw.*; text"), ({"includes": ["n", "m"]}, "all but n, m")],
)
async def test_what_a_mapping_keeps_out_of_its_documents_is_told(
    elasticsearch_server: SearchServer, prefix: str, about: dict[str, Any], left_out: str
) -> None:
    fields = {"n": {"type": "long"}, "text": {"type": "keyword"}}
    index = create(elasticsearch_server, prefix, {"_source": about, "properties": fields})
    elasticsearch_server.put(index, {"1": {"n": 1, "text": "x"}})
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    for table in (documents(index), table_spec(index)):
        (warned,) = (await source.plan(table, Checkpoint())).warnings
        assert f"the mapping keeps {left_out} out of _source" in warned
    assert by_id(await collect(source.source, documents(index))) == {"1": b'{"n":1}'}
    await source.aclose()


# What goes wrong -----------------------------------------------------------------


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("cut_at", [2, 3, 9])
async def test_a_window_goes_on_after_its_point_in_time_is_lost(
    elasticsearch_server: SearchServer, prefix: str, cut_at: int
) -> None:
    index = create(elasticsearch_server, prefix)
    elasticsearch_server.put(index, {str(n): {"at": nanos(n // 12)} for n in range(100)})
    async with between(elasticsearch_server) as way:

        async def lose(asked: Asked, forward: Callable[[], Awaitable[Answer]]) -> Answer:
            if asked.is_page and len(way.pages) == cut_at:
                await elasticsearch_server.run("DELETE", "/_pit", {"id": asked.json["pit"]["id"]})
            return await forward()

        way.hook = lose
        found = await collect(Elasticsearch(way.url), documents(index, cursor="at"))
        opened = [asked for asked in way.asked if "_pit?" in asked.path]
        begun = [asked for asked in way.pages if "search_after" not in asked.json]
    assert by_id(found) == elasticsearch_server.texts(index)
    assert text_of(found, "at") == sorted(text_of(found, "at"))
    assert len(opened) == len(begun) == 2
    lower = begun[1].json["query"]["bool"]["filter"][-1]["range"]["at"]["gte"]
    assert lower == nanos(((cut_at - 1) * 7 - 1) // 12)  # back to the last document, not to the start


@pytest.mark.usefixtures("small_pages")
async def test_a_full_scan_ends_with_its_point_in_time(elasticsearch_server: SearchServer, prefix: str) -> None:
    index = create(elasticsearch_server, prefix)
    elasticsearch_server.put(index, {str(n): {"n": n} for n in range(100)})
    async with between(elasticsearch_server) as way:

        async def lose(asked: Asked, forward: Callable[[], Awaitable[Answer]]) -> Answer:
            if asked.is_page and len(way.pages) == 6:
                await elasticsearch_server.run("DELETE", "/_pit", {"id": asked.json["pit"]["id"]})
            return await forward()

        way.hook = lose
        with pytest.raises(ConnectionFailed, match="point in time"):
            await collect(Elasticsearch(way.url), documents(index))


@pytest.mark.usefixtures("small_pages", "no_pause")
@pytest.mark.parametrize("cursor", [None, "at"])
@pytest.mark.parametrize(
    "harm",
    [
        {"timed_out": True},
        {"_shards": {"total": 3, "successful": 2, "skipped": 0, "failed": 1}},
        {"_shards": {"total": 3, "successful": 2, "skipped": 0, "failed": 0}},
    ],
)
async def test_a_page_that_is_not_complete_is_never_taken_for_one(
    elasticsearch_server: SearchServer, prefix: str, cursor: str | None, harm: dict[str, Any]
) -> None:
    index = create(elasticsearch_server, prefix)
    elasticsearch_server.put(index, {str(n): {"at": nanos(n)} for n in range(60)})
    table = documents(index, cursor=cursor)
    async with between(elasticsearch_server) as way:
        lasting = False

        async def shorten(asked: Asked, forward: Callable[[], Awaitable[Answer]]) -> Answer:
            status, body = await forward()
            if asked.is_page and (lasting or len(way.pages) == 3):
                answer = {**json.loads(body), **harm}
                answer["hits"]["hits"] = answer["hits"]["hits"][:1]
                body = json.dumps(answer).encode()
            return status, body

        way.hook = shorten
        assert by_id(await collect(Elasticsearch(way.url), table)) == elasticsearch_server.texts(index)
        lasting = True
        with pytest.raises(ConnectionFailed, match="not complete"):
            await collect(Elasticsearch(way.url), table)


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_server_that_is_overloaded_is_asked_again_for_less(
    elasticsearch_server: SearchServer, prefix: str, status: int
) -> None:
    index = create(elasticsearch_server, prefix, shards=1)
    elasticsearch_server.put(index, {str(n): {"n": n} for n in range(300)})
    async with between(elasticsearch_server) as way:

        async def refuse(asked: Asked, forward: Callable[[], Awaitable[Answer]]) -> Answer:
            return (status, b'{"error":"busy"}') if asked.is_page and asked.json["size"] > 100 else await forward()

        way.hook = refuse
        found = await collect(Elasticsearch(way.url, read_slices=1), documents(index))
    assert by_id(found) == elasticsearch_server.texts(index)


async def test_the_newest_id_of_a_point_in_time_is_used(
    elasticsearch_server: SearchServer, prefix: str, small_pages: None
) -> None:
    index = create(elasticsearch_server, prefix)
    elasticsearch_server.put(index, {str(n): {"at": nanos(n)} for n in range(30)})
    real = ""
    async with between(elasticsearch_server) as way:

        async def rename(asked: Asked, forward: Callable[[], Awaitable[Answer]]) -> Answer:
            """Give the point in time another name with every page, and take no older one."""
            nonlocal real
            if asked.is_page:
                number = len(way.pages)
                assert asked.json["pit"]["id"] in (f"id-{number - 1}", real)
                way.hook = None
                asked.body = json.dumps({**asked.json, "pit": {"id": real, "keep_alive": "1m"}}).encode()
                status, body = await forward()
                way.hook = rename
                return status, json.dumps({**json.loads(body), "pit_id": f"id-{number}"}).encode()
            status, body = await forward()
            if "/_pit?" in asked.path:
                real = json.loads(body)["id"]
            return status, body

        way.hook = rename
        found = await collect(Elasticsearch(way.url), documents(index, cursor="at"))
        closed = [asked.json["id"] for asked in way.asked if asked.method == "DELETE"]
        assert closed == [f"id-{len(way.pages)}"]
        elasticsearch_server.ask("DELETE", "/_pit", {"id": real})
    assert by_id(found) == elasticsearch_server.texts(index)


async def test_a_point_in_time_is_kept_while_the_target_is_slow(
    elasticsearch_server: SearchServer, prefix: str, small_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_TOUCH_SECONDS", 0.03)
    index = create(elasticsearch_server, prefix)
    elasticsearch_server.put(index, {str(n): {"at": nanos(n)} for n in range(100)})
    touched = anyio.Event()
    real = ""
    async with between(elasticsearch_server) as way:

        async def watch(asked: Asked, forward: Callable[[], Awaitable[Answer]]) -> Answer:
            """Give the point in time another name when it is touched; who has heard of it uses no other."""
            nonlocal real
            if not asked.path.startswith("/_search") or "pit" not in asked.json:
                return await forward()
            touch, given = asked.json["size"] == 0, asked.json["pit"]["id"]
            real = real or given
            assert given == "newest" or not touched.is_set()
            if touch and given == "newest":
                touched.set()
            asked.body = json.dumps({**asked.json, "pit": {"id": real, "keep_alive": "1m"}}).encode()
            status, body = await forward()
            newest = "newest" if touch or touched.is_set() else real
            return status, json.dumps({**json.loads(body), "pit_id": newest}).encode()

        way.hook = watch
        source = Scans(Elasticsearch(way.url).source())
        plan = await source.plan(documents(index, cursor="at"), Checkpoint())
        ids: list[str] = []
        async with aclosing(source.read(plan, plan.slices[0])) as batches:
            async for batch in batches:
                if not ids:
                    with anyio.fail_after(10):
                        await touched.wait()
                ids += batch.column("_id").to_pylist()
        await source.aclose()
    elasticsearch_server.ask("DELETE", "/_pit", {"id": real})
    assert ids == [str(n) for n in range(100)]


@pytest.mark.parametrize("cursor", [None, "at"])
async def test_whatever_ends_a_read_the_scan_gives_its_point_in_time_back(
    elasticsearch_server: SearchServer, prefix: str, small_pages: None, cursor: str | None
) -> None:
    index = create(elasticsearch_server, prefix)
    elasticsearch_server.put(index, {str(n): {"at": nanos(n)} for n in range(500)})
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    plan = await source.plan(documents(index, cursor=cursor), Checkpoint())
    before = _open_contexts(elasticsearch_server)
    with anyio.CancelScope() as scope:
        async with aclosing(source.read(plan, plan.slices[0])) as batches:
            async for _ in batches:
                scope.cancel()
                await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    await source.leave()
    assert _open_contexts(elasticsearch_server) == before
    await source.aclose()


def _open_contexts(server: SearchServer) -> int:
    stats = server.ask("GET", "/_nodes/stats/indices/search")
    return sum(node["indices"]["search"]["open_contexts"] for node in stats["nodes"].values())


async def test_documents_without_a_cursor_can_stop_a_scan(elasticsearch_server: SearchServer, prefix: str) -> None:
    from retl.engine.guard import check_null_cursor

    index = create(elasticsearch_server, prefix)
    elasticsearch_server.put(index, {"1": {"n": 1}, "2": {"at": nanos(1)}})
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    plan = await source.plan(documents(index, cursor="at", null_cursor="fail"), Checkpoint())
    with pytest.raises(GuardStopped):
        check_null_cursor(plan)
    await source.aclose()


@pytest.mark.usefixtures("small_pages")
async def test_big_pages_do_not_stall_the_loop(
    elasticsearch_server: SearchServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = create(elasticsearch_server, prefix, {"dynamic": False, "properties": {}}, shards=1)
    small, large = "x" * 1000, "x" * 300_000
    elasticsearch_server.put(index, {str(n): {"n": n, "t": large if 7 <= n < 14 else small} for n in range(21)})
    decoded: list[tuple[int, bool]] = []

    def watched(body: bytes, *words: Any) -> pages.Page:
        decoded.append((len(body), threading.current_thread() is threading.main_thread()))
        return pages.page(body, *words)

    monkeypatch.setattr(reader, "page", watched)
    found = await collect(Elasticsearch(elasticsearch_server.url, read_slices=1), documents(index))
    assert by_id(found) == elasticsearch_server.texts(index)
    in_loop = {size for size, in_the_loop in decoded if in_the_loop}
    in_threads = {size for size, in_the_loop in decoded if not in_the_loop}
    assert max(in_loop) <= 2 * PAGE_BYTES < min(in_threads)


async def test_scans_of_one_source_hold_a_moment_each(
    elasticsearch_server: SearchServer, prefix: str, small_pages: None
) -> None:
    index = create(elasticsearch_server, prefix)
    elasticsearch_server.put(index, {str(n): {"at": nanos(n)} for n in range(20)})
    before = _open_contexts(elasticsearch_server)
    async with Scans(Elasticsearch(elasticsearch_server.url).source()) as source:
        plans = [await source.plan(documents(index, cursor=cursor), Checkpoint()) for cursor in ("at", None)]
        readers = [source.read(plan, plan.slices[0]) for plan in plans]
        counts = [(await anext(reader)).num_rows for reader in readers]
        elasticsearch_server.put(index, {"late": {"at": nanos(30)}})
        for number, reader in enumerate(readers):
            async with aclosing(reader):
                counts[number] += sum([batch.num_rows async for batch in reader])
        assert counts == [20, 20]
        assert _open_contexts(elasticsearch_server) > before
    assert _open_contexts(elasticsearch_server) == before
