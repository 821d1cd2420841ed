"""PostgreSQL with each of its neighbours, in both directions, by a job file and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from retl.cli import main
from tests.integration.olap.scenes import opened
from tests.routes.ends import DuckDBEnd, PostgresEnd, RedshiftEnd, SearchEnd, ServerEnd, SQLiteEnd
from tests.routes.fixtures import make_end
from tests.routes.route import End, Row, at
from tests.servers import olap, redshift

NEIGHBOURS = ("mysql", "mariadb", "duckdb", "sqlite", "elasticsearch")
PAIRS = [
    *((name, "postgres") for name in NEIGHBOURS),
    *(("postgres15", name) for name in NEIGHBOURS),
    ("postgres15", "postgres"),
    ("redshift", "postgres"),
]
COLUMNS = {"v": "text", "ts": "time"}
BEFORE = [(1, "a", at(1)), (2, "é🙂", at(2)), (3, None, at(3))]
AFTER = [(1, "a", at(1)), (3, "NULL", at(4.000001)), (4, "", at(5))]
BOTH = sorted([*AFTER, BEFORE[1]])
"""What an incremental scan leaves: it cannot see that a row is gone."""

Command = Callable[..., str]


@pytest.fixture
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[End, End]]:
    """Two systems by their names: a source and a target."""
    source, target = request.param
    with ExitStack() as stack:
        yield (
            make_end(source, "shop", request, tmp_path, stack),
            make_end(target, "app", request, tmp_path, stack),
        )


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in a folder of its own, which must succeed; what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        code = main(arguments)
        out, err = capsys.readouterr()
        assert (code, err) == (0, ""), f"{arguments}: {code}\n{out}\n{err}"
        return str(out)

    return run


def words(end: End, role: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A system in a job file; a password comes from the environment."""
    if isinstance(end, DuckDBEnd | SQLiteEnd):
        return _inline(type="duckdb" if isinstance(end, DuckDBEnd) else "sqlite", path=str(end.path))
    if isinstance(end, SearchEnd):
        return _inline(type="elasticsearch", url=end.server.url, state_index=f".{end.prefix}-state")
    if isinstance(end, RedshiftEnd):
        cluster = end.cluster
        monkeypatch.setenv(f"{role}_PASSWORD", cluster.reader[1])
        url = f"redshift://{cluster.reader[0]}@{cluster.host}:{cluster.port}/{cluster.database}"
        more = {"schema": end.schema, **redshift.trust(cluster)}
        return _inline(type="redshift", url=url, password=f"${{{role}_PASSWORD}}", **more)
    assert isinstance(end, ServerEnd | PostgresEnd)
    server = end.server.as_documented(end.database) if isinstance(end, ServerEnd) else end.server
    monkeypatch.setenv(f"{role}_PASSWORD", server.password)
    kind = "mysql" if isinstance(end, ServerEnd) else "postgres"
    scheme = "mysql" if isinstance(end, ServerEnd) else "postgresql"
    url = f"{scheme}://{server.user}@{server.host}:{server.port}/{end.database}"
    return _inline(type=kind, url=url, password=f"${{{role}_PASSWORD}}")


def _inline(**options: Any) -> str:
    return "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in options.items()) + " }"


def called(end: End, table: str) -> str:
    return end.called(table) if isinstance(end, SearchEnd) else table


def seen(end: End, table: str) -> list[Row]:
    """The rows of a target; the id of a document is text."""
    return sorted((int(key), *values) for key, *values in end.rows(table))


def job(source: str, target: str, *tables: str) -> None:
    head = f'[pipelines.shop]\nsource = {source}\ntarget = {target}\ninterval = "5m"\n'
    Path("jobs.toml").write_text(head + "".join(f"\n[[pipelines.shop.tables]]\n{table}\n" for table in tables))


@pytest.mark.parametrize("ends", PAIRS, ids=["-".join(pair) for pair in PAIRS], indirect=True)
def test_a_job_file(ends: tuple[End, End], command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = ends
    for table in ("orders", "people"):
        source.create(table, COLUMNS)
        source.insert(table, *BEFORE)
    refresh = "swap" if "mirror" not in target.refreshes else "mirror"
    document = 'columns = ["_id", "v", "ts"]\nrename = { _id = "id" }\n' if isinstance(source, SearchEnd) else ""
    names = {
        table: f'name = "{called(source, table)}"\nto = "{called(target, table)}"\n{document}'
        for table in ("orders", "people")
    }
    job(
        words(source, "SHOP", monkeypatch),
        words(target, "APP", monkeypatch),
        f'{names["orders"]}cursor = "ts"\nlookback = "1s"',
        f'{names["people"]}pre_action = "{refresh}"',
    )

    assert "error" not in command("check").split()
    assert "orders" in command("plan")
    assert target.tables() == []  # a plan writes nothing
    command("run", "--once")
    assert seen(target, "orders") == seen(target, "people") == BEFORE

    for table in ("orders", "people"):
        source.delete(table, 2)
        source.update(table, 3, v="NULL", ts=at(4.000001))
        source.insert(table, (4, "", at(5)))
    command("run", "--once")
    assert seen(target, "orders") == BOTH
    assert seen(target, "people") == AFTER
    command("run", "--once")
    assert seen(target, "orders") == BOTH
    assert seen(target, "people") == AFTER


@pytest.mark.parametrize("kind", ["starrocks", "doris"])
@pytest.mark.parametrize("pre_action", ["truncate", "rename_and_create", "swap", "mirror"])
def test_from_starrocks_and_doris(
    kind: str,
    pre_action: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with olap.any_server(kind) as server, opened(kind, server) as scene, ExitStack() as stack:
        target = make_end("postgres", "app", request, tmp_path, stack)
        monkeypatch.setenv("SHOP_PASSWORD", server.password)
        url = f"{kind}://{server.user}@{server.host}:{server.port}/{scene.database}"
        for table in ("orders", "people"):
            scene.create(table, f"id BIGINT NOT NULL, v VARCHAR(20), ts {scene.moment}")
            scene.insert(table, *BEFORE)
        job(
            _inline(type=kind, url=url, password="${SHOP_PASSWORD}"),
            words(target, "APP", monkeypatch),
            'name = "orders"\ncursor = "ts"\nlookback = "1s"',
            f'name = "people"\npre_action = "{pre_action}"',
        )
        command("run", "--once")
        assert seen(target, "orders") == seen(target, "people") == BEFORE
        for table in ("orders", "people"):
            scene.run(f"DELETE FROM {table} WHERE id = 2")
            scene.insert(table, *AFTER[1:])
        command("run", "--once")
        assert seen(target, "orders") == BOTH
        assert seen(target, "people") == AFTER
