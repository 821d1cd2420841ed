"""Places of files, which are only sources: a row of a table is a file of CSV below a folder that is called as the table."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from retl.connectors import LocalFiles, S3Files
from tests.fake_s3 import FakeS3, Object
from tests.integration.files.buckets import s3_files
from tests.routes.route import End, Row


class TreeEnd(End):
    """What all of them share. There is no cursor: what has changed is known by the files."""

    cursors = counts = columns = failing_rows = False
    refreshes: ClassVar = ()

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}
        self._rows: dict[str, dict[int, Row]] = {}

    @abstractmethod
    def put(self, path: str, content: bytes) -> None:
        """Write a file, or write over it."""

    @abstractmethod
    def remove(self, path: str) -> None: ...

    def called(self, table: str) -> str:
        return f"{table}/*.csv"

    def listed(self, table: str) -> str:
        return self._path(table, min(self._rows[table]))

    def words(self, words: dict[str, Any]) -> dict[str, Any]:
        """A scan of what has changed is one of the files that have; ``truncate`` empties by file, so what is gone goes too."""
        kept = {name: value for name, value in words.items() if name not in ("cursor", "lookback")}
        action = kept.setdefault("pre_action", "truncate")
        if "cursor" not in words and action == "truncate":
            kept.setdefault("vanished", "delete")
        return kept | ({"key": "id"} if action == "none" else {})

    def create(self, table: str, kinds: dict[str, str], *, key: bool = True) -> None:
        self.delete(table)
        self._names[table] = ["id", *kinds]

    def insert(self, table: str, *rows: Row) -> None:
        for row in rows:
            self._rows.setdefault(table, {})[row[0]] = row
            self._write(table, row)

    def update(self, table: str, key: int, **values: Any) -> None:
        row = dict(zip(self._names[table], self._rows[table][key], strict=True)) | values
        self.insert(table, tuple(row.values()))

    def delete(self, table: str, *keys: int) -> None:
        rows = self._rows.get(table, {})
        for key in keys or tuple(rows):
            del rows[key]
            self.remove(self._path(table, key))

    def rows(self, table: str, *columns: str) -> list[Row]:
        places = [self._names[table].index(name) for name in columns or ("id", "v", "ts")]
        return [tuple(row[place] for place in places) for _, row in sorted(self._rows[table].items())]

    def tables(self) -> list[str]:
        return sorted(self._names)

    def take_over(self) -> None:
        raise NotImplementedError

    def drop(self, table: str) -> None:
        self.delete(table)

    def _write(self, table: str, row: Row) -> None:
        header = ",".join(self._names[table])
        values = ",".join("" if value is None else str(value) for value in row)
        self.put(self._path(table, row[0]), f"{header}\n{values}\n".encode())

    def _path(self, table: str, key: int) -> str:
        return f"{table}/{key:05}.csv"


class FolderEnd(TreeEnd):
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        path.mkdir()

    def connector(self, **options: Any) -> LocalFiles:
        return LocalFiles(path=str(self.path), **options)

    def put(self, path: str, content: bytes) -> None:
        """In one step, as whoever exports should do: nobody sees half a file."""
        file = self.path / path
        file.parent.mkdir(exist_ok=True)
        new = file.with_suffix(".tmp")
        new.write_bytes(content)
        new.rename(file)

    def remove(self, path: str) -> None:
        (self.path / path).unlink()


class BucketEnd(TreeEnd):
    """A bucket of S3."""

    def __init__(self, server: FakeS3) -> None:
        super().__init__()
        self.server = server
        self._objects = server.buckets.setdefault("lake", {})

    def connector(self, **options: Any) -> S3Files:
        return s3_files(self.server, "s3://lake/", **options)

    def put(self, path: str, content: bytes) -> None:
        self._objects[path] = Object(content)

    def remove(self, path: str) -> None:
        del self._objects[path]
