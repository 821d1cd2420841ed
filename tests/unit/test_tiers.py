"""What the merge tier takes of cases that are alike: one of them, and never none."""

from __future__ import annotations

from typing import Any

import pytest

from tests import tiers

ON_TARGETS = [
    "tests/contract/test_duckdb_target.py::TestDuckDBTarget::test_a[True-swap]",
    "tests/contract/test_mysql_target.py::TestMySQLTarget::test_a[mysql-True-swap]",
    "tests/contract/test_mysql_target.py::TestMySQLTarget::test_a[mariadb-True-swap]",
    "tests/contract/test_postgres_target.py::TestPostgresTarget::test_a[postgres15-True-swap]",
]
ON_STORES = [
    "tests/contract/test_state_stores.py::TestStoreInDuckDB::test_a",
    "tests/contract/test_state_stores.py::TestStoreInMySQL::test_a[mariadb]",
]
SERVERS = [("mysql", "mysql"), ("redshift", "mysql"), ("duckdb", "postgres"), ("postgres", "sqlite")]
FILES = [("duckdb", "sqlite"), ("sqlite", "duckdb")]


class Item:
    """As much of a collected test as the choice looks at."""

    def __init__(self, nodeid: str, *marks: str, route: tuple[str, str] | None = None) -> None:
        self.nodeid = nodeid
        self.params = {"route": route} if route else {}
        self.callspec = self
        self.get_closest_marker = {mark: mark for mark in marks}.get


def over(routes: list[tuple[str, str]], *marks: str, folder: str = "acceptance") -> list[Item]:
    return [Item(f"tests/{folder}/test_x.py::test_a[{'-'.join(route)}-1]", *marks, route=route) for route in routes]


def kept(items: list[Any]) -> list[Any]:
    left = set(tiers._left_to_larger_tiers(items))
    return [item for item in items if item not in left]


@pytest.mark.parametrize("nodeids", [ON_TARGETS, ON_STORES], ids=["targets", "stores"])
def test_a_case_of_a_contract_runs_on_one_of_the_systems_that_share_its_code(nodeids: list[str]) -> None:
    alike = [Item(nodeid) for nodeid in nodeids]
    others = [Item(nodeid.replace("test_a", "test_b")) for nodeid in nodeids]
    assert len(kept(alike)) == 1
    assert len(kept([*alike, *others])) == 2


def test_what_is_not_alike_stays() -> None:
    other = Item("tests/contract/test_sqlite_target.py::TestSQLiteTarget::test_a[True-swap]")
    assert kept([other]) == [other]
    assert len(kept([other, *(Item(nodeid) for nodeid in ON_TARGETS)])) == 2


def test_a_suite_takes_one_route_between_files_and_one_with_a_server() -> None:
    assert [len(kept(over(routes))) for routes in (FILES, SERVERS, FILES + SERVERS)] == [1, 1, 2]


def test_kills_take_one_route_with_each_kind_of_server() -> None:
    assert len(kept(over(SERVERS, folder="adversity"))) == 4


def test_where_only_the_target_matters_one_of_each_kind_is_enough() -> None:
    assert len(kept(over([*FILES, ("postgres", "sqlite")], "by_target"))) == 1
    assert len(kept(over(FILES + SERVERS, "by_target"))) == 2


def test_what_is_another_code_for_each_system_keeps_all_cases_and_what_is_large_none() -> None:
    assert len(kept(over(SERVERS, "every_system"))) == len(SERVERS)
    assert kept(over(SERVERS, "large")) == []


def test_another_product_is_taken_where_nothing_else_can_be_had() -> None:
    servers = [Item(f"tests/integration/x/test_x.py::test_a[{name}]") for name in ("elasticsearch", "opensearch")]
    assert kept(list(servers)) == servers[:1]
    assert kept(servers[1:]) == servers[1:]
