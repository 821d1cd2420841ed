"""A SQLite file with the engine's side of a scan."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from retl.connectors import SQLite
from retl.testing.target_base import Session
from tests.support import Database


class Scene(Database):
    """A file to write; ``session`` plays one owner of the pipeline."""

    @asynccontextmanager
    async def session(self, **options: Any) -> AsyncIterator[Session]:
        async with Session.of(SQLite(str(self.path), **options).target()) as session:
            yield session


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "target.db")
