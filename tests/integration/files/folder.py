"""A folder of files, a target of any kind, and a pipeline between them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

import retl
from retl.connectors import LocalFiles
from retl.connectors.files.source import FileSource
from retl.model.report import ScanReport
from tests.fake_s3 import FakeS3, Object
from tests.integration.files.buckets import s3_files
from tests.routes.route import End, Row


class Folder:
    """Files below a root, and a table ``sales`` that they become. ``words`` are those of its ``retl.Table``."""

    def __init__(self, folder: Path, target: End) -> None:
        self.root = folder / "exports"
        self.root.mkdir()
        self.target = target
        self.words: dict[str, Any] = {"pre_action": "truncate"}
        self.pattern = "*.csv"
        self.store: Any = None
        """A store in place of the folder itself."""
        self._clock = 1_700_000_000

    def write(self, name: str, *lines: str, encoding: str = "utf-8") -> Path:
        """A file of some lines; each is younger than the one before by a second."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
        self._clock += 1
        os.utime(path, (self._clock, self._clock))
        return path

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        (self.root / name).unlink(missing_ok=True)

    def source(self) -> Any:
        """What a pipeline reads from."""
        return LocalFiles(path=str(self.root)) if self.store is None else FileSource(self.store)

    def pipeline(self, **options: Any) -> retl.Pipeline:
        return retl.Pipeline(
            "files",
            source=self.source(),
            target=self.target.connector(),
            tables=[retl.Table(self.pattern, to=self.target.called("sales"), **self.words)],
            **options,
        )

    async def scan(self) -> ScanReport:
        """One scan; raises what it ends in."""
        (report,) = (await self.pipeline().run_once()).scans
        return report

    async def failed(self) -> ScanReport:
        """One scan that must not be done; what it raises is in its report."""
        (report,) = (await self.pipeline().run_once(check=False)).scans
        assert report.status == "failed"
        return report

    def rows(self, *columns: str) -> list[Row]:
        """All rows, sorted by the columns that are named: those of the test's files, then where each came from."""
        return sorted(self.target.rows("sales", *(columns or ("id", "_file", "_row"))))

    def entries(self) -> list[tuple[str, int]]:
        """Names and rows of what the manifest of the target holds."""
        found = self.target.rows("retl_manifest", "name", "body")
        found = [(name.decode() if isinstance(name, bytes) else name, body) for name, body in found]
        return sorted((name, msgspec.json.decode(body).get("rows", 0)) for name, body in found)


class InBucket(Folder):
    """The same with objects of a bucket in place of the files."""

    def __init__(self, folder: Path, target: End, server: FakeS3) -> None:
        super().__init__(folder, target)
        self.server = server
        self.objects = server.buckets.setdefault("lake", {})

    def write(self, name: str, *lines: str, encoding: str = "utf-8") -> Path:
        self.objects[name] = Object("".join(f"{line}\n" for line in lines).encode(encoding))
        return self.root / name

    def remove(self, name: str) -> None:
        self.objects.pop(name, None)

    def source(self) -> Any:
        return s3_files(self.server, "s3://lake/")


def folder_in(place: str, request: pytest.FixtureRequest, folder: Path, target: End) -> Folder:
    """A folder of this machine, or a bucket: ``folder`` or ``s3``."""
    if place == "folder":
        return Folder(folder, target)
    return InBucket(folder, target, request.getfixturevalue("fake_s3"))
