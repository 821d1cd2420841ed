"""Whatever a job file holds: what is right comes through unchanged, and what is wrong ends in a ConfigError."""

from __future__ import annotations

import json
import re
import tempfile
import tomllib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from retl.config import load_jobs
from retl.config.lines import Path as WordPath
from retl.config.lines import find_lines
from retl.connectors.duckdb import DuckDB
from retl.model.actions import PreAction, Write
from retl.model.duration import parse_duration
from retl.model.errors import ConfigError
from retl.model.options import TableOptions
from retl.model.table import Table

# Any text that TOML can hold, and that is no reference to the environment.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda text: "${" not in text)
names = st.text("abcdefghij_", min_size=1, max_size=8)
keys = st.one_of(names, texts)

SKELETON = """
[pipelines.shop]
source = { type = "duckdb", path = "w.duckdb" }
target = { type = "sqlite", path = "app.db" }
"""


def toml_text(text: str) -> str:
    # JSON's escapes are TOML's too; only its surrogate pairs are not, and DEL must be escaped as well.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_text(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return toml_text(value)
    return str(value).lower()


def load(text: str | bytes) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "jobs.toml")
        file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return load_jobs(file)


# What is right comes through ----------------------------------------------------

durations = st.one_of(
    st.integers(0, 10**6),
    st.floats(0, 1e6, allow_nan=False).map(lambda value: round(value, 3)),
    st.tuples(st.integers(0, 999), st.sampled_from(["us", "ms", "s", "m", "h", "d", "w"])).map("{0[0]}{0[1]}".format),
)

incremental = st.fixed_dictionaries(
    {"cursor": names},
    optional={
        "lookback": durations,
        "settle": durations,
        "null_cursor": st.sampled_from(["warn", "include", "fail"]),
    },
)
full = st.fixed_dictionaries(
    {"cursor": st.just(False)}, optional={"pre_action": st.sampled_from(["none", "truncate", "swap"])}
)
common = st.fixed_dictionaries(
    {"name": names.map("t_{}".format)},
    optional={
        "to": names,
        "key": st.one_of(names, st.lists(names, min_size=1, max_size=3, unique=True)),
        "where": texts,
        "max_rejects": st.integers(0, 10**9),
        "slice_rows": st.integers(1, 10**9),
        "new_columns": st.sampled_from(["add", "ignore", "fail"]),
        "max_shrink": st.one_of(st.integers(0, 100).map("{}%".format), st.floats(0, 1)),
        "format": st.dictionaries(
            keys, st.one_of(texts, st.integers(), st.booleans(), st.lists(texts, max_size=2)), max_size=3
        ),
        "write": st.just("upsert"),
    },
)
tables = st.tuples(common, st.one_of(incremental, full)).map(lambda parts: parts[0] | parts[1])


def declared(words: dict[str, Any]) -> Table:
    """The same words, said to the library."""
    kinds: dict[str, Any] = {"pre_action": PreAction, "write": Write}
    return Table(**{word: kinds[word](value) if word in kinds else value for word, value in words.items()})


different = (lambda words: str(words["name"]), lambda words: str(words.get("to", words["name"])))


@given(st.lists(tables, min_size=1, max_size=4, unique_by=different), st.booleans())
def test_a_file_says_what_the_library_says(declarations: list[dict[str, Any]], inline: bool) -> None:
    if inline:
        text = SKELETON + f"tables = {toml(declarations)}\n"
    else:
        text = SKELETON
        for words in declarations:
            text += "[[pipelines.shop.tables]]\n"
            text += "".join(f"{toml_text(word)} = {toml(value)}\n" for word, value in words.items())
    pipeline = load(text).pipelines["shop"]
    assert pipeline._config.tables.declared == [declared(words) for words in declarations]


@given(st.dictionaries(texts.filter(str.strip), st.integers(1, 10**6), min_size=1, max_size=4))
def test_pipelines_of_any_name(intervals: dict[str, int]) -> None:
    text = "".join(
        SKELETON.replace("pipelines.shop", f"pipelines.{toml_text(name)}") + f'interval = {seconds}\ntables = ["t"]\n'
        for name, seconds in intervals.items()
    )
    jobs = load(text)
    assert {name: pipeline.schedule.seconds for name, pipeline in jobs.pipelines.items()} == intervals


# What is wrong is a ConfigError --------------------------------------------------

scalars = st.one_of(
    texts, st.integers(), st.floats(), st.booleans(), st.sampled_from(["${", "${X_NOT_SET}", "$${a}", "${file:x}"])
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=6,
)
options = st.sampled_from(
    [*TableOptions.__struct_fields__, *Table.__struct_fields__, "interval", "cron", "timezone", "blacklist"]
)
options |= st.sampled_from(
    ["source", "target", "tables", "lease_ttl", "channel_bytes", "type", "path", "threads", "store"]
)


def _plain(value: Any) -> Any:
    """A value without the differences between TOML's types and the library's."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Enum) else value


def load_or_refuse(text: str | bytes) -> Any:
    """The pipelines, or ``None`` where each complaint names the file and a line that the file has."""
    try:
        return load(text)
    except ConfigError as error:
        message = error.message
    places = re.findall(r"^.*jobs\.toml(?::(\d+))?: ", message, re.MULTILINE)
    assert places, message
    lines = (text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")).count(b"\n") + 1
    assert all(1 <= int(line) <= lines for line in places if line), message
    return None


def refused(text: str | bytes) -> None:
    assert load_or_refuse(text) is None, "a file without a whole pipeline was taken"


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    refused(text)


@given(st.binary(max_size=100))
def test_any_bytes(content: bytes) -> None:
    refused(content)


@given(st.text("[]{}=.\"'#\n ,ab1\\-", max_size=60))
def test_any_text_that_looks_like_toml(text: str) -> None:
    refused(text)


@given(values)
def test_any_value_for_pipelines(value: Any) -> None:
    refused(f"pipelines = {toml(value)}\n")


@given(
    st.dictionaries(options, values, max_size=4),
    st.dictionaries(options, values, max_size=4),
    st.dictionaries(options, values, max_size=3),
)
def test_any_value_for_any_option(pipeline: dict[str, Any], table: dict[str, Any], defaults: dict[str, Any]) -> None:
    table = {"name": "t"} | table
    words: dict[str, Any] = {
        "source": {"type": "duckdb", "path": "w"},
        "target": {"type": "sqlite", "path": "a"},
        "tables": [table],
    } | pipeline
    jobs = load_or_refuse(f"pipelines = {toml({'shop': words})}\ndefaults = {toml(defaults)}\n")
    if jobs is not None and words["tables"] == [table]:
        (declared,) = jobs.pipelines["shop"]._config.tables.declared
        # References aside, each word that was taken is as it was written.
        plain = {word: value for word, value in table.items() if "${" not in repr(value)}
        assert {word: _plain(getattr(declared, word)) for word in plain} == {w: _plain(v) for w, v in plain.items()}


@given(options, values)
def test_any_value_for_an_option_of_a_connector(option: str, value: Any) -> None:
    source = {"type": "duckdb", "path": "w"} | {option: value}
    jobs = load_or_refuse(SKELETON.replace('{ type = "duckdb", path = "w.duckdb" }', toml(source)) + 'tables = ["t"]\n')
    assert (
        jobs is None
        or (option in DuckDB.__struct_fields__ and list(jobs.pipelines) == ["shop"])
        or source["type"] != "duckdb"
    )


@given(st.one_of(st.floats(), st.integers(), st.text(max_size=6)))
def test_any_interval_and_lease(value: Any) -> None:
    jobs = load_or_refuse(SKELETON + f'tables = ["t"]\ninterval = {toml(value)}\n')
    if jobs is not None:
        assert jobs.pipelines["shop"].schedule.seconds == parse_duration(value).total_seconds() > 0
    jobs = load_or_refuse(SKELETON + f'tables = ["t"]\nlease_ttl = {toml(value)}\n')
    if jobs is not None:
        assert jobs.pipelines["shop"]._config.lease_ttl == parse_duration(value).total_seconds() > 0


# Lines --------------------------------------------------------------------------

documents = st.dictionaries(
    keys,
    st.recursive(
        st.one_of(texts, st.integers(), st.booleans()),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
        max_leaves=12,
    ),
    max_size=5,
)


class _Writer:
    """Writes a document in a mixture of styles, and notes which line each value got."""

    def __init__(self, draw: Any) -> None:
        self._choose = draw
        self.text = ""
        self.lines: dict[WordPath, int] = {}

    def _put(self, text: str) -> None:
        self.text += text

    def _note(self, path: WordPath) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)

    def _blank(self) -> None:
        self._put(self._choose(st.sampled_from(["", "", "\n", "# [x] = '\n", "  "])))

    def table(self, content: dict[str, Any], path: WordPath) -> None:
        """Scalars first; then sub-tables and lists of tables, some with headers of their own."""
        later = []
        for key, value in content.items():
            tables_only = isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
            if (isinstance(value, dict) or tables_only) and self._choose(st.booleans()):
                later.append((key, value))
                continue
            self._blank()
            self._note((*path, key))
            self._put(f"{self._key(key)} = ")
            self._value(value, (*path, key))
            self._put(self._choose(st.sampled_from(["\n", " # ]}\n"])))
        for key, value in later:
            for number, item in enumerate(value) if isinstance(value, list) else [(None, value)]:
                here: WordPath = (*path, key) if number is None else (*path, key, number)
                self._blank()
                header = ".".join(self._key(part) for part in (*path, key) if isinstance(part, str))
                self._note((*path, key))
                self._note(here)
                self._put(f"[{header}]\n" if number is None else f"[[{header}]]\n")
                self.table(item, here)

    def _key(self, key: str) -> str:
        bare = key.isascii() and key.replace("_", "a").isalnum()
        return key if bare and self._choose(st.booleans()) else toml_text(key)

    def _value(self, value: Any, path: WordPath) -> None:
        if isinstance(value, dict):
            self._put("{")
            for number, (key, item) in enumerate(value.items()):
                self._put(", " if number else " ")
                self._note((*path, key))
                self._put(f"{self._key(key)} = ")
                self._value(item, (*path, key))
            self._put("}")
        elif isinstance(value, list):
            self._put("[")
            for number, item in enumerate(value):
                self._blank()
                self._note((*path, number))
                self._value(item, (*path, number))
                self._blank()
                self._put(",")
            self._blank()
            self._put("]")
        elif isinstance(value, str) and self._choose(st.booleans()):
            self._put('"""\n' + toml_text(value)[1:-1] + '\n"""')
        else:
            self._put(toml(value))


@given(documents, st.data())
def test_every_value_is_found_on_its_line(document: dict[str, Any], data: st.DataObject) -> None:
    writer = _Writer(data.draw)
    writer.table(document, ())
    assert tomllib.loads(writer.text).keys() == document.keys()
    assert find_lines(writer.text) == writer.lines
