"""Buckets as fixtures, for all tests: of a real server, and of those that stand in for S3 and OSS."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.fake_s3 import FakeOSS, FakeS3
    from tests.integration.files.buckets import Bucket
    from tests.servers.s3 import S3Server

_numbers = count()


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[Bucket]:
    """A bucket of the test's own; it goes with its server."""
    from tests.integration.files.buckets import Bucket

    bucket = Bucket(s3_server, f"files-{next(_numbers)}")
    bucket.create()
    yield bucket
    bucket.close()


@pytest.fixture
def fake_s3() -> Iterator[FakeS3]:
    """A store in memory that speaks S3."""
    from tests.fake_s3 import FakeS3

    fake = FakeS3()
    with fake.running():
        yield fake


@pytest.fixture
def fake_oss(virtual_hosts: None) -> Iterator[FakeOSS]:
    """A store in memory that refuses what OSS refuses."""
    from tests.fake_s3 import FakeOSS

    fake = FakeOSS()
    with fake.running():
        yield fake


@pytest.fixture
def virtual_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every host below ``.test`` is this machine."""
    known = socket.getaddrinfo

    def resolved(host: Any, *rest: Any, **words: Any) -> Any:
        here = "127.0.0.1" if isinstance(host, str) and host.endswith(".test") else host
        return known(here, *rest, **words)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
