"""The routes by their names. In the largest tier any two systems with SQL are one, in one version each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import tiers
from tests.adversity.patches import patch_backoff
from tests.routes.ends import DuckDBEnd, PostgresEnd, RedshiftEnd, SearchEnd, ServerEnd, SQLiteEnd
from tests.routes.route import End, Route
from tests.routes.trees import BucketEnd, FolderEnd

SQL = ("duckdb", "sqlite", "mysql", "postgres")
ENDS: dict[str, type[End]] = {
    "duckdb": DuckDBEnd,
    "sqlite": SQLiteEnd,
    **dict.fromkeys(("mysql", "mariadb"), ServerEnd),
    **dict.fromkeys(("postgres", "postgres15"), PostgresEnd),
    "redshift": RedshiftEnd,
    **dict.fromkeys(("elasticsearch", "opensearch"), SearchEnd),
    "folder": FolderEnd,
    "s3": BucketEnd,
}
EVERY_DAY = (
    ("duckdb", "sqlite"),
    ("sqlite", "duckdb"),
    ("mysql", "mysql"),
    ("mariadb", "mariadb"),
    ("postgres", "sqlite"),
    ("postgres15", "mysql"),
    ("duckdb", "postgres"),
    ("postgres", "postgres15"),
    ("redshift", "mysql"),
    ("elasticsearch", "elasticsearch"),
    ("opensearch", "opensearch"),
    ("folder", "postgres"),
    ("s3", "postgres"),
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "route" in metafunc.fixturenames:
        more = [(one, other) for one in (*SQL, "folder", "redshift") for other in SQL] if tiers.every_step() else []
        pairs = dict.fromkeys([*EVERY_DAY, *more])
        metafunc.parametrize("route", pairs, ids=["-".join(pair) for pair in pairs], indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what a system of the route cannot do."""
    items[:] = [item for item in items if _is_possible(item)]


def _is_possible(item: pytest.Item) -> bool:
    params = getattr(getattr(item, "callspec", None), "params", {})
    if "route" not in params:
        return True
    source, target = (ENDS[system] for system in params["route"])
    needed = [need.split() for mark in item.iter_markers("needs") for need in mark.args]
    able = all(getattr({"source": source, "target": target}[role], ability) for role, ability in needed)
    return able and params.get("pre_action", "none") in target.refreshes


@pytest.fixture
def route(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Route]:
    source, target = request.param
    monkeypatch.setattr("retl.connectors.files.changes.GROUP_FILES", 2)  # a few files are several slices
    with ExitStack() as stack:
        yield Route(
            make_end(source, "shop", request, tmp_path, stack), make_end(target, "app", request, tmp_path, stack)
        )


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan that fails is not tried again."""
    patch_backoff(monkeypatch, 0.0)
    monkeypatch.setattr("retl.engine.run._RETRY_SECONDS", 0.0)


def make_end(system: str, role: str, request: pytest.FixtureRequest, folder: Path, stack: ExitStack) -> End:
    """A system of the test's own; ``stack`` takes it away again."""
    if system == "duckdb":
        return DuckDBEnd(folder / f"{role}.duckdb")
    if system == "sqlite":
        return SQLiteEnd(folder / f"{role}.db")
    if system == "folder":
        return FolderEnd(folder / role)
    if system == "s3":
        return BucketEnd(request.getfixturevalue("fake_s3"))
    server = request.getfixturevalue(f"{system}_server")
    if system in ("mysql", "mariadb"):
        return ServerEnd(server, stack.enter_context(server.fresh_database()))
    if system in ("postgres", "postgres15"):
        return PostgresEnd(server, stack.enter_context(server.fresh_database()))
    if system == "redshift":
        return RedshiftEnd(server, stack.enter_context(server.fresh_schema()))
    return SearchEnd(server, stack.enter_context(server.fresh_names()))
