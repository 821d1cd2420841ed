"""A SQLite file with the engine's side of a scan."""

from __future__ import annotations

from typing import Any

from retl.connectors import SQLite
from tests.integration import scene
from tests.support import Database


class Scene(Database, scene.Scene):
    """A file to write; ``session`` plays one owner of the pipeline."""

    def options(self, **words: Any) -> SQLite:
        return SQLite(str(self.path), **words)
