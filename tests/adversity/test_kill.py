"""A scan is killed with SIGKILL at random instants, and no row is ever lost, doubled or shown half-loaded."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import tiers
from tests.adversity.fork_server import ForkServer, fork_server
from tests.adversity.looks import look_at
from tests.adversity.world import World, survive

pytestmark = pytest.mark.adversity

KILLS = tiers.number(100)
SUFFIXES = {"duckdb": ".duckdb", "sqlite": ".db"}


@dataclass(frozen=True)
class Case:
    """A way to sync; ``weight`` is its share of the kills."""

    route: str
    mode: str
    outside: bool = False
    """Whether the state store is a file of its own, so that data and checkpoint are two commits."""
    weight: int = 1

    @property
    def name(self) -> str:
        return f"{self.route}-{self.mode}{'-outside' if self.outside else ''}"

    def world(self, folder: Path, random: random.Random) -> World:
        source, target = (SUFFIXES[end] for end in self.route.split("-to-"))
        store = look_at(folder / "state.db") if self.outside else None
        return World(
            self.mode, look_at(folder / f"source{source}"), look_at(folder / f"target{target}"), random, store=store
        )


MODES = ("incremental", "none", "truncate", "rename_and_create", "swap")
CASES = [
    *(Case("duckdb-to-sqlite", mode, weight=3 if mode == "incremental" else 2) for mode in MODES),
    *(Case("duckdb-to-sqlite", mode, outside=True) for mode in ("incremental", "truncate", "rename_and_create")),
    *(Case("sqlite-to-duckdb", mode, weight=2 if mode == "incremental" else 1) for mode in MODES),
]
WEIGHTS = sum(case.weight for case in CASES)


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with fork_server() as started:
        yield started


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_is_lost_or_doubled_by_a_kill(case: Case, server: ForkServer, folder: Path) -> None:
    seed = random.randrange(2**32)
    print(f"{case.name}: seed {seed}")
    world = case.world(folder, random.Random(seed))
    print(f"{case.name}: {survive(world, server, -(-KILLS * case.weight // WEIGHTS))}")
