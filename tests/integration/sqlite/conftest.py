"""A SQLite file for the tests of its target."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.sqlite.scenes import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "target.db")
