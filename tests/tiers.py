"""Which tests run when: ``--tier`` chooses, and how often what is random is tried.

========= ============================ ==========================================================================
tier      run by                       contains
========= ============================ ==========================================================================
quick     ``nox -s quick``             units, properties, scan rules, and the contracts and suites of embedded
                                       systems: no server and no other process; one to three minutes
merge     ``./run-tests``, that is CI  everything that a merge needs: each behaviour on one system of its family
every     ``pytest``                   each behaviour on every system, with five times as many random cases
adversity ``nox -s adversity``         the same on all routes, with 200 kills and 5,000 lives, and at every step
========= ============================ ==========================================================================

The systems of a family share their code: MySQL and MariaDB; the versions of PostgreSQL; the products of Elasticsearch
and OpenSearch; StarRocks and Doris. So the merge tier runs each case on one of them, spread like the colours of a chess
board; and so it does with all that have one target where a test is marked ``by_target``. What a contract asks of the
room that SQL systems share, it asks of one of them for each case; and a suite over routes takes for each case one route
between files and one with a SQL server, where the kills and cancellations take one of each kind of server. A test whose
code is another one for each of them is marked ``every_system``, and keeps all its cases. Of the search servers it takes
Elasticsearch 8, but for what is marked so. So the other ones are left to the larger tiers, and so is what is marked
``large``: tests of the servers of the tests, of a cluster of several nodes, and of numbers that take long. The own
tests of stand-ins and of servers are left to them too: whatever is wrong with one of those, its users show.

A test of several parameters shows there each value of each of them, not each combination: on each kind of route, and on
one of the systems of a family. Units and properties, which cost next to nothing, keep all of theirs.

On two cores the merge tier takes about half an hour, and the largest one two hours or so.

Three processes share the merge tier file by file, but for the tests with a search server: it takes a dozen seconds of
work to start and as much to get quick, so one process has all of them.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

TESTS = Path(__file__).parent
SIBLINGS = {
    "<files>": re.compile(r"\b(duckdb-sqlite|sqlite-duckdb)\b"),
    "<from postgres>": re.compile(r"\b(postgres-sqlite|postgres15-mysql)\b"),
    "<to postgres>": re.compile(r"\b(duckdb-postgres|postgres-postgres15)\b"),
    "<mysql>": re.compile(r"\b(mysql|mariadb)(?=_server\b|\b)"),
    "<search>": re.compile(r"\b(elasticsearch9?|opensearch2?)(?=_server\b|\b)"),
    "<postgres>": re.compile(r"\b(postgres15|postgres)(?=_server\b|\b)"),
    "<olap>": re.compile(r"\b(starrocks|doris)\b"),
}
"""How the systems are called in the name of a case, and what stands there for any of them."""
TARGETS = {
    "<file>": re.compile(r"\b(duckdb|sqlite)\b"),
    "<server>": re.compile(r"\b(mysql|mariadb|postgres15|postgres)\b"),
}
"""The same for a source that knows nothing of its target: files end up in one of each kind."""
BY_KIND = re.compile(r"acceptance/test_files\.py$")
SUITES = {
    "<sql target>": re.compile(r"contract/test_(duckdb|mysql|postgres)_target\.py::Test\w+"),
    "<sql state store>": re.compile(r"contract/test_state_stores\.py::TestStoreIn(DuckDB|MySQL|PostgreSQL)\b"),
    "<file source>": re.compile(r"contract/test_(duckdb|sqlite)_source\.py::Test\w+"),
    "<mysql source>": re.compile(r"contract/test_(mysql_source|olap_sources)\.py::Test\w+"),
    "<postgres source>": re.compile(r"contract/test_(postgres|redshift)_source\.py::Test\w+"),
    "<iterator source>": re.compile(r"contract/test_iterator_source\.py::Test\w+"),
    "<function target>": re.compile(r"contract/test_function_target\.py::Test\w+"),
    "<object store>": re.compile(r"files/test_store_contract\.py::Test(S3|S3InMemory|OSS|RealOSS)\b"),
}
"""The suites of systems that share most of their code, and what stands for any of them."""
SYSTEM_OF_SUITE = re.compile(r"\b(mysql|mariadb|postgres15|postgres|starrocks|doris)\b-?")
KINDS = {"duckdb": "file", "sqlite": "file", "elasticsearch": "search", "opensearch": "search"}
"""Systems that no SQL server is. Routes between the same kinds are alike to a suite of acceptance tests."""
SEARCHES = re.compile(r"(integration|contract|acceptance|adversity)/.*(elasticsearch|opensearch|index-to-index)")
OLDER_AND_NEWER = re.compile(r"\b(elasticsearch9|opensearch2)(_server)?\b")
"""Versions that the merge tier leaves to the largest one."""
OTHER_PRODUCT = re.compile(r"\bopensearch(_server)?\b")
"""What the merge tier takes only where nothing else can be had: a second server to start, and to get quick."""
QUICK = re.compile(r"(unit|property)/|contract/(?!test_olap)|acceptance/test_(scan_rules|refreshes|field_notes)\.py")
CHEAP = re.compile(r"(^|/)(unit|property)/")
STAND_INS = re.compile(r"(^|/)(fake_\w+|servers)/|/test_servers\.py")
QUICK_ROUTE = ("duckdb", "sqlite")
NOT_QUICK = "TestStoreInDuckDB"  # it opens its file for each step
SLOW = ("integration", "adversity", "processes")
"""Marks of what the quick tier leaves out."""

T = TypeVar("T")

FACTORS = {"quick": 0.2, "merge": 0.2, "every": 1.0, "adversity": 5.0}

_tier = "every"
_left = pytest.StashKey[int]()


def number(of_cases: int) -> int:
    """How many random cases this tier tries where an ordinary run tries so many."""
    return max(1, round(of_cases * FACTORS[_tier]))


def every_step() -> bool:
    """Whether something happens at each step of a scan, where an ordinary run chooses a few."""
    return _tier == "adversity"


def some(*cases: T, of_small: int = 1) -> tuple[T, ...]:
    """The cases that a quick tier runs: the first ones, where an ordinary run has them all."""
    return cases[:of_small] if is_small() else cases


def by_tier(small: T, ordinary: T, largest: T) -> T:
    """What a quick tier takes, what an ordinary run does, and what the adversity tier does."""
    return small if is_small() else largest if every_step() else ordinary


def is_small() -> bool:
    """Whether this tier has to be quick."""
    return FACTORS[_tier] < 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tier", choices=tuple(FACTORS), default="every", help="which tests run: see tests/tiers.py")


def pytest_configure(config: pytest.Config) -> None:
    global _tier
    _tier = config.getoption("tier")
    settings.register_profile("tier", max_examples=number(100), derandomize=False, print_blob=True, deadline=None)
    settings.load_profile("tier")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tier = config.getoption("tier")
    if tier in ("every", "adversity"):
        return
    left = {item for item in items if not _is_quick(item)} if tier == "quick" else set(_left_to_larger_tiers(items))
    config.hook.pytest_deselected(items=[item for item in items if item in left])
    items[:] = [item for item in items if item not in left]
    config.stash[_left] = len(left)


def _is_quick(item: pytest.Item) -> bool:
    path = item.path.relative_to(TESTS).as_posix()
    route = getattr(getattr(item, "callspec", None), "params", {}).get("route", QUICK_ROUTE)
    if NOT_QUICK in item.nodeid or route != QUICK_ROUTE:
        return False
    return bool(QUICK.match(path)) and not any(item.get_closest_marker(mark) for mark in SLOW)


def _left_to_larger_tiers(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """What is marked so, and the cases that the merge tier runs on a sibling."""
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("large") or STAND_INS.search(item.nodeid):
            yield item
        elif not item.get_closest_marker("every_system"):
            cases[_case(item)].append(item)
        elif OLDER_AND_NEWER.search(item.nodeid):
            yield item
    combined: dict[str, list[pytest.Item]] = defaultdict(list)
    for name, alike in cases.items():
        wanted = [item for item in alike if _is_preferred(item.nodeid)] or alike
        chosen = wanted[zlib.crc32(name.encode()) % len(wanted)]
        yield from (item for item in alike if item is not chosen)
        if not CHEAP.search(chosen.nodeid):
            combined[_test(name, chosen)].append(chosen)
    for combinations in combined.values():
        yield from _more_than_each_value(combinations)


def _test(case: str, item: pytest.Item) -> str:
    """What the cases of one test have in common; on each kind of route it is a test of its own."""
    route = getattr(item, "callspec", None) and item.callspec.params.get("route")  # type: ignore[attr-defined]
    return case.partition("[")[0] + (_family(route, item) if route else "")


def _more_than_each_value(cases: list[pytest.Item]) -> Iterator[pytest.Item]:
    """The cases that are not needed for each value of each parameter to be there once."""
    values = {item: _values(item) for item in cases}
    left = sorted(cases, key=lambda item: zlib.crc32(item.nodeid.encode()))
    missing = set().union(*values.values())
    while missing:
        best = max(left, key=lambda item: len(values[item] & missing))
        left.remove(best)
        missing -= values[best]
    if any(values.values()):
        yield from left


def _values(item: pytest.Item) -> set[tuple[str, object]]:
    """What its parameters are; systems of a family are one value, and so are all routes."""
    params: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    return {(name, _anyone(value)) for name, value in params.items() if name != "route"}


def _anyone(value: object) -> object:
    """What stands for the family of a system, if it is one of a family. Any other value is told from the others."""
    if isinstance(value, str):
        name = value.removesuffix("_server")
        return next((anyone for anyone, siblings in SIBLINGS.items() if siblings.fullmatch(name)), value)
    try:
        return type(value), hash(value)
    except TypeError:  # it is the same object in all combinations
        return id(value)


def _is_preferred(nodeid: str) -> bool:
    return not OTHER_PRODUCT.search(nodeid) and not OLDER_AND_NEWER.search(nodeid)


def _case(item: pytest.Item) -> str:
    """The name of a case without that of a system; where only the target matters, without that of the source."""
    path, _, name = item.nodeid.partition("::")
    test, bracket, case = name.partition("[")
    for anyone, suite in SUITES.items():
        if suite.search(item.nodeid):
            return f"{anyone}{test.rpartition('::')[2]}[{SYSTEM_OF_SUITE.sub('', case).rstrip(']')}]"
    if "acceptance/" in path and (route := getattr(item, "callspec", None) and item.callspec.params.get("route")):  # type: ignore[attr-defined]
        return f"{path}::{test}[{case.replace('-'.join(route), _family(route, item))}"
    for anyone, siblings in (TARGETS if BY_KIND.search(path) else SIBLINGS).items():
        case = siblings.sub(anyone, case)
    return f"{path}::{test}{bracket}{case}"


def _family(route: tuple[str, str], item: pytest.Item) -> str:
    """What stands for all routes between such systems; where only the target matters, for all targets of its kind."""
    source, target = (KINDS.get(system, "server") for system in route)
    if item.get_closest_marker("by_target"):
        return f"<to {target}>"
    return f"<{source}>" if source == target else "<server>"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    return ByServer(config, log) if config.getoption("dist") == "loadfile" else None


class ByServer(LoadScopeScheduling):  # type: ignore[misc]
    """What a process of xdist is given at once: a file, or all that needs a search server."""

    def _split_scope(self, nodeid: str) -> str:
        return "search" if SEARCHES.search(nodeid) else nodeid.partition("::")[0]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of xdist tells the process that prints how many tests it left out."""
    output: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_to_other_tiers"] = session.config.stash.get(_left, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Each worker collects all tests, so each has left out the same ones."""
    node.config.stash[_left] = getattr(node, "workeroutput", {}).get("left_to_other_tiers", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if left := config.stash.get(_left, 0):
        terminalreporter.write_line(
            f"Tier {config.getoption('tier')}: {left} more tests, on more systems and with larger numbers, run by `nox -s adversity`."
        )
