"""Make pipelines of a TOML job file: ``load_jobs``.

The words of a job file are those of the library, one to one. Every mistake is a
``ConfigError`` that names file, line and path; all mistakes of a file are reported at once.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from retl.config.build import BAD, Builder, Problems
from retl.config.lines import Path, find_lines, line_of, show_path
from retl.config.pipelines import connect, make_pipelines
from retl.config.references import References
from retl.config.registry import did_you_mean
from retl.config.words import JobFile, PipelineOptions, PipelineWords, StateWords
from retl.model.errors import ConfigError
from retl.pipeline import Pipeline

__all__ = ["Jobs", "load_jobs"]

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True)
class Jobs:
    """The pipelines of a job file, by name."""

    path: FilePath
    pipelines: Mapping[str, Pipeline]

    def __iter__(self) -> Iterator[Pipeline]:
        return iter(self.pipelines.values())

    def select(self, names: Iterable[str]) -> list[Pipeline]:
        """The pipelines of these names, or all where none is named. Raises ``ConfigError`` for an unknown one."""
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            if name not in self.pipelines:
                known = ", ".join(self.pipelines)
                hint = did_you_mean(name, self.pipelines)
                raise ConfigError(f"{self.path} has no pipeline {name!r}{hint or '.'} It has: {known}.")
        return [self.pipelines[name] for name in wanted] or list(self)

    async def aclose(self) -> None:
        """Close every connection of every pipeline."""
        for pipeline in self:
            await pipeline.aclose()


def load_jobs(path: str | os.PathLike[str]) -> Jobs:
    """Read a job file. Opens no connection; resolves ``${...}`` at once.

    Raises ``ConfigError`` with one line for each mistake in the file.
    """
    file = FilePath(path)
    text = _read(file)
    data = _parse(text, str(file))
    lines = find_lines(text)
    folder = file.resolve().parent
    problems, references = Problems(), References(folder)
    if not data.get("pipelines") or not isinstance(data["pipelines"], dict):
        problems.add(
            ("pipelines",), "the file has no pipeline; begin one with [pipelines.NAME], or see what `retl init` writes"
        )
        data = {**data, "pipelines": {}}
    words = _build_words(Builder(problems, references, folder, connect), data)
    pipelines = make_pipelines(words, data, folder, problems)
    if problems.found:
        raise ConfigError(_report(str(file), lines, problems))
    return Jobs(file, pipelines)


def _build_words(builder: Builder, data: dict[str, Any]) -> JobFile:
    """The file's words. Wrong ones are left out, so that the rest is checked too."""
    builder.names(JobFile, data, ())
    state = builder.value(StateWords, data.get("state", {}), ("state",))
    defaults = builder.value(PipelineOptions, data.get("defaults", {}), ("defaults",))
    pipelines = {
        name: builder.value(PipelineWords, raw, ("pipelines", name)) for name, raw in data["pipelines"].items()
    }
    good = {name: words for name, words in pipelines.items() if words is not BAD}
    return JobFile(
        state=StateWords() if state is BAD else state,
        defaults=PipelineOptions() if defaults is BAD else defaults,
        pipelines=good,
    )


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


def _report(file: str, lines: Mapping[Path, int], problems: Problems) -> str:
    found = sorted((line_of(lines, path), number, path, text) for number, (path, text) in enumerate(problems.found))
    place = ((f"{file}:{line}", show_path(path), text) for line, _, path, text in found)
    return "\n".join(": ".join(part for part in parts if part) for parts in place)
