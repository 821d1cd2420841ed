"""SQL as a hook: in a session of its own, on both sides, with procedures and what they say last."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import retl
from retl import SQL, Hooks
from retl.connectors import MySQL
from tests.integration.mysql.targets import Scene
from tests.servers.database import Server

BUILD = "CREATE PROCEDURE build_export() BEGIN SELECT 'said'; INSERT INTO export SELECT id, @what FROM orders; SELECT 1; END"
BROKEN = "CREATE PROCEDURE broken() BEGIN SELECT 1; SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no export today'; END"


async def test_hooks_run_sql_in_sessions_of_their_own(server: Server, database: str) -> None:
    scene = Scene(server, database)
    scene.run(
        "CREATE TABLE orders (id INT PRIMARY KEY)",
        "INSERT INTO orders VALUES (1), (2)",
        "CREATE TABLE export (id INT PRIMARY KEY, what VARCHAR(20))",
        "CREATE TABLE export_log (name VARCHAR(20), n INT, zone VARCHAR(20))",
        BUILD,
        BROKEN,
    )

    def job(words: Any = None, **hooks: SQL) -> retl.Pipeline:
        side, table = MySQL(server.url(database)), retl.Table("export", to="copy")
        return retl.Pipeline("export", source=side, target=side, tables=[table], hooks=Hooks(**hooks), **(words or {}))

    built = ["SET time_zone = '+03:00', @what = 'it''s \\\\ built'", "CALL build_export()  # not twice"]
    job_done = job(
        before_run=SQL(built, on="source"),
        after_scan=SQL("INSERT INTO export_log VALUES (:table, :rows, @@time_zone)", on="source"),
        after_run=SQL("ANALYZE TABLE copy", on="target"),
    )
    assert (await job_done.run_once()).rows == 2
    assert scene.rows("copy") == [(1, "it's \\ built"), (2, "it's \\ built")]
    assert scene.rows("export_log") == [("export", 2, "+00:00")]

    with pytest.raises(retl.HookFailed, match=r"after_scan failed on the source: .*Data too long for column 'zone'"):
        await job(after_scan=SQL("INSERT INTO export_log VALUES ('a', 1, REPEAT('b', 21))", on="source")).run_once()

    with pytest.raises(
        retl.HookFailed, match=r"before_scan failed on the source: .*no export today.* run the statement"
    ):
        await job(before_scan=SQL("CALL broken()", on="source")).run_once()
    with anyio.fail_after(60), pytest.raises(retl.HookFailed, match="before_run has not ended within 500ms"):
        await job({"stall_timeout": 0.5}, before_run=SQL("DO SLEEP(600)", on="target")).run_once()
    assert await server.run("SELECT info FROM information_schema.processlist WHERE info LIKE 'DO SLEEP%'") == []
