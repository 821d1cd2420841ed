"""A scan is killed with SIGKILL at random instants, and no row is ever lost, doubled or shown half-loaded.

A route is a pair of systems: a database file is killed with the scan that has it open, a server outlives it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests import tiers
from tests.adversity.fork_server import ForkServer, fork_server
from tests.adversity.looks import SQLiteLook, look_at, look_at_new, look_at_schema
from tests.adversity.search_world import SearchLook, SearchWorld
from tests.adversity.world import Survivor, World, survive

pytestmark = pytest.mark.adversity

KILLS = tiers.by_tier(10, 100, 200)
"""For each route. More of them would take a night, and each run takes other instants."""
MODES = ("incremental", "none", "truncate", "rename_and_create", "swap")


@dataclass(frozen=True)
class Case:
    """A way to sync; ``share`` is its part of the kills of its route."""

    route: str
    mode: str
    share: float
    outside: bool = False
    """Whether the state store is a file of its own, so that data and checkpoint are two commits."""
    options: dict[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "-".join([self.route, self.mode, *(["outside"] if self.outside else []), *self.options])


CASES = [
    *(Case("duckdb-to-sqlite", mode, 0.15 if mode == "incremental" else 0.1) for mode in MODES),
    *(Case("duckdb-to-sqlite", mode, 0.05, outside=True) for mode in ("incremental", "truncate", "rename_and_create")),
    *(Case("sqlite-to-duckdb", mode, 0.1 if mode == "incremental" else 0.05) for mode in MODES),
    *(Case("mariadb-to-mysql", mode, 0.25 if mode == "incremental" else 0.16) for mode in MODES),
    Case("mariadb-to-mysql", "rename_and_create", 0.08, outside=True),
    *(Case(route, "mirror", 0.08) for route in ("mariadb-to-mysql", "duckdb-to-sqlite", "sqlite-to-duckdb")),
    *(Case("postgres15-to-postgres", mode, 0.34 if mode == "incremental" else 0.12) for mode in (*MODES, "mirror")),
    Case("postgres15-to-postgres", "truncate", 0.06, outside=True),
    # The slower way, by INSERT: a few more.
    *(Case("mariadb-to-mysql", mode, 0.04, options={"local_infile": False}) for mode in ("incremental", "swap")),
    *(Case("index-to-index", mode, 0.4 if mode == "incremental" else 0.2) for mode in ("incremental", "none")),
    *(Case("index-to-index", mode, 0.25) for mode in ("truncate", "swap")),
]
FROM_REDSHIFT = [
    *(Case("redshift-to-mysql", mode, 0.35 if mode in ("incremental", "truncate") else 0.1) for mode in MODES),
    *(Case("redshift-to-postgres", mode, 0.1) for mode in ("incremental", "truncate", "mirror")),
]
"""It only changes how rows are read, so a merge can do without."""
SPREADS = {
    "mariadb-to-mysql": 0.004,
    "postgres15-to-postgres": 0.004,
    "redshift-to-mysql": 0.008,
    "redshift-to-postgres": 0.008,
    "index-to-index": 0.01,
}
"""How long after an event a kill comes, on average, where all takes longer than in a file."""

Open = Callable[[Case, random.Random], AbstractContextManager[Survivor]]


@pytest.fixture(scope="module")
def scans() -> Iterator[ForkServer]:
    with fork_server() as started:
        yield started


@pytest.fixture
def opened(request: pytest.FixtureRequest, folder: Path) -> Open:
    """The two systems of a case, ready to be read and written."""

    @contextmanager
    def opened(case: Case, chance: random.Random) -> Iterator[Survivor]:
        store = SQLiteLook(folder / "state.db") if case.outside else None
        if case.route == "index-to-index":
            look = SearchLook(request.getfixturevalue("elasticsearch_server"), request.getfixturevalue("prefix"))
            yield SearchWorld(case.mode, look, chance)
        elif case.route in SPREADS:
            servers = [request.getfixturevalue(f"{end}_server") for end in case.route.split("-to-")]
            new: Callable[..., Any] = look_at_schema if case.route.startswith("redshift") else look_at_new
            with new(servers[0]) as source, look_at_new(servers[1]) as target:
                yield World(case.mode, source, target, chance, store=store, target_options=case.options)
        else:
            suffixes = {"duckdb": ".duckdb", "sqlite": ".db"}
            first, second = (suffixes[end] for end in case.route.split("-to-"))
            files = look_at(folder / f"source{first}"), look_at(folder / f"target{second}")
            yield World(case.mode, *files, chance, store=store)

    return opened


@pytest.mark.parametrize(
    "case",
    [*CASES, *(pytest.param(case, marks=pytest.mark.large) for case in FROM_REDSHIFT)],
    ids=lambda case: case.name,
)
def test_nothing_is_lost_or_doubled_by_a_kill(case: Case, scans: ForkServer, opened: Open) -> None:
    seed = random.randrange(2**32)
    print(f"{case.name}: seed {seed}")
    with opened(case, random.Random(seed)) as world:
        spread = SPREADS.get(case.route, 0.0015)
        print(f"{case.name}: {survive(world, scans, max(1, round(KILLS * case.share)), spread=spread)}")
