"""One cluster for all tests of this package."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fake_redshift import Cluster, FakeRedshift


@pytest.fixture
def cluster(redshift_server: Cluster) -> Cluster:
    return redshift_server


@pytest.fixture
def fake(cluster: Cluster) -> Iterator[FakeRedshift]:
    """The stand-in, for what only it can do."""
    if not isinstance(cluster, FakeRedshift):
        pytest.skip("only the stand-in does this on demand")
    yield cluster
    cluster.reset()


@pytest.fixture
def schema(cluster: Cluster) -> Iterator[str]:
    with cluster.fresh_schema() as name:
        yield name
