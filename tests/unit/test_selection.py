"""What a table's words choose of a SQL source, on SQLite and DuckDB."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from retl.connectors.base import Connector
from retl.connectors.duckdb import DuckDB
from retl.connectors.duckdb.source import DuckDBReader
from retl.connectors.sql.selection import Relation, choose
from retl.connectors.sqlite import SQLite
from retl.connectors.sqlite.dialect import DIALECT
from retl.connectors.sqlite.source import SQLiteReader
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError
from retl.model.schema import TableSchema
from retl.testing import Scans, collect, table_spec


@pytest.fixture(params=[SQLite, DuckDB])
def orders(request: pytest.FixtureRequest, tmp_path: Path) -> Connector:
    """Four columns, two rows."""
    create = "CREATE TABLE orders (id BIGINT NOT NULL PRIMARY KEY, name TEXT, secret TEXT, moved BIGINT)"
    rows = "INSERT INTO orders VALUES (1, 'a', 'x', 10), (2, 'b', 'y', 20)"
    path = str(tmp_path / "shop.db")
    if request.param is SQLite:
        import sqlite3

        with sqlite3.connect(path) as lite:
            lite.execute(create)
            lite.execute(rows)
        lite.close()
    else:
        import duckdb

        with duckdb.connect(path) as duck:
            duck.execute(create)
            duck.execute(rows)
    connector: Connector = request.param(path)
    return connector


@pytest.mark.parametrize(
    "words",
    [
        {"where": "id > 1 -- not the first"},
        {"cursor": "moved", "where": "id > 1 -- not the first"},
        {"expressions": {"name": "name -- as it is", "moved": "moved -- here too"}, "where": "id = 2"},
        {"query": "SELECT * FROM orders WHERE id > 1 -- not the first", "key": "id"},
        {"query": "SELECT * FROM orders -- all", "key": "id", "cursor": "moved", "where": "id > 1 -- one"},
    ],
)
async def test_what_a_user_writes_may_end_in_a_comment(orders: Connector, words: dict[str, Any]) -> None:
    found = await collect(orders, table_spec("orders", **words))
    assert found.to_pylist() == [{"id": 2, "name": "b", "secret": "y", "moved": 20}]


@pytest.mark.parametrize("words", [{}, {"cursor": "moved"}, {"query": "SELECT * FROM orders", "key": "id"}])
async def test_what_is_excluded_is_not_read(orders: Connector, words: dict[str, Any]) -> None:
    found = await collect(orders, table_spec("orders", exclude=["secret"], **words))
    assert sorted(found.to_pylist(), key=str) == [
        {"id": 1, "name": "a", "moved": 10},
        {"id": 2, "name": "b", "moved": 20},
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"exclude": ["secrets"]}, "exclude names 'secrets'.*did you mean 'secret'"),
        ({"exclude": ["id"]}, "the source's key needs 'id', which exclude leaves out"),
        ({"exclude": ["name"], "key": ["id", "name"]}, "key needs 'name', which exclude leaves out"),
        ({"exclude": ["moved"], "cursor": "moved"}, "cursor needs 'moved', which exclude leaves out"),
        ({"exclude": ["name"], "rename": {"name": "n"}}, "rename needs 'name', which exclude leaves out"),
        (
            {"exclude": ["id", "name", "secret", "moved"], "write": "append"},
            "exclude leaves out every column",
        ),
    ],
)
async def test_what_cannot_be_excluded_is_named(orders: Connector, words: dict[str, Any], said: str) -> None:
    source = Scans(orders.source())
    with pytest.raises(ConfigError) as caught:
        await source.plan(table_spec("orders", **words))
    await source.aclose()
    assert re.search(said, str(caught.value))


async def test_an_excluded_name_may_be_computed_anew(orders: Connector) -> None:
    table = table_spec("orders", exclude=["secret"], expressions={"secret": "'hidden'"})
    found = await collect(orders, table)
    assert found.column("secret").to_pylist() == ["hidden", "hidden"]


def test_many_columns_are_chosen_quickly() -> None:
    """The event loop waits for it: each name is looked at once, not once for each other name."""
    names = [f"column_{number}" for number in range(15_000)]
    relation = Relation("wide", TableSchema("wide", pa.schema([(name, pa.int64()) for name in names])))
    table = table_spec("wide", rename={name: f"to_{name}" for name in names}, exclude=names[:5_000], write="append")
    began = time.thread_time()
    with pytest.raises(ConfigError, match="rename needs 'column_0', which exclude leaves out"):
        choose(DIALECT, relation, table)
    chosen = choose(DIALECT, relation, table_spec("wide", key=names[7_000:8_000], exclude=names[:5_000]))
    assert chosen.names == tuple(names[5_000:])
    assert time.thread_time() - began < 0.5


async def test_parts_made_by_another_version_s_hash_are_read_again(
    orders: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that share a cursor value are told apart by a hash; in another version they may fall otherwise."""
    source = Scans(orders.source())
    same = table_spec("same", query="SELECT id, 7 AS moved FROM orders", key="id", cursor="moved", slice_rows=1)
    plan = await source.plan(same)
    assert [slice_.modulus for slice_ in plan.slices] == [2, 2]
    begun = Checkpoint(cursor="moved", cursor_type=plan.cursor_type, position=plan.slices[0].position)
    assert [slice_.remainder for slice_ in (await source.plan(same, begun)).slices] == [1]
    for reader in (SQLiteReader, DuckDBReader):
        monkeypatch.setattr(reader, "hash_version", lambda _: "another")
    assert [slice_.remainder for slice_ in (await source.plan(same, begun)).slices] == [0, 1]
    await source.aclose()


@pytest.mark.parametrize(("key", "unique"), [([], True), (["id"], True), (["id", "name"], True), (["name"], False)])
async def test_a_key_is_unique_where_the_source_s_own_is_part_of_it(
    orders: Connector, key: list[str], unique: bool
) -> None:
    source = Scans(orders.source())
    for cursor in (None, "moved"):
        plan = await source.plan(table_spec("orders", key=key, cursor=cursor))
        assert plan.unique_key is unique
    await source.aclose()
