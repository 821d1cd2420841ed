"""Whether any file of a job has changed, without reading it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retl.config.build import anchored
from retl.config.files import OneFile, matches, read_files
from retl.model.errors import ConfigError

Stamp = tuple[int, int, int] | None
"""Of a file that is there: when it changed, its size, and which file it is."""


@dataclass(frozen=True)
class Look:
    """A look at a job file, the files that it includes, the folders and globs of these, and the files of queries."""

    files: Mapping[str, Stamp]
    patterns: Mapping[str, list[str]]

    def renewed(self) -> Look:
        """The same look, now."""
        return _look(self.files, self.patterns)

    def at(self, path: str | os.PathLike[str]) -> Look:
        """A new look, at what the job file names by now. Where it cannot be read, at what it named before."""
        try:
            return look(path)
        except ConfigError:
            return self.renewed()


def look(path: str | os.PathLike[str]) -> Look:
    """A look at all files of a job. Raises ``ConfigError`` if the job file itself cannot be read."""
    found = read_files(path)
    queries = (name for file in found.files.values() for name in _queries(file))
    return _look([*found.paths, *queries], found.patterns)


def _look(files: Iterable[str], patterns: Iterable[str]) -> Look:
    return Look({name: _stamp(name) for name in files}, {pattern: matches(pattern) for pattern in patterns})


def _stamp(name: str) -> Stamp:
    try:
        facts = Path(name).stat()
    except (OSError, ValueError):
        return None
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


def _queries(file: OneFile) -> Iterator[str]:
    """The files of queries that a job file names, whatever else may be wrong with it."""
    for pipeline in _tables(file.data.get("pipelines")):
        for table in pipeline.get("tables", ()) if isinstance(pipeline.get("tables"), list) else ():
            name = table.get("query_file") if isinstance(table, dict) else None
            if isinstance(name, str):
                yield anchored(_resolved(file, name), file.folder)


def _tables(value: Any) -> list[dict[str, Any]]:
    return [each for each in value.values() if isinstance(each, dict)] if isinstance(value, dict) else []


def _resolved(file: OneFile, name: str) -> str:
    try:
        return file.references.text(name)
    except ConfigError:
        return name
