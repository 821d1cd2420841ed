"""A DuckDB file with the engine's side of a scan, for tests that look at what a target did."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from retl.connectors import DuckDB
from retl.model.checkpoint import Fence, FencedCheckpoint
from retl.model.plan import WriteSpec
from retl.model.table import TableSpec
from retl.testing.target_base import Session
from tests.integration import scene
from tests.integration.scene import PEOPLE
from tests.support import Row, Warehouse


class Scene(Warehouse, scene.Scene):
    """A target file; ``session`` plays one owner of the pipeline."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.pipelines = 0

    def options(self, **words: Any) -> DuckDB:
        return DuckDB(str(self.path), **words)

    def rows(self, table: str, columns: str = "*") -> list[Row]:
        """All rows, sorted."""
        return sorted(self.run(f"SELECT {columns} FROM {table}"), key=repr)

    def tables(self) -> list[str]:
        """The tables but those of the state store."""
        found = self.run("SELECT table_name FROM duckdb_tables() ORDER BY table_name")
        return [name for (name,) in found if not name.startswith("retl_")]


@contextmanager
def another_process(path: Path, *, read_only: bool = False) -> Iterator[None]:
    """Another process that has the file open."""
    code = f"import duckdb, sys; c = duckdb.connect({str(path)!r}, read_only={read_only}); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        try:
            yield
        finally:
            other.kill()


def old_mark(session: Session) -> FencedCheckpoint:
    """A checkpoint whose fence is of an earlier owner."""
    fenced = session.fenced("never")
    assert fenced is not None
    return FencedCheckpoint(
        Fence(fenced.fence.pipeline, "someone else", fenced.fence.epoch - 1), fenced.table, fenced.checkpoint
    )


def loading(session: Session, table: TableSpec, schema: pa.Schema = PEOPLE, **words: Any) -> WriteSpec:
    return session.load(table, schema=schema, **words)
