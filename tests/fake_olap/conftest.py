"""One stand-in of each kind for all tests of this package."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fake_olap import FakeDoris, FakeOlap, FakeStarRocks


@pytest.fixture(scope="module")
def starrocks() -> Iterator[FakeStarRocks]:
    with FakeStarRocks() as server:
        yield server


@pytest.fixture(scope="module")
def doris() -> Iterator[FakeDoris]:
    with FakeDoris() as server:
        yield server


@pytest.fixture(params=["starrocks", "doris"])
def olap(request: pytest.FixtureRequest) -> FakeOlap:
    found: FakeOlap = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def database(olap: FakeOlap) -> Iterator[str]:
    with olap.fresh_database() as name:
        yield name
