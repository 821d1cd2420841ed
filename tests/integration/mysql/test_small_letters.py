"""Servers that know the names of tables in small letters alone, as those on Windows do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import retl
from retl.model.actions import PreAction
from tests.integration.mysql.targets import Scene
from tests.servers import mariadb, mysql

SMALL = "--lower-case-table-names=1"


@pytest.fixture(scope="module", params=["mysql", "mariadb"])
def small(request: pytest.FixtureRequest) -> Iterator[Scene]:
    started = mysql.started if request.param == "mysql" else mariadb.started
    with started(SMALL) as server, server.fresh_database() as database:
        yield Scene(server, database)


@pytest.mark.parametrize("pre_action", ["none", "truncate", "rename_and_create", "swap"])
async def test_a_name_in_capitals_is_the_same_table(small: Scene, pre_action: str) -> None:
    small.run(
        "DROP TABLE IF EXISTS orders, bills",
        "CREATE TABLE Orders (id INT PRIMARY KEY, v VARCHAR(9), KEY (v))",
        "INSERT INTO ORDERS VALUES (1, 'a'), (2, 'b')",
    )
    words: dict[str, Any] = {"keep_archives": 1} if pre_action == "rename_and_create" else {}
    pipeline = retl.Pipeline(
        "small",
        source=small.options(),
        target=small.options(),
        tables=[retl.Table("Orders", to="BILLS", pre_action=PreAction(pre_action), **words)],
    )
    for value in ("b", "c"):
        small.run(f"UPDATE orders SET v = '{value}' WHERE id = 2")
        report = await pipeline.run_once()
        assert [(scan.status, scan.rows) for scan in report.scans] == [("done", 2)]
        assert small.rows("Bills") == [(1, "a"), (2, value)]
    archives = [name for name in small.tables() if name not in ("orders", "bills")]
    assert len(archives) == (pre_action == "rename_and_create")
    if archives:
        assert small.rows(archives[0]) == [(1, "a"), (2, "b")]
        small.run(f"DROP TABLE `{archives[0]}`")
    await pipeline.aclose()
