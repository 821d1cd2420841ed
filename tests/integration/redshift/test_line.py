"""The line to the cluster is cut anywhere, or nobody reads any more: no row is lost or doubled, and nothing goes on there."""

from __future__ import annotations

import sqlite3
from contextlib import aclosing, closing, suppress
from pathlib import Path
from typing import Any

import pytest

import retl
from retl.connectors import SQLite
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConnectionFailed
from retl.model.table import TableSpec
from tests import tiers
from tests.adversity.patches import patch_backoff
from tests.integration.redshift.scene import Scene, until
from tests.servers.proxy import Direction, Proxy

ROWS = 2_000
LONGEST = {"to_client": 160_000, "to_server": 8_000}
"""About as many bytes as a scan has."""


@pytest.mark.parametrize("direction", ["to_client", "to_server"])
@pytest.mark.parametrize("way", ["cursor", "unload"])
async def test_a_line_that_is_cut_again_and_again_loses_nothing(
    lake_scene: Scene, tmp_path: Path, way: str, direction: Direction, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_backoff(monkeypatch, 0.0)
    lake_scene.numbers(ROWS)
    options: dict[str, Any] = lake_scene.unload() if way == "unload" else {"read": way}
    async with Proxy(lake_scene.cluster.host, lake_scene.cluster.port) as proxy:
        source = lake_scene.connector(port=proxy.port, **options)
        table = retl.Table("numbers", cursor="ts", key="id", slice_rows=ROWS // 4)
        async with retl.Pipeline(
            "cut", source=source, target=SQLite(str(tmp_path / "app.db")), tables=[table]
        ) as running:
            most = LONGEST[direction]
            for after in range(0, most, most // tiers.number(8)):
                proxy.break_after(after, direction)
                with suppress(ConnectionFailed):
                    await running.run_once()
            proxy.mend()
            await running.run_once()
    with closing(sqlite3.connect(tmp_path / "app.db")) as app:
        found = app.execute("SELECT id, v FROM numbers ORDER BY id").fetchall()
    assert found == [(n, f"v{n}") for n in range(ROWS)]
    assert lake_scene.bucket is not None
    assert lake_scene.bucket.names() == []


@pytest.mark.parametrize("way", ["whole", "cursor"])
async def test_a_scan_that_is_left_early_leaves_nothing_open_on_the_cluster(scene: Scene, way: str) -> None:
    scene.numbers(ROWS)
    busy = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'etl' AND (state = 'active' OR state LIKE 'idle in%')"
    async with scene.source(read=way, keep_idle=0) as source:
        plan = await source.plan(TableSpec("numbers", "numbers"), Checkpoint())
        async with aclosing(source.read(plan, plan.slices[0])) as batches:
            await anext(batches)
    await until(lambda: scene.fake.postgres.query(busy) == [(0,)])
