"""Small files that are read as one have the rows that each has when it is read alone."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, ClassVar

import anyio
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retl.connectors.base import SystemInfo
from retl.connectors.files.formats import parse_options
from retl.connectors.files.reading import FileReader
from retl.connectors.files.selection import Selection
from retl.connectors.files.shape import shape_of
from retl.connectors.files.small import Outcome, SmallFiles
from retl.connectors.files.store import FileInfo, FileStore, LeftOut
from retl.testing import table_spec
from tests import tiers

COLUMNS = pa.schema([pa.field("id", pa.int64()), pa.field("text", pa.string())])
EVERYTHING = {"file": "_file", "row": "_row", "line": "_line", "url": "_url", "hash": "_hash"}


class Memory(FileStore):
    """Files in memory."""

    system: ClassVar[str] = "memory"

    def __init__(self, contents: Sequence[bytes]) -> None:
        self.contents = {f"{number}-x.csv": content for number, content in enumerate(contents)}
        self.files = [FileInfo(name, len(content), None, "1") for name, content in self.contents.items()]

    @property
    def root(self) -> str:
        return "memory://"

    async def ping(self) -> SystemInfo:
        return SystemInfo("memory", "")

    async def list(self, prefix: str = "", left_out: LeftOut | None = None) -> AsyncGenerator[list[FileInfo], None]:
        yield self.files

    async def stat(self, name: str) -> FileInfo | None:
        raise NotImplementedError

    async def read(self, file: FileInfo) -> AsyncGenerator[bytes, None]:
        yield self.contents[file.name]

    def whole_reader(self) -> Callable[[FileInfo], bytes]:
        return lambda file: self.contents[file.name]

    async def aclose(self) -> None:
        return None


def outcomes(contents: Sequence[bytes], *, at_once: bool, **options: Any) -> list[Outcome]:
    store = Memory(contents)
    table = table_spec("{group}-x.csv", provenance=EVERYTHING, format=options)
    selection = Selection(table)
    reader = FileReader(store, parse_options(table.format), selection)
    small = SmallFiles(store, reader, shape_of(table, selection, COLUMNS, pa.schema([])), check=True)

    async def read() -> list[Outcome]:
        if at_once:
            return await small.chunk(store.files, {})
        return [outcome for file in store.files for outcome in await small.chunk([file], {})]

    return anyio.run(read)


def rows(found: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Sorted by where they come from, but for what was left out."""
    every = [row for outcome in found for batch in outcome.batches for row in batch.to_pylist()]
    return sorted(every, key=lambda row: (row["_file"], row["_row"]))


def counted(found: Sequence[Outcome]) -> dict[str, Any]:
    """How many rows each file has, or why it has none."""
    counts: dict[str, Any] = {}
    for outcome in found:
        for number, file in enumerate(outcome.files):
            counts[file.name] = re.sub(r"0x\w+", "", str(outcome.error)) if outcome.error else outcome.rows[number]
    return counts


VALUES = st.one_of(
    st.integers(-99, 99).map(str),
    st.sampled_from(["", '""', '"a,b"', '"a\nb"', '"a""b"', '5" pipe', '"x"y', "é", "NULL", "\\.", '"', "a b", "\0"]),
)
ROWS = st.lists(VALUES, min_size=1, max_size=3).map(",".join)
CONTENTS = st.tuples(
    st.sampled_from(["id,text", "id,text", "id,text", "text,id", "id", '"id",text', "id,text,new", ""]),
    st.lists(st.one_of(st.tuples(st.integers(0, 9).map(str), VALUES).map(",".join), ROWS, st.just("")), max_size=5),
    st.sampled_from(["\n", "\n", "\r\n", "\r"]),
    st.booleans(),
).map(lambda parts: (parts[2].join([parts[0], *parts[1]]) + (parts[2] if parts[3] else "")).encode())


@given(st.lists(CONTENTS, min_size=2, max_size=5))
def test_files_that_are_read_as_one_are_what_they_are_alone(contents: list[bytes]) -> None:
    together, alone = outcomes(contents, at_once=True), outcomes(contents, at_once=False)
    assert counted(together) == counted(alone)
    assert rows(together) == rows(alone)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_alike_files_are_read_as_one(end: str) -> None:
    line = end or "\n"
    contents = [
        line.join(["id,text", *(f'{number},"{number}, {line}x"' for number in range(size))]).encode() + end.encode()
        for size in (3, 0, 1, tiers.number(500))
    ]
    (found,) = outcomes(contents, at_once=True)
    assert list(found.rows) == [3, 0, 1, tiers.number(500)]
    assert rows([found]) == rows(outcomes(contents, at_once=False))


@pytest.mark.parametrize(
    "odd",
    [b"id,text\n1,x,3\n", b"id,text\nx,1\n", b'id,text\n1,"x\n', b"text,id\nx,1\n", b"", b"id,text,more\n1,2,3\n"],
)
def test_a_file_that_is_not_like_the_others_is_the_only_one_that_suffers(odd: bytes) -> None:
    contents = [b"id,text\n1,a\n", odd, b"id,text\n2,b\n"]
    together, alone = outcomes(contents, at_once=True), outcomes(contents, at_once=False)
    assert counted(together) == counted(alone)
    assert rows(together) == rows(alone)


@pytest.mark.parametrize(
    "options",
    [
        {"header": False, "columns": ["id", "text"]},
        {"skip_lines": 1},
        {"comment": "#"},
        {"escape": "\\"},
        {"quote": ""},
    ],
)
def test_any_dialect_gives_the_same_rows(options: dict[str, Any]) -> None:
    contents = [b"id,text\n1,a\n#,x\n2,\\,b\n", b'id,text\n3,"c\n4,d"\n', b"id,text\n5,e"]
    together, alone = outcomes(contents, at_once=True, **options), outcomes(contents, at_once=False, **options)
    assert counted(together) == counted(alone)
    assert rows(together) == rows(alone)
