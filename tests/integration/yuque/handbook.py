"""A table of documents on its way from the stand-in into a SQLite file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

import retl
from retl.connectors import Yuque
from retl.model.report import ScanReport
from tests.fake_yuque import FakeYuque
from tests.support import Database

FULL = r"/repos/\d+/docs"
"""The lists of documents, by their path."""


class Handbook:
    """A pipeline of one table, and a look at its target."""

    def __init__(self, yuque: FakeYuque, target: Database, job: retl.Pipeline) -> None:
        self.yuque = yuque
        self.target = target
        self.job = job

    async def scan(self) -> ScanReport:
        """One scan that ends well; what was asked before is forgotten."""
        report = await self.attempt()
        assert report.error is None, report.error
        return report

    async def attempt(self) -> ScanReport:
        """One scan, however it ends."""
        self.yuque.forget()
        (report,) = (await self.job.run_once(check=False)).scans
        return report

    def rows(self, columns: str = "title, body") -> list[tuple[Any, ...]]:
        return self.target.rows("documents", columns)

    def titles(self) -> list[str]:
        return [title for (title,) in self.rows("title")]

    def entries(self) -> dict[str, Any]:
        """The manifest: what it says of each document."""
        found = self.target.run("SELECT name, body FROM retl_manifest")
        return {name: msgspec.json.decode(body) for name, body in found}

    def lists(self) -> list[dict[str, str]]:
        """The questions for lists of documents that the last scan asked."""
        return [dict(one.query) for one in self.yuque.asked if one.path.endswith("/docs")]


@asynccontextmanager
async def handbook(
    yuque: FakeYuque, folder: Path, *, name: str = "team/handbook", options: dict[str, Any] | None = None, **words: Any
) -> AsyncIterator[Handbook]:
    """A job that replaces documents one by one, and deletes those that are gone."""
    target = Database(folder / "app.db")
    table = retl.Table(name, to="documents", **{"pre_action": "truncate", "vanished": "delete", **words})
    source = Yuque(yuque.url, token=yuque.token, **(options or {}))
    job = retl.Pipeline("handbook", source=source, target=target.target(), tables=[table], interval="manual")
    try:
        yield Handbook(yuque, target, job)
    finally:
        await job.aclose()
