"""A Redshift, and an S3 server for its UNLOAD, for the tests of this package."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fake_redshift import Bucket, Cluster, FakeRedshift
from tests.integration.redshift.scene import Scene
from tests.servers import s3


@pytest.fixture
def cluster(redshift_server: Cluster) -> Cluster:
    return redshift_server


@pytest.fixture(scope="package")
def lake() -> Iterator[Bucket]:
    with s3.started() as server:
        bucket = Bucket("lake", server.endpoint, s3.ACCESS_KEY, s3.SECRET_KEY)
        bucket.create()
        yield bucket


@pytest.fixture
def scene(cluster: Cluster) -> Iterator[Scene]:
    with cluster.fresh_schema() as schema:
        yield Scene(cluster, schema)
    if isinstance(cluster, FakeRedshift):
        cluster.reset()


@pytest.fixture
def lake_scene(scene: Scene, lake: Bucket) -> Scene:
    """The same with a bucket, which the stand-in may write into."""
    scene.fake.bucket = scene.bucket = lake
    return scene
