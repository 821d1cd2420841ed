"""Whatever a server is set to, a scan is right or says plainly why it cannot be; and nobody is cut off for being slow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import anyio
import anyio.to_thread
import pyarrow as pa
import pymysql
import pytest

import retl
from retl.connectors import FunctionTarget, IteratorSource, MySQL
from tests.integration.mysql.reading import query
from tests.integration.mysql.targets import Scene
from tests.servers.database import Server
from tests.servers.sql import Row

MODES = ("none", "truncate", "rename_and_create", "swap")
COLUMNS = "id INT PRIMARY KEY, name VARCHAR(40), price DECIMAL(9,2), at TIMESTAMP(6) NOT NULL, doc TEXT, KEY (name)"
HALF = "price / 3"

# Those that the walk leaves alone, and why.
LEFT = {
    *("server_id", "gtid_domain_id"),  # are of replication
    *("wsrep_on", "wsrep_trx_fragment_size"),  # there is no cluster
    *("max_session_mem_used", "tmp_disk_table_size"),  # nobody could work
}
# The oddest values of those whose values are words or which are no harm at their lowest.
ODD: dict[str, str] = {
    "sql_select_limit": "2",
    "transaction_isolation": "'READ-UNCOMMITTED'",
    "tx_isolation": "'SERIALIZABLE'",
    "completion_type": "'CHAIN'",
    "max_execution_time": "1",
    "max_statement_time": "0.0001",
    "sql_mode": "'ANSI,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH,HIGH_NOT_PRECEDENCE,NO_UNSIGNED_SUBTRACTION'",
    "time_zone": "'+09:30'",
    "lc_messages": "'de_DE'",
    "lc_time_names": "'ja_JP'",
    "character_set_client": "latin1",
    "character_set_connection": "latin1",
    "character_set_results": "latin1",
    "character_set_database": "latin1",
    "character_set_server": "latin1",
    "collation_connection": "latin1_german2_ci",
    "collation_database": "latin1_german2_ci",
    "collation_server": "latin1_german2_ci",
    "default_collation_for_utf8mb4": "utf8mb4_general_ci",
    "default_storage_engine": "MEMORY",
    "div_precision_increment": "0",
    "group_concat_max_len": "4",
    "wait_timeout": "1",
    "interactive_timeout": "1",
    "net_read_timeout": "1",
    "net_write_timeout": "1",
    "lock_wait_timeout": "1",
    "innodb_lock_wait_timeout": "1",
    "max_join_size": "1",
    "auto_increment_increment": "7",
    "auto_increment_offset": "5",
    "alter_algorithm": "'INSTANT'",
    "old_mode": "'NO_DUP_KEY_WARNINGS_WITH_IGNORE,ZERO_DATE_TIME_CAST,COMPAT_5_1_CHECKSUM'",
    "note_verbosity": "'basic,unusable_keys,explain'",
    "system_versioning_asof": "'2001-01-01 00:00:00'",
    "system_versioning_alter_history": "'KEEP'",
    "use_secondary_engine": "OFF",
    "sql_require_primary_key": "ON",
    "sql_generate_invisible_primary_key": "ON",
    "binlog_row_image": "'MINIMAL'",
    "block_encryption_mode": "'aes-256-cbc'",
    "optimizer_search_depth": "0",
    "query_cache_type": "ON",
    "session_track_system_variables": "'*'",
    "session_track_transaction_info": "'CHARACTERISTICS'",
    "default_regex_flags": "'DOTALL,EXTENDED'",
    "histogram_type": "'JSON_HB'",
    "myisam_stats_method": "'nulls_ignored'",
    "use_stat_tables": "'NEVER'",
    "terminology_use_previous": "BEFORE_8_0_26",
    "group_replication_consistency": "'EVENTUAL'",
    "internal_tmp_mem_storage_engine": "MEMORY",
    "range_optimizer_max_mem_size": "1",
}
# What the test's own sessions are set to.
PLAIN = (
    "SET NAMES utf8mb4, time_zone = '+00:00', sql_mode = '', autocommit = 1, completion_type = 0, sql_big_selects = 1, "
    "sql_select_limit = 10000, div_precision_increment = 4, sql_safe_updates = 0, sql_auto_is_null = 0 "
    "/*!80000 , transaction_read_only = 0, max_execution_time = 0, sql_require_primary_key = 0 */ "
    "/*M!100600 , tx_read_only = 0, max_statement_time = 0, system_versioning_asof = DEFAULT */"
)
STRANGE = {"OFF": "ON", "ON": "OFF", "NO": "YES", "YES": "NO"}


@pytest.fixture
def shop(server: Server) -> Iterator[Scene]:
    with server.fresh_database() as name:
        scene = Scene(server, name)
        for mode in MODES:
            scene.run(f"CREATE TABLE {mode}_t ({COLUMNS})")
            fill(scene, mode, range(1, 31))
        yield scene


@pytest.fixture
def app(server: Server, database: str) -> Scene:
    return Scene(server, database)


@pytest.fixture
def sides(shop: Scene, app: Scene) -> tuple[MySQL, MySQL]:
    """Source and target, with the rights that are documented; their users are made before anything is set."""
    return shop.options(), app.options()


def fill(scene: Scene, mode: str, ids: range) -> None:
    values = ", ".join(
        f"({n}, 'N{n % 7}\\\\é漢🗼', {n}.25, TIMESTAMP(20240101) + INTERVAL {n} SECOND, REPEAT('\"x'' ', {n}))"
        for n in ids
    )
    scene.run(PLAIN, f"REPLACE INTO {mode}_t (id, name, price, at, doc) VALUES {values}")


def rows(scene: Scene, table: str, columns: str) -> list[Row]:
    return scene.run(PLAIN, f"SELECT {columns} FROM {table} ORDER BY id")


def tables() -> list[retl.Table]:
    return [
        retl.Table(
            f"{mode}_t",
            cursor="at" if mode == "none" else None,
            pre_action=retl.PreAction(mode),
            slice_rows=10,
            expressions={"half": HALF},
        )
        for mode in MODES
    ]


async def scan_twice(shop: Scene, app: Scene, sides: tuple[MySQL, MySQL]) -> None:
    """Every mode, with new and changed rows in between, through sessions of their own; the target equals the source."""
    for (table,) in app.run(PLAIN, "SHOW TABLES"):
        app.run(PLAIN, f"DROP TABLE `{table}`")
    async with retl.Pipeline("walk", source=sides[0], target=sides[1], tables=tables()) as job:
        for last in (30, 34):
            for mode in MODES:
                shop.run(PLAIN, f"DELETE FROM {mode}_t WHERE id > 30")
                fill(shop, mode, range(29, last + 1))
            report = await job.run_once()
            assert [scan.status for scan in report.scans] == ["done"] * 4, [scan.error for scan in report.scans]
            for mode in MODES:
                want = rows(shop, f"{mode}_t", f"id, name, price, at, doc, {HALF}")
                assert rows(app, f"{mode}_t", "id, name, price, at, doc, half") == want, mode
                assert len(want) == last


@pytest.fixture
def teller(server: Server) -> Iterator[Any]:
    """A cursor of a session that began before anything was set."""
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        yield cursor


@contextmanager
def set_globally(cursor: Any, values: Mapping[str, str]) -> Iterator[list[str]]:
    """Settings for sessions that begin meanwhile; the names of those that the server would have."""
    with ExitStack() as stack:
        done = []
        for name, value in values.items():
            with suppress(pymysql.Error):
                cursor.execute(f"SELECT @@GLOBAL.{name}")
                ((before,),) = cursor.fetchall()
                cursor.execute(f"SET GLOBAL {name} = {value}")
                stack.callback(cursor.execute, f"SET GLOBAL {name} = %s", (before,))
                done.append(name)
        yield done


def odd_values(cursor: Any) -> dict[str, str]:
    """An odd value for every variable that a session takes over from the server."""
    found: dict[str, str] = {}
    cursor.execute("SHOW GLOBAL VARIABLES")
    for name, value in cursor.fetchall():
        with suppress(pymysql.Error):
            cursor.execute(f"SET SESSION {name} = @@SESSION.{name}")
            odd = ODD.get(name) or STRANGE.get(value) or ("1" if value.isdigit() else "")
            if odd and name not in LEFT:
                found[name] = odd
    return found


async def test_no_setting_of_a_server_makes_a_scan_wrong(
    shop: Scene, app: Scene, sides: tuple[MySQL, MySQL], teller: Any
) -> None:
    """Every variable that a session takes over, set to an odd value: all of them at once; where that fails, one by one."""
    odd = await anyio.to_thread.run_sync(odd_values, teller)
    assert len(odd) > 100
    with set_globally(teller, odd) as done:
        assert len(done) > 100
        try:
            await scan_twice(shop, app, sides)
            return
        except (AssertionError, retl.RetlError) as error:
            together = error
    guilty = await search(shop, app, sides, teller, {name: odd[name] for name in done})
    raise AssertionError(f"{guilty} alone; all together: {together}")


async def search(
    shop: Scene, app: Scene, sides: tuple[MySQL, MySQL], teller: Any, odd: dict[str, str]
) -> dict[str, str]:
    """Which settings make a scan fail by themselves, each with what happened."""
    with set_globally(teller, odd):
        try:
            await scan_twice(shop, app, sides)
        except (AssertionError, retl.RetlError) as error:
            if len(odd) == 1:
                return {f"{name} = {value}": str(error)[:300] for name, value in odd.items()}
        else:
            return {}
    names = list(odd)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    found: dict[str, str] = {}
    for half in halves:
        found |= await search(shop, app, sides, teller, {name: odd[name] for name in half})
    return found


@pytest.mark.parametrize("mode", ["none", "swap"])
async def test_a_source_may_be_slower_than_the_target_lets_a_session_idle(app: Scene, teller: Any, mode: str) -> None:
    target = app.options()

    async def read() -> AsyncIterator[list[dict[str, int]]]:
        for number in range(2):
            await anyio.sleep(1.4)
            yield [{"id": number * 2}, {"id": number * 2 + 1}]

    source = IteratorSource(read, key="id", schema=pa.schema([pa.field("id", pa.int64(), nullable=False)]))
    with set_globally(teller, {"wait_timeout": "1", "interactive_timeout": "1"}):
        table = retl.Table("people", pre_action=retl.PreAction(mode), slice_rows=2)
        async with retl.Pipeline("slow", source=source, target=target, tables=[table]) as job:
            report = await job.run_once()
    assert [(scan.status, scan.attempts) for scan in report.scans] == [("done", 1)], report.scans
    assert app.rows("people") == [(number,) for number in range(4)]


async def test_a_target_may_be_slower_than_the_source_lets_a_session_idle(shop: Scene, teller: Any) -> None:
    source, got = shop.options(), list[int]()

    async def write(batch: list[dict[str, Any]]) -> None:
        await anyio.sleep(0.8)
        got.extend(row["id"] for row in batch)

    names = ("wait_timeout", "interactive_timeout", "net_read_timeout", "net_write_timeout")
    with set_globally(teller, dict.fromkeys(names, "1")):
        table = retl.Table("none_t", cursor="at", slice_rows=10)
        async with retl.Pipeline(
            "slow",
            source=source,
            target=FunctionTarget(write, rows=True),
            state=retl.MemoryStore(),
            tables=[table],
        ) as job:
            report = await job.run_once()
    assert [(scan.status, scan.attempts) for scan in report.scans] == [("done", 1)], report.scans
    assert got == list(range(1, 31))


async def test_what_was_idle_is_looked_at_before_it_is_used(shop: Scene) -> None:
    """Whoever stands between may have cut the line without a word."""
    source, target = shop.options().source(), shop.options().target()
    try:
        for _ in range(2):
            assert await query(source, "SELECT COUNT(*) FROM none_t") == [(30,)]
            assert await target.count("none_t") == 30
            asked = "SELECT id FROM information_schema.processlist WHERE db = %s AND command = 'Sleep'"
            for (number,) in await shop.server.run(asked, shop.database):
                with suppress(pymysql.Error):
                    await shop.server.run(f"KILL {number}")
    finally:
        await source.aclose()
        await target.aclose()
