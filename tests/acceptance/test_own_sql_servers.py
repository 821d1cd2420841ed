"""``before_sql`` and ``after_sql`` on servers: what their transactions undo, and what MySQL cannot."""

from __future__ import annotations

from typing import Any

import pytest

import retl
from retl.connectors import MySQL, PostgreSQL
from tests.integration.mysql.targets import Scene as MySQLScene
from tests.integration.postgres.targets import Scene as PostgresScene
from tests.servers.database import Server
from tests.servers.postgres import PostgresServer
from tests.support import Warehouse

AFTER = "INSERT INTO log SELECT 'after', COUNT(*) FROM orders"
WORDS = {
    "before_sql": "INSERT INTO log SELECT 'before', COUNT(*) FROM orders;",
    "after_sql": [AFTER, "SELECT 1", "UPDATE log SET n = n + 100 WHERE what = 'after' AND n < 100"],
}
MADE = (
    "CREATE TABLE log (what VARCHAR(20), n INT)",
    "CREATE TABLE orders (id BIGINT PRIMARY KEY, city VARCHAR(20), updated_at {time})",
    "INSERT INTO orders VALUES (99, 'old', '2020-01-01')",
)


def pipeline(warehouse: Warehouse, target: Any, **words: Any) -> retl.Pipeline:
    table = retl.Table("orders", **{**WORDS, **words})
    return retl.Pipeline("orders", source=warehouse.source(), target=target, tables=[table])


async def try_out(warehouse: Warehouse, scene: Any, target: Any, pre_action: str, *, undone: bool) -> None:
    """A scan whose last statement fails, and one that goes well. ``undone``: whether the first one leaves the old table."""
    time = "DATETIME(6)" if isinstance(target, MySQL) else "TIMESTAMP"
    scene.run(*(statement.format(time=time) for statement in MADE))
    how = {"cursor": "updated_at"} if pre_action == "none" else {"pre_action": pre_action}
    failing = [AFTER, "INSERT INTO nothing VALUES (1)"]
    with pytest.raises(retl.TargetError, match=r"after_sql\[1\] failed: .*nothing"):
        await pipeline(warehouse, target, **how, after_sql=failing).run_once()
    assert scene.rows("log") == [("before", 1)]
    assert ([row[0] for row in scene.rows("orders")] == [99]) == undone
    scene.run("DELETE FROM log")
    before = len(scene.rows("orders"))
    assert (await pipeline(warehouse, target, **how).run_once()).ok
    after = 11 if pre_action == "none" else 10
    assert scene.rows("log") == [("after", after + 100), ("before", before)]
    assert len(scene.rows("orders")) == after


@pytest.mark.parametrize("pre_action", ["none", "swap", "mirror"])
async def test_postgres(warehouse: Warehouse, pg: PostgresServer, pg_database: str, pre_action: str) -> None:
    scene = PostgresScene(pg, pg_database)
    target = PostgreSQL(pg.url(pg_database))
    await try_out(warehouse, scene, target, pre_action, undone=pre_action != "none")


@pytest.mark.parametrize("pre_action", ["none", "rename_and_create", "swap", "mirror"])
async def test_mysql(warehouse: Warehouse, server: Server, database: str, pre_action: str) -> None:
    scene = MySQLScene(server, database)
    target = MySQL(server.url(database))
    await try_out(warehouse, scene, target, pre_action, undone=pre_action == "mirror")
