"""The job file and the files that it includes, each read and taken apart."""

from __future__ import annotations

import glob
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from retl.config.build import Problems, anchored
from retl.config.lines import Path, find_lines, line_of, show_path
from retl.config.references import References
from retl.model.errors import ConfigError

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_INCLUDE = "include"


@dataclass(frozen=True)
class OneFile:
    """A job file, or one that it includes. Relative paths in it are taken from its ``folder``."""

    name: str
    """As messages name it."""
    folder: FilePath
    data: Mapping[str, Any]
    lines: Mapping[Path, int]
    above: OneFile | None
    """The file that includes this one."""
    problems: Problems = field(default_factory=Problems)

    @property
    def references(self) -> References:
        return References(self.folder)

    def place(self, path: Path) -> str:
        """Where something stands: ``jobs.toml:12``."""
        return f"{self.name}:{line_of(self.lines, path)}"

    def report(self) -> list[str]:
        """A line for each problem, in the order of the file."""
        found = [
            (line_of(self.lines, path), number, path, text) for number, (path, text) in enumerate(self.problems.found)
        ]
        places = ((f"{self.name}:{line}", show_path(path), text) for line, _, path, text in sorted(found))
        return [": ".join(part for part in parts if part) for parts in places]


@dataclass
class JobFiles:
    """A job file and all that it includes, the job file first. ``patterns``: the folders and globs, and what was in them."""

    files: dict[FilePath, OneFile] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    """All that are named, also those that cannot be read."""
    patterns: dict[str, list[str]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    """What is said of included files that cannot be read at all."""

    def report(self) -> list[str]:
        """Everything that is wrong with any of them."""
        return [line for file in self.files.values() for line in file.report()] + self.broken


def read_files(path: str | os.PathLike[str]) -> JobFiles:
    """Read a job file and what it includes. Raises ``ConfigError`` if the job file itself cannot be read."""
    found = JobFiles()
    _add(found, FilePath(path), None)
    return found


def _add(found: JobFiles, path: FilePath, above: OneFile | None) -> None:
    found.paths.append(str(path))
    text = _read(path)
    place = path.resolve()
    name = _shown(path) if above is not None else str(path)
    file = OneFile(name, place.parent, _parse(text, name), find_lines(text), above)
    found.files[place] = file
    for item, written in _included(file):
        for further in _expanded(found, file, place, item, written):
            _include(found, file, item, FilePath(further))


def _included(file: OneFile) -> list[tuple[Path, str]]:
    """What a file includes, each with where that stands. Other things than texts are reported with the file's words."""
    given = file.data.get(_INCLUDE, [])
    items: list[tuple[Path, Any]] = [((_INCLUDE,), given)]
    if isinstance(given, list):
        items = [((_INCLUDE, number), item) for number, item in enumerate(given)]
    texts = []
    for path, item in items:
        try:
            texts += [(path, file.references.text(item))] if isinstance(item, str) else []
        except ConfigError:
            continue  # reported with the file's words
    return texts


def _expanded(found: JobFiles, file: OneFile, itself: FilePath, item: Path, written: str) -> list[str]:
    """The files that a path, a folder or a glob stands for. These two leave out the file that names them."""
    path = anchored(written, file.folder)
    pattern = pattern_of(path)
    if pattern is None:
        return [path]
    found.patterns[pattern] = matches(pattern)
    others = [name for name in found.patterns[pattern] if FilePath(name).resolve() != itself]
    if not others:
        what = "the folder has no file *.toml" if FilePath(path).is_dir() else "no file matches"
        file.problems.add(item, f"{what}: {written!r}")
    return others


def _shown(path: FilePath) -> str:
    """An included file as people would name it here."""
    here = FilePath.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def pattern_of(path: str) -> str | None:
    """The glob of a folder, or of a path with wildcards; ``None`` for the path of a file."""
    if FilePath(path).is_dir():
        return str(FilePath(glob.escape(path)) / "*.toml")
    return path if glob.has_magic(path) and not FilePath(path).exists() else None


def matches(pattern: str) -> list[str]:
    """The files that match, sorted. Hidden ones, which editors leave behind, never do."""
    return sorted(name for name in glob.glob(pattern, recursive=True) if FilePath(name).is_file())  # noqa: PTH207


def _include(found: JobFiles, file: OneFile, item: Path, path: FilePath) -> None:
    known = found.files.get(path.resolve())
    if known is not None:
        file.problems.add(item, _twice(file, known))
        return
    try:
        _add(found, path, file)
    except ConfigError as error:
        if path.is_file():
            found.broken.append(error.message)
        else:
            file.problems.add(item, f"there is no file {_shown(path)!r}")


def _twice(file: OneFile, known: OneFile) -> str:
    chain = [file]
    while chain[-1].above is not None:
        chain.append(chain[-1].above)
    if known in chain:
        names = " includes ".join(one.name for one in reversed(chain[: chain.index(known) + 1]))
        return f"files include each other in a circle: {names} includes {known.name}"
    assert known.above is not None
    return f"{known.name!r} is included twice: here, and by {known.above.name}"


# One file ---------------------------------------------------------------------


def _read(file: FilePath) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file}:{line}: the file is not UTF-8 text.", remedy="save it as UTF-8.") from None
    except FileNotFoundError:
        raise ConfigError(
            f"there is no job file {str(file)!r}.", remedy="name another one, or write one with `retl init`."
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"the job file {str(file)!r} cannot be read: {reason}.") from None


def _parse(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax_error(str(error), text, file)) from None
    except RecursionError:
        raise ConfigError(f"{file}: lists or tables are nested too deeply.") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise ConfigError(f"{file}: {error}") from None


def _syntax_error(message: str, text: str, file: str) -> str:
    place = _PLACE.search(message)
    line = int(place[1]) if place and place[1] else text.count("\n") + 1
    column = f"column {place[2]}: " if place and place[2] else ""
    reason = _PLACE.sub("", message)
    twice = re.fullmatch(r"Cannot declare \((.*)\) twice", reason)
    if twice is None:
        return f"{file}:{line}: {column}this is not TOML: {reason[:1].lower()}{reason[1:]}"
    keys = tuple(part.strip()[1:-1] for part in twice[1].split(",") if part.strip())
    if len(keys) == 2 and keys[0] == "pipelines":
        return f"{file}:{line}: {show_path(keys)}: two pipelines have this name; rename one of them"
    return f"{file}:{line}: {show_path(keys)}: this table is declared twice; join the two"
