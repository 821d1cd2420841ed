"""A scan into PostgreSQL is cancelled at its steps: no task, no connection and no table is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiers
from tests.adversity.feed import Feed
from tests.adversity.looks import SQLiteLook, look_at_new_postgres
from tests.adversity.steps import Kind, cancel_at_steps
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.adversity

POINTS = 60 if tiers.every_step() else 5
"""At how many of its steps, some hundreds, a scan is cancelled; which ones differs from run to run."""


@pytest.fixture
def no_blocking_call() -> None:
    """Not watched here: the looks into the servers are meant to be so."""


@pytest.mark.parametrize("kind", ["task", "scope"])
@pytest.mark.parametrize("mode", ["append", "truncate", "rename_and_create", "swap", "mirror"])
async def test_a_scan_can_be_cancelled_at_any_step(mode: str, kind: Kind, pg: PostgresServer, folder: Path) -> None:
    with look_at_new_postgres(pg) as target:
        feed = Feed(mode, SQLiteLook(folder / "source.db"), target)
        await cancel_at_steps(feed, kind, POINTS, target.settle)
