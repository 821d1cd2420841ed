"""SQL as a hook of StarRocks and Doris: sent as it is, with its values as literals."""

from __future__ import annotations

from pathlib import Path

import pytest

import retl
from retl import SQL, Hooks
from tests.integration.olap.scenes import Scene
from tests.support import Database


async def test_hooks_run_sql_in_the_cluster(scene: Scene, tmp_path: Path) -> None:
    scene.create("log", "id INT, name VARCHAR(40)")
    scene.create("orders", "id INT, v VARCHAR(40)")
    scene.insert("orders", (1, "a"))
    app = Database(tmp_path / "app.db")

    def job(**hooks: SQL) -> retl.Pipeline:
        return retl.Pipeline(
            "shop", source=scene.connector(), target=app.target(), tables=["orders"], hooks=Hooks(**hooks)
        )

    await job(
        before_run=SQL("INSERT INTO orders VALUES (2, 'it''s')", on="source"),
        after_scan=SQL("INSERT INTO log VALUES (:rows, :table);", on="source"),
    ).run_once()
    assert app.rows("orders") == [(1, "a"), (2, "it's")]
    assert scene.run("SELECT id, name FROM log") == [(2, "orders")]

    refresh = "REFRESH MATERIALIZED VIEW nothing"
    with pytest.raises(retl.HookFailed, match=rf"\({scene.kind}\): the hook before_run failed on the source: "):
        await job(before_run=SQL(refresh, on="source")).run_once()
    assert refresh in scene.statements()
