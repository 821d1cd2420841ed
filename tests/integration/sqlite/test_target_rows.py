"""Rows in a SQLite target: what is equal, what is unique, and what is refused."""

from __future__ import annotations

from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from retl.connectors.rows.text import not_utf8
from retl.connectors.sqlite import loader
from retl.model.actions import Action
from retl.model.errors import RowsRejected, TargetError
from retl.model.schema import is_text
from tests.integration.duckdb.scenes import loading
from tests.integration.scene import commit, people, scan, spec
from tests.integration.sqlite.scenes import Scene

MAILS = pa.schema([pa.field("email", pa.string()), pa.field("name", pa.string())])
SEATS = pa.schema([pa.field("id", pa.int64()), pa.field("seat", pa.string()), pa.field("row", pa.int64())])


# Equality -------------------------------------------------------------------


@pytest.mark.parametrize("collation", ["NOCASE", "RTRIM", "BINARY"])
@pytest.mark.parametrize("blacklist", [frozenset(), frozenset({Action.INSERT})])
async def test_a_change_that_a_collation_does_not_see_arrives(
    scene: Scene, collation: str, blacklist: frozenset[Action]
) -> None:
    scene.run(f"CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT COLLATE {collation} UNIQUE)")
    scene.run("INSERT INTO people VALUES (1, 'ann@x'), (2, 'bob')")
    new = people((1, "Ann@x"), (2, "bob "))
    async with scene.session() as session:
        assert (await scan(session, [new], blacklist=blacklist)).changed == 2
        done = await scan(session, [new], blacklist=blacklist)
        assert (done.changed, done.unchanged) == (0, None if blacklist else 2)
    assert scene.rows("people") == [(1, "Ann@x"), (2, "bob ")]


@pytest.mark.parametrize("kind", ["PRIMARY KEY)", "PRIMARY KEY) WITHOUT ROWID", "NOT NULL UNIQUE)"])
async def test_keys_that_only_a_collation_takes_for_one_are_told(scene: Scene, kind: str) -> None:
    scene.run(f"CREATE TABLE people (name TEXT, email TEXT COLLATE NOCASE {kind}")
    table = spec(key="email")
    async with scene.session() as session:
        for known in (0, 1):
            done = await scan(session, [people(("a@x", "one"), ("A@x", "two"), schema=MAILS)], table, rejects_left=1)
            assert [(reject.key, "collation NOCASE" in reject.reason) for reject in done.rejects] == [
                ('{"email":"A@x"}', True)
            ]
            assert (done.rows, done.changed, done.unchanged) == (2, 1 - known, known)
        with pytest.raises(RowsRejected, match="NOCASE"):
            await scan(session, [people(("A@X", "three"), schema=MAILS)], table)
    assert scene.rows("people", "email, name") == [("a@x", "one")]


async def test_a_key_that_is_compared_by_its_bytes_is_not_held_up_by_another_index(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (email TEXT PRIMARY KEY, name TEXT)",
        "CREATE UNIQUE INDEX some ON people (email COLLATE NOCASE) WHERE name = 'staff'",
    )
    async with scene.session() as session:
        await scan(session, [people(("a@x", "one"), ("A@x", "two"), schema=MAILS)], spec(key="email"))
    assert scene.rows("people") == [("A@x", "two"), ("a@x", "one")]


@pytest.mark.parametrize("triggers", [True, False])
async def test_a_swap_brings_a_key_in_another_case(scene: Scene, triggers: bool) -> None:
    scene.run(
        "CREATE TABLE people (email TEXT COLLATE NOCASE PRIMARY KEY, name TEXT)",
        "INSERT INTO people VALUES ('a@x', 'one')",
    )
    if triggers:
        scene.run("CREATE TRIGGER t AFTER INSERT ON people BEGIN SELECT 1; END")
    async with scene.session() as session:
        await scan(session, [people(("A@x", "one"), schema=MAILS)], spec(key="email", pre_action="swap"))
    assert scene.rows("people") == [("A@x", "one")]


@pytest.mark.parametrize(
    ("declared", "old", "new", "kind"),
    [
        ("", 1, 1.0, pa.float64()),
        ("", 1, "1", pa.string()),
        ("", "a", b"a", pa.binary()),
        ("ANY", "1", 1, pa.int64()),
        ("TEXT", "1", "1.0", pa.string()),
        ("", 0.0, 0, pa.int64()),
    ],
)
async def test_values_are_the_same_only_if_their_types_are(
    scene: Scene, declared: str, old: Any, new: Any, kind: pa.DataType
) -> None:
    strict = " STRICT" if declared == "ANY" else ""
    scene.run(f"CREATE TABLE people (id INTEGER PRIMARY KEY, name {declared}){strict}")
    scene.run("INSERT INTO people VALUES (1, ?)", values=[old])
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("name", kind)])
    async with scene.session() as session:
        assert (await scan(session, [people((1, new), schema=schema)])).changed == 1
        assert (await scan(session, [people((1, new), schema=schema)])).changed == 0
    ((found,),) = scene.run("SELECT name FROM people")
    assert (found, type(found)) == (new, type(new))


@pytest.mark.parametrize("declared", ["REAL", "", "NUMERIC"])
async def test_a_negative_zero_is_written_once(scene: Scene, declared: str) -> None:
    scene.run(f"CREATE TABLE people (id INTEGER PRIMARY KEY, name {declared})")
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("name", pa.float64())])
    async with scene.session() as session:
        assert (await scan(session, [people((1, -0.0), schema=schema)])).changed == 1
        assert (await scan(session, [people((1, -0.0), schema=schema)])).changed == 0


# Uniqueness -----------------------------------------------------------------


@pytest.mark.parametrize(
    "constraints",
    [
        "seat TEXT UNIQUE, row INTEGER",
        "seat TEXT NOT NULL UNIQUE CHECK (length(seat) = 2), row INTEGER",
        "seat TEXT, row INTEGER NOT NULL UNIQUE ON CONFLICT REPLACE",
        "seat TEXT NOT NULL, row INTEGER NOT NULL, UNIQUE (seat, row)",
        "seat TEXT UNIQUE, row INTEGER UNIQUE ON CONFLICT IGNORE, UNIQUE (row, seat)",
    ],
)
@pytest.mark.parametrize("strict", ["", "STRICT"])
@pytest.mark.parametrize(
    "new",
    [
        [(1, "1B", 2), (2, "1A", 1), (3, "1C", 3)],  # an exchange
        [(1, "1B", 2), (2, "1C", 3), (3, "1A", 1)],  # a ring
        [(1, "1B", 2), (2, "1C", 3), (3, "1D", 4)],  # passed on, the last one first
        [(4, "1A", 1), (1, "1B", 2), (2, "1C", 3), (3, "1D", 4)],  # all move down for a new one
    ],
)
async def test_rows_that_pass_on_unique_values_arrive(
    scene: Scene, constraints: str, strict: str, new: list[tuple[Any, ...]]
) -> None:
    scene.run(f"CREATE TABLE people (id INTEGER PRIMARY KEY, own TEXT DEFAULT 'x', {constraints}) {strict}")
    scene.run(
        "CREATE TABLE log (id, seat)",
        "CREATE TRIGGER u AFTER UPDATE ON people WHEN new.seat NOT LIKE 'retl%' BEGIN INSERT INTO log VALUES (new.id, new.seat); END",
        "CREATE TRIGGER d AFTER DELETE ON people BEGIN SELECT RAISE(ABORT, 'nothing is deleted'); END",
        "INSERT INTO people VALUES (1, 'mine', '1A', 1), (2, 'mine', '1B', 2), (3, 'mine', '1C', 3)",
    )
    async with scene.session() as session:
        done = await scan(session, [people(*new, schema=SEATS)])
        again = await scan(session, [people(*new, schema=SEATS)])
    old = {(1, "1A", 1), (2, "1B", 2), (3, "1C", 3)}
    assert (done.changed, again.changed, done.rejects) == (len(set(new) - old), 0, [])
    assert scene.rows("people", "id, seat, row") == sorted(new)
    assert scene.run("SELECT DISTINCT own FROM people WHERE id < 4") == [("mine",)]
    assert {(number, seat) for number, seat, _ in set(new) - old if number != 4} <= set(scene.rows("log"))


async def test_a_value_that_another_row_keeps_is_that_rows_reject_alone(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id INTEGER PRIMARY KEY, seat TEXT UNIQUE NOT NULL, row INTEGER CHECK (row < 9))")
    scene.run("INSERT INTO people VALUES (1, '1A', 1), (2, '1B', 2), (3, '1C', 3), (4, '1D', 4)")
    # 1 and 2 change places; 3 wants what 4 keeps; 5 and 6 want the same; 7 is refused for itself, and 8 wants its place.
    new = [(1, "1B", 1), (2, "1A", 2), (3, "1D", 3), (5, "1E", 5), (6, "1E", 6), (7, "1F", 99), (8, "1F", 8)]
    async with scene.session() as session:
        done = await scan(session, [people(*new, schema=SEATS)], rejects_left=3)
    assert sorted(reject.key for reject in done.rejects) == ['{"id":3}', '{"id":6}', '{"id":7}']
    assert (done.rows, done.changed, done.unchanged) == (7, 4, 0)
    assert scene.rows("people") == [
        (1, "1B", 1), (2, "1A", 2), (3, "1C", 3), (4, "1D", 4), (5, "1E", 5), (8, "1F", 8),
    ]  # fmt: skip


async def test_a_row_that_is_refused_keeps_its_place(scene: Scene) -> None:
    """Its place was wanted by another one, which is refused for that."""
    scene.run("CREATE TABLE people (id INTEGER PRIMARY KEY, seat TEXT UNIQUE, row INTEGER NOT NULL)")
    scene.run("INSERT INTO people VALUES (1, '1A', 1), (2, '1B', 2)")
    async with scene.session() as session:
        done = await scan(session, [people((1, "1C", None), (2, "1A", 2), schema=SEATS)], rejects_left=2)
    assert len(done.rejects) == 2
    assert scene.rows("people") == [(1, "1A", 1), (2, "1B", 2)]


async def test_where_update_is_forbidden_nothing_is_moved(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id INTEGER PRIMARY KEY, seat TEXT UNIQUE, row INTEGER)")
    scene.run("INSERT INTO people VALUES (1, '1A', 1)")
    async with scene.session() as session:
        await scan(session, [people((1, "1B", 1), (2, "1C", 2), schema=SEATS)], blacklist=frozenset({Action.UPDATE}))
        with pytest.raises(RowsRejected, match="UNIQUE"):
            wants = people((1, "1B", 1), (3, "1A", 1), schema=SEATS)
            await scan(session, [wants], blacklist=frozenset({Action.UPDATE}))
    assert scene.rows("people") == [(1, "1A", 1), (2, "1C", 2)]


# Values ---------------------------------------------------------------------


def text_of(*values: bytes) -> pa.Array:
    """Text that nobody has looked at."""
    raw = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())


@pytest.mark.parametrize(
    "kind",
    [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(2), pa.string(), pa.large_string(), pa.string_view()],
)
async def test_every_layout_of_text_and_bytes_is_kept(scene: Scene, kind: pa.DataType) -> None:
    value: str | bytes = "ab" if is_text(kind) else b"ab"
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("name", kind)])
    batch = pa.RecordBatch.from_arrays([pa.array([1, 2]), pa.array([value, None], kind)], schema=schema)
    async with scene.session() as session:
        await scan(session, [batch], spec())
    assert scene.rows("people") == [(1, value), (2, None)]


async def test_one_row_is_one_reject_whatever_is_wrong_with_it(scene: Scene) -> None:
    schema = pa.schema(
        [
            pa.field("id", pa.int64()),
            pa.field("a", pa.float64()),
            pa.field("b", pa.float64()),
            pa.field("c", pa.string()),
        ]
    )
    nan = float("nan")
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array([1, 2, None, 4], pa.int64()),
            pa.array([nan, 0.5, nan, 1.0]),
            pa.array([nan, 0.5, 1.0, 1.0]),
            text_of(b"x", b"caf\xe9", b"\xff", "é".encode()),
        ],
        schema=schema,
    )
    async with scene.session() as session:
        done = await scan(session, [batch], rejects_left=3)
    assert [(reject.key, reject.reason) for reject in done.rejects] == [
        ('{"id":null}', "the key is NULL"),
        ('{"id":1}', "SQLite has no NaN: it would become NULL"),
        ('{"id":2}', "the text is not valid UTF-8"),
    ]
    assert "caf\\\\xe9" in done.rejects[2].content
    assert done.rows == 4
    assert scene.rows("people") == [(4, 1.0, 1.0, "é")]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_text_is_looked_at_whatever_arrow_calls_it(kind: pa.DataType) -> None:
    assert not_utf8(pa.array(["é", None], kind)) is None
    view = text_of(b"caf\xe9", b"x").cast(kind)
    mask = not_utf8(view)
    assert mask is not None
    assert mask.to_pylist() == [True, False]


async def test_a_nan_in_a_list_is_that_rows_reject(scene: Scene) -> None:
    kind = pa.struct([pa.field("x", pa.list_(pa.float64()))])
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("v", kind)])
    rows = [{"id": 1, "v": {"x": [1.0, float("nan")]}}, {"id": 2, "v": {"x": [1.0, None]}}, {"id": 3, "v": None}]
    async with scene.session() as session:
        done = await scan(session, [pa.RecordBatch.from_pylist(rows, schema=schema)], rejects_left=1)
    assert [reject.key for reject in done.rejects] == ['{"id":1}']
    assert scene.rows("people") == [(2, '{"x":[1.0,null]}'), (3, None)]


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be", "UTF-8"])
async def test_a_file_in_another_encoding_takes_the_same_text(scene: Scene, encoding: str) -> None:
    scene.run(f"PRAGMA encoding = '{encoding}'", "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)")
    batch = people((1, "naïve 🙂"), (2, "x" * 100_000), (3, None))
    async with scene.session() as session:
        assert (await scan(session, [batch])).changed == 3
        assert (await scan(session, [batch])).changed == 0
    assert scene.rows("people") == [(1, "naïve 🙂"), (2, "x" * 100_000), (3, None)]


async def test_rows_that_were_staged_on_disk_are_staged_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_MEMORY_BYTES", 0)
    table = spec(write="append", key=())
    async with scene.session() as session:
        load = await session.prepare(loading(session, table))
        for number in (1, 2):
            await commit(session, load, [people((number, "a")), people((number, "x" * 70_000))])
        await session.finish(load)
    assert scene.run("SELECT id, LENGTH(name) FROM people ORDER BY 1, 2") == [(1, 1), (1, 70_000), (2, 1), (2, 70_000)]


async def test_of_rows_with_one_key_the_newest_is_written_and_the_others_are_older(scene: Scene) -> None:
    rows = [people((1, "1A", 1), (2, "2A", 1), (1, "1C", 3), (1, "1B", 2), schema=SEATS)]
    async with scene.session() as session:
        for known in (0, 2):
            done = await scan(session, rows, spec(cursor="row"))
            assert (done.rows, done.changed, done.unchanged, done.older) == (4, 2 - known, known, 2)
    assert scene.rows("people") == [(1, "1C", 3), (2, "2A", 1)]


@pytest.mark.parametrize(
    ("definition", "kind", "good", "odd", "refused"),
    [
        ("(id INTEGER PRIMARY KEY, name TEXT CHECK (name <> 'odd'))", pa.string(), "fine", "odd", "CHECK"),
        ("(id INTEGER PRIMARY KEY, name INTEGER) STRICT", pa.date32(), None, date(2024, 5, 1), "cannot store TEXT"),
        ("(id INTEGER PRIMARY KEY, name TEXT NOT NULL)", pa.string(), "fine", None, "NOT NULL"),
    ],
)
async def test_what_a_table_refuses_is_a_reject_of_that_row(
    scene: Scene, definition: str, kind: pa.DataType, good: Any, odd: Any, refused: str
) -> None:
    scene.run(f"CREATE TABLE people {definition}")
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("name", kind)])
    async with scene.session() as session:
        done = await scan(session, [people((1, good), (2, odd), (3, good), schema=schema)], rejects_left=1)
    assert [(reject.key, refused in reject.reason) for reject in done.rejects] == [('{"id":2}', True)]
    assert scene.rows("people", "id") == [(1,), (3,)]


async def test_what_is_not_of_a_row_ends_the_scan(scene: Scene) -> None:
    """A full-text table that a trigger keeps up refuses in the name of its own."""
    scene.run(
        "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)",
        "CREATE VIRTUAL TABLE places USING rtree(id, low, high)",
        "CREATE TRIGGER t AFTER INSERT ON people BEGIN INSERT INTO places VALUES (new.id, 2, 1); END",
    )
    async with scene.session() as session:
        with pytest.raises(TargetError, match="rtree constraint failed"):
            await scan(session, [people((1, "a"), (2, "b"))], rejects_left=9)
    assert scene.rows("people") == []
