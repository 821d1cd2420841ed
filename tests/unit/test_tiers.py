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
ON_BUCKETS = [
    f"tests/integration/files/test_store_contract.py::Test{name}::test_a[grown]" for name in ("S3", "S3InMemory", "OSS")
]
SERVERS = [("mysql", "mysql"), ("redshift", "mysql"), ("duckdb", "postgres"), ("postgres", "sqlite")]
FILES = [("duckdb", "sqlite"), ("sqlite", "duckdb")]


class Item:
    """As much of a collected test as the choice looks at."""

    def __init__(self, nodeid: str, *marks: str, route: tuple[str, str] | None = None, **params: object) -> None:
        self.nodeid = nodeid
        self.params = {**({"route": route} if route else {}), **params}
        self.callspec = self
        self.get_closest_marker = {mark: mark for mark in marks}.get


def over(routes: list[tuple[str, str]], *marks: str, folder: str = "acceptance") -> list[Item]:
    return [Item(f"tests/{folder}/test_x.py::test_a[{'-'.join(route)}-1]", *marks, route=route) for route in routes]


def kept(items: list[Any]) -> list[Any]:
    left = set(tiers._left_to_larger_tiers(items))
    return [item for item in items if item not in left]


@pytest.mark.parametrize("nodeids", [ON_TARGETS, ON_STORES, ON_BUCKETS], ids=["targets", "stores", "buckets"])
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


def combined(folder: str, *systems: str) -> list[Item]:
    """A test of three values and of four of another parameter, on each of some systems."""
    return [
        Item(f"tests/{folder}/test_x.py::test_a[{system}-{one}-{other}]", server=system, one=one, other=other)
        for system in systems
        for one in range(3)
        for other in range(4)
    ]


def test_each_value_of_each_parameter_is_there_and_not_each_combination() -> None:
    found = kept(combined("integration/x", "mysql", "mariadb"))
    assert {item.params["one"] for item in found} == set(range(3))
    assert {item.params["other"] for item in found} == set(range(4))
    assert len(found) == 4
    assert len(kept(combined("integration/x", "sqlite", "mysql"))) == 4
    assert len(kept(combined("unit", "sqlite"))) == 12


def test_each_value_is_there_on_each_kind_of_route() -> None:
    cases = [
        Item(f"tests/acceptance/test_x.py::test_a[{'-'.join(route)}-{one}-{other}]", route=route, one=one, other=other)
        for route in FILES + SERVERS
        for one in range(2)
        for other in range(3)
    ]
    found = kept(cases)
    assert sorted(item.params["other"] for item in found if item.params["route"] in FILES) == [0, 1, 2]
    assert sorted(item.params["other"] for item in found if item.params["route"] in SERVERS) == [0, 1, 2]


def test_files_end_up_in_one_target_of_each_kind() -> None:
    systems = ("sqlite", "duckdb", "mysql", "mariadb", "postgres", "postgres15")
    found = kept([Item(f"tests/acceptance/test_files.py::test_a[{system}]", app=system) for system in systems])
    assert len(found) == 2
    assert len({item.params["app"] for item in found} & {"sqlite", "duckdb"}) == 1


def test_a_test_without_parameters_stays() -> None:
    alike = [Item("tests/integration/test_x.py::test_a"), Item("tests/integration/test_x.py::test_b")]
    assert kept(list(alike)) == alike


def test_the_own_tests_of_stand_ins_are_left_to_larger_tiers() -> None:
    assert kept([Item(f"tests/{name}.py::test_a") for name in ("fake_x/test_x", "servers/test_x")]) == []
