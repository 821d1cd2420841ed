"""Scans from MariaDB to MySQL are killed with SIGKILL at random instants; the server outlives them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import tiers
from tests.adversity.fork_server import ForkServer, fork_server
from tests.adversity.looks import SQLiteLook, look_at_new
from tests.adversity.world import World, survive
from tests.servers.database import Server

pytestmark = pytest.mark.adversity

KILLS = tiers.number(100)


@dataclass(frozen=True)
class Case:
    """A way to sync; ``weight`` is its share of the kills."""

    mode: str
    weight: int = 2
    outside: bool = False
    """Whether the state store is a file of its own, so that data and checkpoint are two commits."""
    options: dict[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "-".join([self.mode, *(["outside"] if self.outside else []), *self.options])


CASES = [
    Case("incremental", weight=3),
    *(Case(mode) for mode in ("none", "truncate", "rename_and_create", "swap")),
    Case("rename_and_create", weight=1, outside=True),
]
WEIGHTS = sum(case.weight for case in CASES)
# The slower way, by INSERT: a few more.
INSERTS = [Case(mode, options={"local_infile": False}) for mode in ("incremental", "swap")]


@pytest.fixture(scope="module")
def scans() -> Iterator[ForkServer]:
    with fork_server() as started:
        yield started


@pytest.mark.parametrize("case", [*CASES, *INSERTS], ids=lambda case: case.name)
def test_nothing_is_lost_or_doubled_by_a_kill(
    case: Case, scans: ForkServer, mariadb_server: Server, mysql_server: Server, folder: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"{case.name}: seed {seed}")
    kills = -(-KILLS // 25) if case in INSERTS else -(-KILLS * case.weight // WEIGHTS)
    with look_at_new(mariadb_server) as source, look_at_new(mysql_server) as target:
        store = SQLiteLook(folder / "state.db") if case.outside else None
        world = World(case.mode, source, target, random.Random(seed), store=store, target_options=case.options)
        print(f"{case.name}: {survive(world, scans, kills, spread=0.004)}")
