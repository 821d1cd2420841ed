"""StarRocks and Doris as sources: what fails, how it is said, and that what is given up ends on the server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import retl
from retl import events
from retl.connectors import Doris, StarRocks
from retl.connectors.olap.cluster import addresses
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError, ConnectionFailed, RetlError, SourceError
from retl.model.plan import SourcePlan
from retl.testing import Scans, table_spec
from tests.adversity.patches import patch_backoff
from tests.fake_olap import FakeDoris, FakeOlap, FakeStarRocks, Fault, VolumeServer, flavour
from tests.integration.olap.scenes import STARROCKS, Scene, reads
from tests.servers import olap
from tests.servers.database import Server
from tests.servers.process import free_port
from tests.servers.proxy import Proxy
from tests.support import Database, Recorder

MANY = 5_000


@pytest.fixture
def numbers(scene: Scene) -> Scene:
    """A table of 5,000 rows, which came over some seconds."""
    scene.create("numbers", f"id INT NOT NULL, at {scene.moment}, text VARCHAR(200)")
    scene.insert("numbers", *[[n, f"2024-01-01 00:00:{n // 100:02d}.{n:06d}", "x" * 200] for n in range(MANY)])
    return scene


@pytest.fixture
def app(tmp_path: Path) -> Database:
    return Database(tmp_path / "app.db")


async def whole(source: Scans, table: str = "numbers") -> list[int]:
    plan = await source.plan(table_spec(table))
    return await read(source, plan)


async def read(source: Scans, plan: SourcePlan) -> list[int]:
    found: list[int] = []
    for slice_ in plan.slices:
        async for batch in source.read(plan, slice_):
            found.extend(int(value) for value in batch.column("id").to_pylist())
    return sorted(found)


def running(server: FakeOlap) -> list[str]:
    """The queries that run on the server just now."""
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW PROCESSLIST")
        return [row[8] for row in cursor.fetchall() if row[8].startswith("SELECT")]


async def until_idle(server: FakeOlap) -> None:
    with anyio.fail_after(10):
        while await anyio.to_thread.run_sync(running, server):
            await anyio.lowlevel.checkpoint()


# Ending early ------------------------------------------------------------------


@pytest.mark.parametrize("how", ["closed", "cancelled"])
async def test_a_read_that_ends_early_ends_on_the_server(numbers: Scene, how: str) -> None:
    async with numbers.source() as source:
        plan = await source.plan(table_spec("numbers"))
        fault = numbers.inject(hold=True, after_rows=4_000)
        begun = numbers.statements()
        batches = source.read(plan, plan.slices[0])
        if how == "closed":
            await anext(batches)
            await anyio.to_thread.run_sync(fault.reached.wait, 10)
            await batches.aclose()
        else:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_drain, batches)
                await anyio.to_thread.run_sync(fault.reached.wait, 10)
                tasks.cancel_scope.cancel()
        await until_idle(numbers.fake)
        said = numbers.statements()
        (kill,) = [sql for sql in said if sql.startswith("KILL QUERY")]
        if numbers.doris:
            assert re.fullmatch(r"KILL QUERY \d+", kill)
        else:
            named = [sql for sql in begun if "custom_query_id" in sql][-1]
            assert kill.removeprefix("KILL QUERY ") == named.removeprefix("SET custom_query_id = ")
        # The source is as good as before.
        assert await read(source, plan) == list(range(MANY))


async def _drain(batches: Any) -> None:
    async for _ in batches:
        pass


async def test_a_read_to_the_end_kills_nothing(numbers: Scene) -> None:
    numbers.statements()
    async with numbers.source() as source:
        assert await whole(source) == list(range(MANY))
    assert not [sql for sql in numbers.statements() if "KILL" in sql]


@STARROCKS
async def test_an_old_starrocks_knows_no_names_of_queries(numbers: Scene) -> None:
    async with numbers.source() as source:
        numbers.inject(error=numbers.fake.errors.unknown_variable("custom_query_id"), on="SET custom_query_id")
        plan = await source.plan(table_spec("numbers"))
        fault = numbers.inject(hold=True, after_rows=4_000)
        numbers.statements()
        batches = source.read(plan, plan.slices[0])
        await anext(batches)
        await anyio.to_thread.run_sync(fault.reached.wait, 10)
        await batches.aclose()
        await until_idle(numbers.fake)
    (kill,) = [sql for sql in numbers.statements() if "KILL" in sql]
    assert re.fullmatch(r"KILL QUERY \d+", kill)


# Faults of the cluster -----------------------------------------------------------

PASSING = ["backend_lost", "no_backend", "queue_timeout", "killed", "cut"]
OF_STORAGE = ["compacted", "rowset_gone", "no_replica", "memory"]


def passing(server: FakeOlap, name: str) -> dict[str, Any]:
    if name == "cut":
        return {"cut": True}
    make = getattr(server.errors, name)
    return {"error": make(300) if name == "queue_timeout" else make()}


@pytest.mark.parametrize("after_rows", [None, 0, 2_345], ids=["at once", "before the first row", "in the middle"])
@pytest.mark.parametrize("fault", [*PASSING, *OF_STORAGE, "unheard"])
async def test_what_may_pass_is_a_failed_connection(numbers: Scene, fault: str, after_rows: int | None) -> None:
    async with numbers.source() as source:
        plan = await source.plan(table_spec("numbers"))
        numbers.inject(**passing(numbers.fake, fault), after_rows=after_rows)
        with pytest.raises(ConnectionFailed) as caught:
            await read(source, plan)
        assert str(numbers.server.port) in caught.value.message and caught.value.remedy
        assert await read(source, plan) == list(range(MANY))


@pytest.mark.parametrize("fault", [*PASSING, *OF_STORAGE])
async def test_what_fails_while_it_plans_may_pass_too(numbers: Scene, fault: str) -> None:
    async with numbers.source() as source:
        numbers.inject(**passing(numbers.fake, fault), on="MAX(`at`)")
        table = table_spec("numbers", cursor="at")
        with pytest.raises(ConnectionFailed):
            await source.plan(table)
        plan = await source.plan(table)
        assert plan.window is not None and plan.window.upper == "2024-01-01 00:00:49.004999"


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize(
    "words", [{"cursor": "at", "slice_rows": 1_000}, {"pre_action": "truncate"}, {"pre_action": "swap"}]
)
async def test_a_pipeline_tries_again_and_has_every_row_in_the_end(
    numbers: Scene, app: Database, fault: str, words: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_backoff(monkeypatch, 0.0)
    job = retl.Pipeline(
        "numbers", source=numbers.connector(), target=app.target(), tables=[retl.Table("numbers", **words)]
    )
    heard = Recorder(job)
    # Twice: in the middle of what is read first, and before the first row of what is read next.
    faults = [Fault(**passing(numbers.fake, fault), after_rows=rows, on=", `text`") for rows in (700, 0)]
    heard.when(events.ScanPlanned, lambda _: [numbers.fake.inject(one) for one in faults])
    report = (await job.run_once()).scans[0]
    await job.aclose()
    assert report.status == "done" and all(one.reached.is_set() for one in faults)
    # StarRocks leaves out a fraction that is zero.
    first = "2024-01-01 00:00:00.000000" if numbers.doris else "2024-01-01 00:00:00"
    rest = [(n, f"2024-01-01 00:00:{n // 100:02d}.{n:06d}", "x" * 200) for n in range(1, MANY)]
    assert app.rows("numbers") == sorted([(0, first, "x" * 200), *rest], key=repr)


def partitioned(scene: Scene) -> None:
    """Two partitions of two rows each."""
    parts = ", ".join(f'PARTITION p{day} VALUES [("2024-01-0{day}"), ("2024-01-0{day + 1}"))' for day in (1, 2))
    scene.create(
        "days", "id INT NOT NULL, day DATE NOT NULL", key="id, day", partition=f"PARTITION BY RANGE (day) ({parts})"
    )
    scene.insert("days", [1, "2024-01-01"], [2, "2024-01-01"], [3, "2024-01-02"], [4, "2024-01-02"])


async def test_a_partition_that_is_dropped_after_the_plan_may_pass(scene: Scene) -> None:
    partitioned(scene)
    async with scene.source() as source:
        plan = await source.plan(table_spec("days"))
        scene.run("ALTER TABLE days DROP PARTITION p2")
        with pytest.raises(ConnectionFailed, match="p2"):
            await read(source, plan)
        assert await whole(source, "days") == [1, 2]


@pytest.mark.parametrize("pre_action", [retl.PreAction.NONE, retl.PreAction.TRUNCATE, retl.PreAction.SWAP])
async def test_a_scan_whose_partition_is_dropped_meanwhile_is_planned_again(
    scene: Scene, app: Database, pre_action: retl.PreAction, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_backoff(monkeypatch, 0.0)
    partitioned(scene)
    table = retl.Table("days", pre_action=pre_action, max_shrink="100%")
    job = retl.Pipeline("days", source=scene.connector(), target=app.target(), tables=[table])
    dropped: list[str] = []

    def drop(_: object) -> None:
        if not dropped:
            dropped.append("p1")
            scene.run("ALTER TABLE days DROP PARTITION p1")

    Recorder(job).when(events.ScanPlanned, drop)
    report = (await job.run_once()).scans[0]
    await job.aclose()
    assert (report.status, report.attempts) == ("done", 2)
    assert app.rows("days") == [(3, "2024-01-02"), (4, "2024-01-02")]


@pytest.mark.parametrize("change", ["DROP COLUMN text", "denied"])
async def test_a_name_or_a_right_that_is_gone_after_the_plan_does_not_pass(numbers: Scene, change: str) -> None:
    async with numbers.source() as source:
        plan = await source.plan(table_spec("numbers"))
        if change == "denied":
            numbers.fake.denied.add("numbers")
        else:
            numbers.run(f"ALTER TABLE numbers {change}")
        try:
            with pytest.raises((SourceError, ConfigError)):
                await read(source, plan)
        finally:
            numbers.fake.denied.clear()


async def test_a_query_that_takes_too_long_says_what_to_raise(numbers: Scene) -> None:
    async with numbers.source(query_timeout=1) as source:
        plan = await source.plan(table_spec("numbers"))
        numbers.inject(hold=True, after_rows=10)
        with pytest.raises(SourceError, match="took too long") as caught:
            await read(source, plan)
        assert "raise query_timeout" in caught.value.remedy
        assert numbers.server.host in caught.value.message


# What the user has to change --------------------------------------------------------


async def refused(scene: Scene, table: str = "numbers", *, password: str | None = None, url: str = "") -> RetlError:
    words = {"password": password} if password is not None else {}
    connector = scene.connector(**words)
    if url:
        connector = type(connector)(url, **words)
    async with Scans(connector.source()) as source:
        with pytest.raises(RetlError) as caught:
            await whole(source, table)
    return caught.value


async def test_a_wrong_password(numbers: Scene) -> None:
    error = await refused(numbers, password="not this one")
    assert isinstance(error, ConfigError)
    assert "Access denied for user 'reader'" in error.message and str(numbers.server.port) in error.message
    assert "check user, password" in error.remedy and "not this one" not in str(error)


async def test_a_missing_privilege(numbers: Scene) -> None:
    numbers.fake.denied.add("numbers")
    try:
        error = await refused(numbers)
    finally:
        numbers.fake.denied.clear()
    assert isinstance(error, ConfigError)
    assert "denied" in error.message and "numbers" in error.message and error.remedy


async def test_an_unknown_database(numbers: Scene) -> None:
    error = await refused(numbers, url=numbers.server.url("nowhere"))
    assert isinstance(error, ConfigError)
    assert "Unknown database 'nowhere'" in error.message and "in url" in error.remedy


async def test_an_unknown_table_of_another_database(numbers: Scene) -> None:
    error = await refused(numbers, "nowhere.numbers")
    assert isinstance(error, ConfigError) and "'nowhere.numbers'" in error.message


async def test_a_table_of_another_catalog_is_read_by_a_query(numbers: Scene) -> None:
    error = await refused(numbers, "lake.sales.orders")
    assert isinstance(error, ConfigError) and "read by query" in error.remedy


async def test_an_unknown_table_has_a_neighbour(numbers: Scene) -> None:
    error = await refused(numbers, "number")
    assert isinstance(error, ConfigError) and error.remedy == "did you mean 'numbers'?"


async def test_an_unknown_column_in_an_expression(numbers: Scene) -> None:
    async with numbers.source() as source:
        with pytest.raises(SourceError, match=r"'?nope'?") as caught:
            await source.plan(table_spec("numbers", expressions={"x": "nope + 1"}))
    assert caught.value.recovery == "permanent"


async def test_a_table_that_is_named_like_a_fault_is_no_fault(scene: Scene) -> None:
    """``backend`` in the name of a table, and the error would be taken for one that passes, for ever."""
    scene.create("backend_timeout", "id INT NOT NULL")
    scene.insert("backend_timeout", [1])
    async with scene.source() as source:
        plan = await source.plan(table_spec("backend_timeout"))
        scene.run("DROP TABLE backend_timeout")
        with pytest.raises(SourceError) as caught:
            await read(source, plan)
        assert "backend_timeout" in caught.value.message
        with pytest.raises(SourceError):
            await source.plan(
                table_spec("q", query="SELECT `query timeout` FROM information_schema.tables"), Checkpoint()
            )


@pytest.mark.parametrize("there", ["the other system", "MariaDB"])
async def test_another_system_behind_the_address(scene: Scene, there: str, request: pytest.FixtureRequest) -> None:
    connector: Any = Doris if scene.doris else StarRocks
    if there == "MariaDB":
        server: Server = request.getfixturevalue("mariadb_server")
        await _is_another_system(connector, server, r"neither StarRocks nor Doris")
        return
    with FakeStarRocks() if scene.doris else FakeDoris() as other:
        await _is_another_system(connector, other, rf"is no {'Doris' if scene.doris else 'StarRocks'}")


async def _is_another_system(connector: Any, server: Server, expected: str) -> None:
    words = {"host": server.host, "port": server.port, "user": server.user, "password": server.password}
    source = Scans(connector(**words).source())
    # Each time: a connection that was refused is not taken for a good one afterwards.
    for ask in (source.ping, source.list_tables, source.list_tables):
        with pytest.raises(ConfigError, match=expected) as caught:
            await ask()
        assert str(server.port) in caught.value.message and "9030" in caught.value.remedy
    await source.aclose()


async def test_nobody_listens(scene: Scene) -> None:
    port = free_port()
    source = Scans(type(scene.connector())(host="127.0.0.1", port=port, user="reader").source())
    with pytest.raises(ConnectionFailed, match=str(port)):
        await source.ping()
    await source.aclose()


# What is no text -------------------------------------------------------------------


@pytest.mark.parametrize("words", [{}, {"cursor": "id", "slice_rows": 2}, {"pre_action": retl.PreAction.SWAP}])
async def test_a_text_that_is_no_utf8_is_a_reject_of_its_row(
    scene: Scene, app: Database, words: dict[str, Any]
) -> None:
    scene.create("texts", "id INT NOT NULL, a VARCHAR(40), b VARCHAR(40)")
    scene.insert(
        "texts",
        [1, "x", "ok"],
        [2, "bad \uf8ff byte, and long", "ok"],
        [3, "ü", "\uf8ff"],
        [4, "\uf8ff", "\uf8ff"],
        [5, None, "é"],
    )
    table = retl.Table("texts", max_rejects=3, **words)
    job = retl.Pipeline("p", source=scene.connector(), target=app.target(), tables=[table])
    report = (await job.run_once()).scans[0]
    rejects = await job.rejects()
    await job.aclose()
    assert (report.status, report.rows, report.rejects) == ("done", 5, 3)
    assert app.rows("texts") == [(1, "x", "ok"), (5, None, "é")]
    assert sorted((one.key, one.column, one.reason) for one in rejects) == [
        ('{"id":"2"}', "a", "the text is not valid UTF-8"),
        ('{"id":"3"}', "b", "the text is not valid UTF-8"),
        ('{"id":"4"}', "a", "the text is not valid UTF-8"),
    ]
    assert r"bad \\xff byte" in next(one.content for one in rejects if "2" in one.key)


# Several FEs ---------------------------------------------------------------------


def of(numbers: Scene, *ports: int, **words: Any) -> Any:
    """The connector, with an address that names FEs at these ports."""
    before, at, after = olap.url(numbers.server, numbers.kind, numbers.database).rpartition("@")
    named = ",".join(f"127.0.0.1:{port}" for port in ports)
    return type(numbers.connector())(f"{before}{at}{named}/{after.partition('/')[2]}", **words)


async def test_the_next_fe_is_asked_where_one_cannot_be_reached(numbers: Scene) -> None:
    door = of(numbers, free_port(), numbers.server.port).source()
    async with Scans(door) as source:
        assert (await source.ping()).product == numbers.server.product
        assert door._cluster.login.port == numbers.server.port  # it is asked first from now on
        assert await whole(source) == list(range(MANY))


async def test_where_no_fe_can_be_reached_all_are_named(numbers: Scene) -> None:
    ports = free_port(), free_port()
    source = Scans(of(numbers, *ports).source())
    for ask in (source.ping, source.list_tables):
        with pytest.raises(ConnectionFailed, match="none of 2 FEs") as caught:
            await ask()
        assert all(f"127.0.0.1:{port}" in caught.value.message for port in ports)
    await source.aclose()


@pytest.mark.parametrize("goes", ["before", "between"])
async def test_a_scan_goes_on_at_the_next_fe(
    numbers: Scene, app: Database, goes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first FE is an address that forwards to the one there is, and that goes away."""
    patch_backoff(monkeypatch, 0.0)
    async with Proxy(numbers.server.host, numbers.server.port) as first:
        connector = of(numbers, first.port, numbers.server.port)
        table = retl.Table("numbers", cursor="at", slice_rows=1_000)
        job = retl.Pipeline("numbers", source=connector, target=app.target(), tables=[table])
        if goes == "between":

            def go(_: object) -> None:
                first.refuse()
                first.break_now()

            Recorder(job).when(events.ScanPlanned, go)
        else:
            first.refuse()
        report = (await job.run_once()).scans[0]
        await job.aclose()
    assert report.status == "done" and sorted(row[0] for row in app.rows("numbers")) == list(range(MANY))


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("fe1", [("fe1", 9030)]),
        ("fe1:1,fe2:2", [("fe1", 1), ("fe2", 2)]),
        ("fe1, fe2:9031", [("fe1", 9030), ("fe2", 9031)]),
        ("[::1]:9031,[::2]", [("::1", 9031), ("::2", 9030)]),
        ("::1", [("::1", 9030)]),
    ],
)
def test_addresses(named: str, expected: list[tuple[str, int]]) -> None:
    assert addresses(named, 9030) == expected
    if named != "::1":
        made = StarRocks(f"starrocks://etl:p%40w@{named.replace(' ', '')}/dw", timezone="UTC")
        assert [(one.host, one.port) for one in made.logins()] == expected
        assert {(one.user, one.password, one.database) for one in made.logins()} == {("etl", "p@w", "dw")}
        assert "p%40w" not in repr(made)
    assert [(one.host, one.port) for one in Doris(host=named).logins()] == expected


@pytest.mark.parametrize("named", ["fe1,", "fe1,,fe2", "fe1:x,fe2", "fe1,fe2:99999", "fe1;fe2,fe3 fe4"])
def test_what_is_no_list_of_addresses_is_refused(named: str) -> None:
    with pytest.raises(ConfigError, match=r"FEs|not an address"):
        Doris(f"doris://etl@{named}/dw").source()


async def test_the_server_goes_and_comes_again(numbers: Scene) -> None:
    async with numbers.source() as source:
        assert await whole(source) == list(range(MANY))
        numbers.fake.stop()
        try:
            with pytest.raises(ConnectionFailed):
                await whole(source)
        finally:
            numbers.fake.start()
        assert await whole(source) == list(range(MANY))


# Volume ------------------------------------------------------------------------------

ROWS = 300_000


@pytest.fixture(params=["starrocks", "doris"])
def volume(request: pytest.FixtureRequest, mariadb_server: Server) -> Iterator[tuple[VolumeServer, str]]:
    """A table of 300,000 rows on a MariaDB that speaks as StarRocks or Doris, and its database."""
    with (
        VolumeServer(mariadb_server, flavour.DORIS if request.param == "doris" else flavour.STARROCKS) as server,
        mariadb_server.fresh_database() as database,
    ):
        mariadb_server.query(
            "CREATE TABLE numbers (id INT PRIMARY KEY, at DATETIME(6), text VARCHAR(100))", database=database
        )
        mariadb_server.query(
            "INSERT INTO numbers SELECT seq, '2024-01-01' + INTERVAL seq MICROSECOND, CONCAT(REPEAT('ü', 40), seq) "
            f"FROM seq_0_to_{ROWS - 1}",
            database=database,
        )
        yield server, database


async def test_many_rows_at_full_speed_with_a_cut_in_the_middle(
    volume: tuple[VolumeServer, str], app: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_backoff(monkeypatch, 0.0)
    server, database = volume
    connector: Any = Doris if server.flavour.doris else StarRocks
    job = retl.Pipeline(
        "numbers",
        source=connector(server.url(database)),
        target=app.target(),
        tables=[retl.Table("numbers", pre_action=retl.PreAction.TRUNCATE)],
    )
    Recorder(job).when(events.ScanPlanned, lambda _: server.cut_after(20_000_000))
    report = (await job.run_once()).scans[0]
    await job.aclose()
    assert (report.status, report.attempts) == ("done", 2)
    assert app.run("SELECT COUNT(*), MIN(id), MAX(id), COUNT(DISTINCT id) FROM numbers") == [(ROWS, 0, ROWS - 1, ROWS)]
    wrong = app.run(
        "SELECT id, at, text FROM numbers WHERE at <> printf('2024-01-01 00:00:00.%06d', id) "
        "OR text <> replace(printf('%040d', 0), '0', 'ü') || id LIMIT 5"
    )
    assert wrong == []
    assert not [sql for sql in server.statements if "SELECT *" in sql]
    assert all("ORDER BY" not in sql for sql in reads(server.statements, "numbers"))
