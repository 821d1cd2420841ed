"""A StarRocks and a Doris for the tests of their sources."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.olap.scenes import KINDS, Scene, opened
from tests.servers import olap
from tests.servers.database import Server


@pytest.fixture(scope="package", params=KINDS)
def system(request: pytest.FixtureRequest) -> Iterator[tuple[str, Server]]:
    with olap.any_server(request.param) as server:
        yield request.param, server


@pytest.fixture
def scene(system: tuple[str, Server]) -> Iterator[Scene]:
    """The test runs twice: against StarRocks and against Doris."""
    with opened(*system) as scene:
        yield scene
