"""The stand-in as a fixture, for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fake_yuque.server import FakeYuque


@pytest.fixture
def yuque() -> Iterator[FakeYuque]:
    """A service of the test's own."""
    with FakeYuque() as fake:
        yield fake
