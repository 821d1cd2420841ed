"""Make pipelines of a TOML job file: ``load_jobs``.

The words of a job file are those of the library, one to one. Every mistake is a
``ConfigError`` that names file, line and path; all mistakes are reported at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any

from retl.config.build import BAD, Builder
from retl.config.files import JobFiles, OneFile, read_files
from retl.config.pipelines import Made, connect, inherited, make_pipelines
from retl.config.stores import Stores
from retl.config.words import Include, JobFile, PipelineOptions, PipelineWords, StateWords
from retl.model.errors import ConfigError
from retl.model.typed import did_you_mean
from retl.pipeline import Pipeline
from retl.state.memory import MemoryStore

__all__ = ["Jobs", "load_jobs"]


@dataclass(frozen=True)
class Jobs:
    """The pipelines of a job file, by name, in the order of the files in which they stand."""

    path: FilePath
    pipelines: Mapping[str, Pipeline]
    _definitions: Mapping[str, str] = field(default_factory=dict, repr=False)
    _memory: MemoryStore = field(default_factory=MemoryStore, repr=False)

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

    def reload(self) -> Jobs:
        """The job file as it is now. A pipeline that is declared as before is the same object; a changed one is another.

        What it says of files of queries, of variables and of secrets counts as declared. Opens and stops nothing. Raises
        ``ConfigError`` where ``load_jobs`` would; the pipelines of before are as good as they were.
        """
        new = _load(self.path, self._memory)
        same = [name for name, known in new._definitions.items() if self._definitions.get(name) == known]
        return replace(new, pipelines={**new.pipelines, **{name: self.pipelines[name] for name in same}})

    async def aclose(self) -> None:
        """Close every connection of every pipeline."""
        for pipeline in self:
            await pipeline.aclose()


def load_jobs(path: str | os.PathLike[str]) -> Jobs:
    """Read a job file, and the files that it includes. Opens no connection; resolves ``${...}`` at once.

    Raises ``ConfigError`` with one line for each mistake in the files.
    """
    return _load(FilePath(path), MemoryStore())


def _load(path: FilePath, memory: MemoryStore) -> Jobs:
    files = read_files(path)
    made = _Maker(files, memory).make()
    found = files.report()
    if found:
        raise ConfigError("\n".join(found))
    pipelines = {name: one.pipeline for name, one in made.items()}
    return Jobs(path, pipelines, {name: one.definition for name, one in made.items()}, memory)


_NO_PIPELINE = "the file has no pipeline; begin one with [pipelines.NAME], or see what `retl init` writes"
_NAMELESS = (
    "a pipeline is not [[pipelines]] with a name, but [pipelines.NAME]; its tables are [[pipelines.NAME.tables]]"
)


class _Maker:
    """Makes the pipelines of all files; what is wrong becomes a problem of its file."""

    def __init__(self, files: JobFiles, memory: MemoryStore) -> None:
        self._files = list(files.files.values())
        self._memory = memory
        self._places: dict[str, str] = {}
        self._defaults: dict[str, PipelineOptions] = {}

    def make(self) -> dict[str, Made]:
        words = [self._words(file) for file in self._files]
        main = self._files[0]
        stores = Stores(words[0].state.store, main.folder, main.problems, self._memory)
        made: dict[str, Made] = {}
        for file, said in zip(self._files, words, strict=True):
            made.update(self._pipelines(file, said, stores))
        return made

    def _words(self, file: OneFile) -> JobFile:
        """A file's words. Wrong ones are left out, so that the rest is checked too."""
        problems, data = file.problems, dict(file.data)
        if not isinstance(data.get("pipelines", {}), dict) or not (data.get("pipelines") or data.get("include")):
            problems.add(("pipelines",), _NAMELESS if isinstance(data.get("pipelines"), list) else _NO_PIPELINE)
            data["pipelines"] = {}
        if file.above is not None and "state" in data:
            problems.add(
                ("state",), f"[state] belongs into the job file that is run; {file.above.name} includes this one"
            )
        return _build_words(Builder(problems, file.references, file.folder, connect), data)

    def _pipelines(self, file: OneFile, words: JobFile, stores: Stores) -> dict[str, Made]:
        above = self._defaults[file.above.name] if file.above is not None else PipelineOptions()
        self._defaults[file.name] = defaults = inherited(words.defaults, above)
        for name in words.pipelines:
            self._check_place(file, name)
        return make_pipelines(words.pipelines, defaults, file.data, file.problems, stores)

    def _check_place(self, file: OneFile, name: str) -> None:
        place = file.place(("pipelines", name))
        other = self._places.setdefault(name, place)
        if other != place:
            file.problems.add(("pipelines", name), f"a pipeline of this name stands at {other} too; rename one of them")


def _build_words(builder: Builder, data: Mapping[str, Any]) -> JobFile:
    builder.names(JobFile, data, ())
    builder.value(Include, data.get("include", []), ("include",))
    state = builder.value(StateWords, data.get("state", {}), ("state",))
    defaults = builder.value(PipelineOptions, data.get("defaults", {}), ("defaults",))
    pipelines = {
        name: builder.value(PipelineWords, raw, ("pipelines", name)) for name, raw in data.get("pipelines", {}).items()
    }
    good = {name: words for name, words in pipelines.items() if words is not BAD}
    return JobFile(
        state=StateWords() if state is BAD else state,
        defaults=PipelineOptions() if defaults is BAD else defaults,
        pipelines=good,
    )
