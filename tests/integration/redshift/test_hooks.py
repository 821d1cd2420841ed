"""SQL as a hook of Redshift: outside of a transaction, in the schema of the source."""

from __future__ import annotations

from pathlib import Path

import pytest

import retl
from retl import SQL, Hooks
from tests.integration.redshift.scene import Scene
from tests.support import Database


async def test_hooks_run_sql_in_the_cluster(scene: Scene, tmp_path: Path) -> None:
    scene.create("log", "n INTEGER, name VARCHAR(40)")
    scene.create("orders", "id INTEGER, v VARCHAR(40)")
    scene.run("GRANT INSERT ON {}.log, {}.orders TO PUBLIC")
    app = Database(tmp_path / "app.db")

    def job(**hooks: SQL) -> retl.Pipeline:
        table = retl.Table("orders", key="id")
        return retl.Pipeline(
            "shop", source=scene.connector(), target=app.target(), tables=[table], hooks=Hooks(**hooks)
        )

    await job(
        before_run=SQL(["INSERT INTO orders VALUES (1, 'a'), (2, 'b')", "VACUUM orders"], on="source"),
        after_scan=SQL("INSERT INTO log VALUES (:rows, :table);", on="source"),
    ).run_once()
    assert app.rows("orders") == [(1, "a"), (2, "b")]
    assert scene.run("SELECT n, name FROM {}.log") == [(2, "orders")]
    with pytest.raises(retl.HookFailed, match=r"\(redshift\): the hook before_run failed on the source: .*nothing"):
        await job(before_run=SQL("REFRESH MATERIALIZED VIEW nothing", on="source")).run_once()
