"""Values that not everything can hold: each document comes, or is a reject with its field and its name."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import retl
from retl.connectors import Elasticsearch, SQLite
from retl.connectors.elasticsearch.source import pages
from retl.model.checkpoint import Checkpoint, Reject
from retl.model.errors import ConfigError, ConnectionFailed, RepeatedKey
from retl.model.report import ScanReport
from retl.testing import Scans, collect, table_spec
from tests.integration.elasticsearch.between import Answer, Asked, between
from tests.integration.elasticsearch.test_source import by_id, create, documents
from tests.servers.search import SearchServer


@pytest.fixture(params=["elasticsearch_server", "opensearch_server"])
def server(request: pytest.FixtureRequest) -> SearchServer:
    found: SearchServer = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def prefix(server: SearchServer) -> Iterator[str]:
    with server.fresh_names() as name:
        yield name


class Copy:
    """A pipeline into a file of SQLite."""

    def __init__(self, server: SearchServer, folder: Path, table: str, **words: Any) -> None:
        self.path = folder / "copy.sqlite"
        self._pipeline = retl.Pipeline(
            "copy",
            source=Elasticsearch(server.url),
            target=SQLite(str(self.path)),
            tables=[retl.Table(table, to="t", **words)],
        )

    async def run(self) -> tuple[ScanReport, list[Reject]]:
        async with self._pipeline:
            (report,) = (await self._pipeline.run_once(check=False)).scans
            return report, await self._pipeline.rejects()

    def rows(self, what: str) -> dict[Any, Any]:
        with sqlite3.connect(self.path) as connection:
            found = dict(connection.execute(f"SELECT _id, {what} FROM t").fetchall())
        connection.close()
        return found


# Half of a sign ------------------------------------------------------------------

HALF = b'{"t":"cut \\ud83d","n":1,"raw":{"x":"\\uDE00\\u0041"}}'
WHOLE = {
    "good": b'{"t":"\\ud83d\\ude00 \\\\ud83d \\ufffd","n":2,"raw":{"x":"\\u00e9"}}',
    "plain": '{"t":"🙂","n":3}'.encode(),
}
TEXT = {
    "t": {"type": "text"},
    "n": {"type": "long"},
    "k": {"type": "keyword", "ignore_above": 20},
    "raw": {"type": "object", "enabled": False},
}


async def test_half_of_a_sign_stays_the_bytes_that_it_is(server: SearchServer, prefix: str) -> None:
    texts = {**WHOLE, "half": HALF}
    index = create(server, prefix, {"properties": TEXT})
    server.put(index, texts)
    assert by_id(await collect(Elasticsearch(server.url), documents(index))) == texts
    async with retl.Pipeline(
        "copy",
        source=Elasticsearch(server.url),
        target=Elasticsearch(server.url, state_index=f".{prefix}-state"),
        tables=[retl.Table(index, to=f"{prefix}-copy")],
    ) as pipeline:
        await pipeline.run_once()
    assert by_id(await collect(Elasticsearch(server.url), documents(f"{prefix}-copy"))) == texts
    kept = json.dumps(server.ask("GET", f"/{prefix}-copy/_doc/half")["_source"])
    assert kept == json.dumps(json.loads(HALF))


async def test_half_of_a_sign_is_a_reject_of_its_own_row(server: SearchServer, prefix: str, tmp_path: Path) -> None:
    index = create(server, prefix, {"dynamic": False, "properties": TEXT})
    long = b'{"k":"longer than the index takes \\ud83d"}'
    server.put(
        index,
        {**WHOLE, "half": HALF, "part": b'{"n":4,"raw":["\\ud800"]}', "long": long, "apart": b'{"u":"\\ud83d","n":5}'},
    )
    report, rejects = await Copy(server, tmp_path, index, max_rejects=3).run()
    assert report.error is None
    assert (report.rows, report.rejects) == (6, 3)
    assert Copy(server, tmp_path, index).rows("t || ' ' || n") == {
        "good": "😀 \\ud83d \ufffd 2",
        "plain": "🙂 3",
        "apart": None,
    }
    told = {json.loads(each.key)["_id"]: each for each in rejects}
    assert {name: each.column for name, each in told.items()} == {"half": "t", "part": "raw", "long": "k"}
    assert told["half"].reason.startswith("the field 't' of the document 'half' holds half of a sign")
    strict, _ = await Copy(server, tmp_path, index).run()
    assert strict.error_type == "RowsRejected"
    assert "holds half of a sign" in str(strict.error)


async def test_columns_beside_half_of_a_sign_come(server: SearchServer, prefix: str, tmp_path: Path) -> None:
    index = create(server, prefix, {"properties": TEXT})
    server.put(index, {"half": HALF})
    found = await collect(Elasticsearch(server.url), table_spec(index, columns=["_id", "n"]))
    assert found.to_pylist() == [{"_id": "half", "n": 1}]


# Times ---------------------------------------------------------------------------

FAR = {"rome": "-0044-03-15T00:00:00Z", "zero": "0000-06-01", "late": 1_699_999_999_999_000, "good": "2024-05-01"}


@pytest.mark.parametrize("cursor", [None, "at"])
async def test_a_time_of_another_age_is_a_reject_of_its_own_row(
    server: SearchServer, prefix: str, tmp_path: Path, cursor: str | None
) -> None:
    index = create(server, prefix, {"properties": {"at": {"type": "date"}}})
    server.put(index, {name: {"at": value} for name, value in FAR.items()})
    copy = Copy(server, tmp_path, index, cursor=cursor, max_rejects=3)
    report, rejects = await copy.run()
    assert report.error is None
    assert copy.rows("substr(at, 1, 10)") == {"good": "2024-05-01"}
    # With a cursor what lies in the future waits, and is told.
    assert {json.loads(each.key)["_id"] for each in rejects} == {"rome", "zero", *(() if cursor else ("late",))}
    assert all(
        "the field 'at' of the document " in each.reason and "outside the years 1 to 9999" in each.reason
        for each in rejects
    )


async def test_a_cursor_of_the_first_year_is_a_bound(server: SearchServer, prefix: str) -> None:
    index = create(server, prefix, {"properties": {"at": {"type": "date"}}})
    server.put(index, {"1": {"at": "0001-01-01T00:00:00.007Z"}})
    source = Scans(Elasticsearch(server.url).source())
    plan = await source.plan(documents(index, cursor="at"), Checkpoint())
    assert plan.window is not None
    assert plan.window.upper == "0001-01-01T00:00:00.007Z"
    server.put(index, {"1": {"at": FAR["rome"]}})
    with pytest.raises(ConfigError, match="of all 1 documents lies before the year 1"):
        await source.plan(documents(index, cursor="at"), Checkpoint())
    await source.aclose()


async def test_times_before_1970_beside_nanoseconds(
    server: SearchServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_FIRST_ROWS", 1)
    monkeypatch.setattr(pages.PageSize, "came", lambda self, rows, size: None)
    create(server, f"{prefix}-1", {"properties": {"at": {"type": "date"}}}, shards=2)
    create(server, f"{prefix}-2", {"properties": {"at": {"type": "date_nanos"}}}, shards=2)
    old = {
        "c": {"at": "1965-01-01"},
        "a": {"at": ["1900-01-01T00:00:00.001Z", "2020-01-01"]},
        "b": {"at": "1900-01-01T00:00:00.001Z"},
    }
    server.put(f"{prefix}-1", old)
    source = Scans(Elasticsearch(server.url).source())
    table = documents(f"{prefix}-*", cursor="at")
    first = await source.plan(table, Checkpoint())
    assert first.window is not None
    assert first.window.upper == "1965-01-01T00:00:00.000Z"
    found = await collect(source.source, table)
    assert sorted(found["_id"].to_pylist()[:2]) == ["a", "b"]
    assert found["_id"].to_pylist()[2:] == ["c"]
    new = {
        "e": {"at": "2020-01-01T00:00:00.000000002Z"},
        "d": {"at": "2020-01-01T00:00:00.000000001Z"},
        "x": {"at": "1970-01-01"},
    }
    server.put(f"{prefix}-2", new)
    everything = (await collect(source.source, table))["_id"].to_pylist()
    assert (sorted(everything[:2]), everything[2:]) == (["a", "b"], ["c", "x", "d", "e"])
    for watermark, left in (
        ("1965-01-01T00:00:00.000Z", {"c", "x", "d", "e"}),
        ("2020-01-01T00:00:00.000000002Z", {"e"}),
    ):
        again = Checkpoint(cursor="at", cursor_type="time", watermark=watermark)
        assert set((await collect(source.source, table, again))["_id"].to_pylist()) >= left
    await source.aclose()


@pytest.mark.parametrize("type_", [{"type": "date_nanos"}, {"type": "date", "format": "yyyy-MM-dd||epoch_millis"}])
async def test_times_that_are_written_less_finely_than_they_differ_are_told_apart(
    server: SearchServer, prefix: str, monkeypatch: pytest.MonkeyPatch, type_: dict[str, str]
) -> None:
    monkeypatch.setattr(pages, "_FIRST_ROWS", 3)
    monkeypatch.setattr(pages.PageSize, "came", lambda self, rows, size: None)
    index = create(server, prefix, {"properties": {"at": type_}}, shards=5)
    if type_["type"] == "date":
        values: list[Any] = [1_714_564_800_000 + n for n in range(60)]
    else:
        values = [f"2024-05-01T12:00:00.{n:09d}Z" for n in range(60)]
    server.put(index, {str(n): {"at": at} for n, at in enumerate(values)})
    source = Scans(Elasticsearch(server.url).source())
    plan = await source.plan(documents(index, cursor="at"), Checkpoint())
    assert plan.window is not None
    assert plan.window.upper.endswith("59Z")
    assert (await collect(source.source, documents(index, cursor="at")))["_id"].to_pylist() == [
        str(n) for n in range(60)
    ]
    await source.aclose()


async def test_a_moment_that_is_lost_among_times_before_1970_begins_again(
    elasticsearch_server: SearchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_FIRST_ROWS", 1)
    monkeypatch.setattr(pages.PageSize, "came", lambda self, rows, size: None)
    server = elasticsearch_server
    with server.fresh_names() as prefix:
        for number, kind in enumerate(("date", "date_nanos")):
            create(server, f"{prefix}-{number}", {"properties": {"at": {"type": kind}}}, shards=1)
        server.put(f"{prefix}-0", {str(n): {"at": f"196{n}-01-01"} for n in range(5)})
        async with between(server) as way:

            async def lose(asked: Asked, forward: Callable[[], Awaitable[Answer]]) -> Answer:
                if asked.is_page and len(way.pages) == 3:
                    await server.run("DELETE", "/_pit", {"id": asked.json["pit"]["id"]})
                return await forward()

            way.hook = lose
            # No bound could say where to go on, so nothing is read twice.
            with pytest.raises(ConnectionFailed, match="point in time"):
                await collect(Elasticsearch(way.url), documents(f"{prefix}-*", cursor="at"))
            assert len([asked for asked in way.asked if "_pit?" in asked.path]) == 1
            found = await collect(Elasticsearch(way.url), documents(f"{prefix}-*", cursor="at"))
            assert found["_id"].to_pylist() == ["0", "1", "2", "3", "4"]


async def test_a_time_that_nanoseconds_cannot_reach_is_a_reject(
    server: SearchServer, prefix: str, tmp_path: Path
) -> None:
    create(server, f"{prefix}-1", {"properties": {"at": {"type": "date"}}}, shards=1)
    create(server, f"{prefix}-2", {"properties": {"at": {"type": "date_nanos"}}}, shards=1)
    server.put(f"{prefix}-1", {"early": {"at": "1500-01-01"}, "old": {"at": "1965-01-01"}})
    server.put(f"{prefix}-2", {"new": {"at": "2024-05-01T00:00:00.123456789Z"}})
    copy = Copy(server, tmp_path, f"{prefix}-*", max_rejects=1)
    report, (reject,) = await copy.run()
    assert report.error is None
    assert copy.rows("substr(at, 1, 29)") == {
        "old": "1965-01-01 00:00:00.000000000",
        "new": "2024-05-01 00:00:00.123456789",
    }
    assert "'early' holds '1500-01-01T00:00:00.000Z', which nanoseconds cannot reach" in reject.reason
    cut = {"nanoseconds": "cut"}
    found = await collect(Elasticsearch(server.url), table_spec(f"{prefix}-*", format=cut))
    assert sorted(str(at)[:26] for at in found["at"].to_pylist())[0] == "1500-01-01 00:00:00+00:00"


# One value, from one place ---------------------------------------------------------


@pytest.mark.parametrize("about", [{"excludes": ["at", "secret"]}, {"includes": ["n", "o.*"]}])
@pytest.mark.parametrize("type_", ["date", "date_nanos", "long"])
async def test_a_cursor_that_no_document_holds_has_its_value_all_the_same(
    server: SearchServer, prefix: str, tmp_path: Path, about: dict[str, Any], type_: str
) -> None:
    fields = {"at": {"type": type_}, "n": {"type": "long"}, "secret": {"type": "keyword"}, "o.x": {"type": "long"}}
    index = create(server, prefix, {"_source": about, "properties": fields})
    values = range(1, 6) if type_ == "long" else [f"2024-05-01T00:00:00.00{n}Z" for n in range(1, 6)]
    server.put(index, {str(n): {"at": at, "n": n, "secret": "x", "o": {"x": n}} for n, at in enumerate(values, 1)})
    copy = Copy(server, tmp_path, index, cursor="at")
    report, _ = await copy.run()
    assert (report.error, report.rows, report.rejects) == (None, 5, 0)
    shown = copy.rows("at")
    if type_ == "long":
        assert shown == {str(n): n for n in range(1, 6)}
    else:
        assert {name: at[:23] for name, at in shown.items()} == {
            str(n): f"2024-05-01 00:00:00.00{n}" for n in range(1, 6)
        }
    # What no document holds is no column of nothing.
    source = Scans(Elasticsearch(server.url).source())
    assert (await source.plan(table_spec(index, cursor="at"), Checkpoint())).schema.names == ["_id", "at", "n", "o.x"]
    with pytest.raises(ConfigError, match="keeps out of _source"):
        await source.plan(table_spec(index, columns=["_id", "secret"]), Checkpoint())
    await source.aclose()


async def test_a_cursor_that_nobody_can_sort_by_is_refused(server: SearchServer, prefix: str) -> None:
    index = create(server, prefix, {"properties": {"at": {"type": "date", "doc_values": False}}})
    source = Scans(Elasticsearch(server.url).source())
    with pytest.raises(ConfigError, match="'at' has doc_values: false"):
        await source.plan(documents(index, cursor="at"), Checkpoint())
    await source.aclose()


async def test_a_cursor_that_is_read_as_a_list(server: SearchServer, prefix: str) -> None:
    index = create(server, prefix, {"properties": {"at": {"type": "date"}}})
    server.put(index, {"1": {"at": ["2024-05-01", "2024-05-02"]}, "2": {"at": "2024-05-03"}})
    found = await collect(Elasticsearch(server.url), table_spec(index, cursor="at", format={"arrays": ["at"]}))
    assert [len(json.loads(at)) for at in found["at"].to_pylist()] == [2, 1]


# One document, one key -------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("cursor", [None, "n"])
async def test_an_id_that_is_there_twice_is_told_before_one_is_lost(
    server: SearchServer, prefix: str, cursor: str | None, whole: bool
) -> None:
    index = create(server, prefix, {"properties": {"n": {"type": "long"}}}, shards=5)
    for number, routing in enumerate("abcdef"):
        server.put(index, {f"own-{routing}": {"n": number}}, routing=routing)
    table = documents(index, cursor=cursor) if whole else table_spec(index, cursor=cursor)
    assert (await collect(Elasticsearch(server.url), table)).num_rows == 6
    for routing in "abcdef":
        server.put(index, {"x": {"n": 9}}, routing=routing)
    with pytest.raises(RepeatedKey, match=r"the _id 'x' is there \d times, with the routings '[a-f]' and"):
        await collect(Elasticsearch(server.url), table)
    few = {"where": '{"term": {"n": 3}}', "cursor": cursor}
    table = documents(index, **few) if whole else table_spec(index, **few)
    assert (await collect(Elasticsearch(server.url), table))["_id"].to_pylist() == ["own-d"]


# Names -----------------------------------------------------------------------------

NAMES = ["C:\\Temp", 'a "quote"', "tab\there", "😀", "ü?", "a b", "it's", "x%y", "end\n", "a*"]


async def test_a_field_of_any_name_is_carried(server: SearchServer, prefix: str) -> None:
    properties = {name: {"type": "long"} for name in NAMES}
    index = create(server, prefix, {"properties": properties})
    server.put(index, {"1": {name: number for number, name in enumerate(NAMES)}, "2": {}})
    source = Scans(Elasticsearch(server.url).source())
    schema = await source.describe(index)
    assert schema is not None
    assert sorted(schema.names) == sorted(["_id", *NAMES])
    rows = {row["_id"]: row for row in (await collect(source.source, index)).to_pylist()}
    assert rows["1"] == {"_id": "1", **{name: number for number, name in enumerate(NAMES)}}
    assert set(rows["2"].values()) == {"2", None}
    for name in NAMES:
        assert (await collect(source.source, table_spec(index, cursor=name)))["_id"].to_pylist() == ["1"]
    await source.aclose()


async def test_half_of_a_sign_in_a_name(elasticsearch_server: SearchServer, tmp_path: Path) -> None:
    server = elasticsearch_server
    with server.fresh_names() as prefix:
        index = create(server, prefix, {"properties": {"n": {"type": "long"}}})
        server.put(index, {"1": b'{"n":1,"x\\ud83d":3}'})
        source = Scans(Elasticsearch(server.url).source())
        with pytest.raises(ConfigError, match=r"the field 'x\\ud83d' has half of a sign in its name"):
            await source.plan(table_spec(index), Checkpoint())
        assert (await collect(source.source, table_spec(index, columns=["_id", "n"]))).to_pylist() == [
            {"_id": "1", "n": 1}
        ]
        assert by_id(await collect(source.source, documents(index))) == {"1": b'{"n":1,"x\\ud83d":3}'}
        await source.aclose()


async def test_one_document_of_another_shape_is_one_reject(server: SearchServer, prefix: str, tmp_path: Path) -> None:
    index = create(
        server, prefix, {"properties": {"tag": {"type": "keyword"}, "n": {"type": "long", "ignore_malformed": True}}}
    )
    server.put(index, {"list": {"tag": ["x", "y"]}, "bad": {"n": "one"}, "good": {"tag": "z", "n": 1}})
    copy = Copy(server, tmp_path, index, max_rejects=2)
    report, rejects = await copy.run()
    assert (report.error, report.rejects) == (None, 2)
    assert copy.rows("n") == {"good": 1}
    assert sorted(each.column for each in rejects) == ["n", "tag"]


async def test_a_number_of_more_digits_than_a_float_is_one_reject(
    server: SearchServer, prefix: str, tmp_path: Path
) -> None:
    create(server, f"{prefix}-1", {"properties": {"n": {"type": "long"}}}, shards=1)
    create(server, f"{prefix}-2", {"properties": {"n": {"type": "double"}}}, shards=1)
    server.put(f"{prefix}-1", {"long": {"n": 2**53 + 1}, "short": {"n": 7}})
    server.put(f"{prefix}-2", {"float": {"n": 0.5}})
    copy = Copy(server, tmp_path, f"{prefix}-*", max_rejects=1)
    report, (reject,) = await copy.run()
    assert report.error is None
    assert copy.rows("n") == {"short": 7.0, "float": 0.5}
    assert "'long' holds 9007199254740993, which a column of double cannot hold" in reject.reason


async def test_documents_that_are_made_anew_are_told(elasticsearch_server: SearchServer) -> None:
    server = elasticsearch_server
    with server.fresh_names() as prefix:
        index = create(server, prefix, {"_source": {"mode": "synthetic"}, "properties": {"a": {"type": "keyword"}}})
        server.put(index, {"1": {"a": "x"}})
        source = Scans(Elasticsearch(server.url).source())
        (warned,) = (await source.plan(documents(index), Checkpoint())).warnings
        assert "synthetic _source" in warned
        assert (await collect(source.source, index)).to_pylist() == [{"_id": "1", "a": "x"}]
        await source.aclose()


async def test_a_cursor_that_is_computed_by_each_search_is_refused(server: SearchServer, prefix: str) -> None:
    word = "runtime" if server.product == "Elasticsearch" else "derived"
    about = {"type": "date", "script": {"source": "emit(0L)"}}
    index = create(server, prefix, {word: {"made": about}, "properties": {"n": {"type": "long"}}})
    source = Scans(Elasticsearch(server.url).source())
    with pytest.raises(ConfigError, match="the cursor 'made' is computed anew"):
        await source.plan(documents(index, cursor="made"), Checkpoint())
    await source.aclose()
