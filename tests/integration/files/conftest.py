"""What tests of file stores share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.process import short_folder


@pytest.fixture
def root() -> Iterator[Path]:
    """An empty folder that everybody may read."""
    with short_folder("files") as folder:
        folder.chmod(0o755)
        yield folder
