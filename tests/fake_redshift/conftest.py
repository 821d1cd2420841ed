"""One cluster for all tests of this package."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fake_redshift import Cluster, FakeRedshift
from tests.servers import redshift


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    with redshift.any_server() as server:
        yield server


@pytest.fixture
def fake(cluster: Cluster) -> Iterator[FakeRedshift]:
    """The stand-in, for what only it can do."""
    if not isinstance(cluster, FakeRedshift):
        pytest.skip("only the stand-in does this on demand")
    yield cluster
    cluster.nodes, cluster.cursor_cap, cluster.bucket, cluster.unload_rows = 1, 8_000_000_000, None, None
    cluster.left_out = set()
    cluster.tampered = lambda manifest: manifest
    cluster.forget()


@pytest.fixture
def schema(cluster: Cluster) -> Iterator[str]:
    with cluster.fresh_schema() as name:
        yield name
