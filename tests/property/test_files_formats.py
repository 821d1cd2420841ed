"""Whatever others write, we read back: CSV of any dialect, JSON of any layout, numbers of any length."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from retl.connectors.files.formats import LINE, FileUnreadable, decompressed, format_for, merged
from retl.connectors.files.formats.documents import in_array
from retl.connectors.files.formats.lines import Dialect, row_blocks
from tests.formats import good, read

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TRICKY = st.text(st.sampled_from("ab\",;'\\\n\r#\t 0"), max_size=12)
ROWS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(TEXT | TRICKY, min_size=width, max_size=width), max_size=8)
)


@st.composite
def dialects(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same dialect in the words of the csv module and in ours."""
    delimiter = draw(st.sampled_from(",;\t|"))
    quote = draw(st.sampled_from("\"'"))
    ours: dict[str, Any] = {"delimiter": delimiter, "quote": quote}
    theirs: dict[str, Any] = {
        "delimiter": delimiter,
        "quotechar": quote,
        "lineterminator": draw(st.sampled_from(["\n", "\r\n", "\r"])),
        "quoting": csv.QUOTE_ALL,
    }
    if draw(st.booleans()):
        theirs.update(doublequote=False, escapechar="\\")
        ours.update(double_quote=False, escape="\\")
    elif draw(st.booleans()):
        # Then it quotes what holds a line break of any kind.
        theirs.update(quoting=csv.QUOTE_MINIMAL, lineterminator="\r\n")
    return theirs, ours


@given(dialects(), ROWS, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "gb18030"]))
def test_what_the_csv_module_writes_is_read_back(
    dialect: tuple[dict[str, Any], dict[str, Any]], rows: list[list[str]], encoding: str
) -> None:
    theirs, ours = dialect
    names = [f"c{place}" for place in range(len(rows[0]) if rows else 1)]
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, **theirs)
    writer.writerow(names)
    writer.writerows(rows)
    options = ours | ({"encoding": encoding} if encoding == "gb18030" else {})
    found = read(sink.getvalue().encode(encoding), null=[], types=dict.fromkeys(names, "text"), **options)
    assert [list(row.values()) for row in found] == rows


DIALECTS = [
    Dialect(",", '"', True, "", ""),
    Dialect(",", '"', True, "", "#"),
    Dialect(",", '"', False, "\\", ""),
    Dialect(",", "", True, "", ""),
]


@given(st.sampled_from(DIALECTS), st.text(st.sampled_from('ab",\n\r#\\'), max_size=40), st.integers(1, 9))
@example(DIALECTS[0], 'a,"\r\n"\r', 1)
def test_rows_are_found_alike_wherever_a_block_ends(dialect: Dialect, text: str, size: int) -> None:
    data = text.encode()
    assert _divided(dialect, iter([data[at : at + size] for at in range(0, len(data), size)])) == _divided(
        dialect, iter([data] if data else [])
    )


def _divided(dialect: Dialect, blocks: Iterator[bytes]) -> Any:
    rows: list[tuple[int, bytes]] = []
    broken: list[tuple[int, str]] = []
    try:
        for block in row_blocks(blocks, dialect, "a.csv", 10_000):
            rows.extend((int(block.lines[number]), block.row(number)) for number in range(len(block)))
            broken.extend((row.line, row.text) for row in block.broken)
    except FileUnreadable as error:
        return "unreadable", error.line
    return rows, broken


NUMBERS = st.lists(st.text(st.sampled_from("0123456789.-+e "), max_size=22).filter(str.strip), min_size=1, max_size=5)


@given(
    NUMBERS | st.lists(st.integers().map(str) | st.decimals(allow_nan=False, allow_infinity=False).map(str), min_size=1)
)
@example(["0.1", "1e-7"])
@example(["9007199254740993", "1e0"])
def test_no_number_changes_whatever_type_is_inferred(values: list[str]) -> None:
    rows = read(("a,b\n" + "".join(f"{value},x\n" for value in values)).encode())
    assert len(good(rows)) == len(values)
    for value, row in zip(values, rows, strict=True):
        if not isinstance(row["a"], str):
            found = row["a"] if not isinstance(row["a"], float) else repr(row["a"])
            assert Decimal(found) == Decimal(value) and value[:1] != "+"
        else:
            assert row["a"] == value


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
DOCUMENTS = st.lists(st.dictionaries(st.sampled_from(["a", "b", 'c"', "d.e"]), VALUES, max_size=4), max_size=6)


@given(DOCUMENTS, st.booleans(), st.sampled_from([None, 1]), st.integers(1, 7))
def test_documents_are_found_in_any_layout(
    documents: list[dict[str, Any]], ascii_only: bool, indent: int | None, size: int
) -> None:
    text = json.dumps(documents, ensure_ascii=ascii_only, indent=indent).encode()
    blocks = (text[at : at + size] for at in range(0, len(text), size))
    found = [json.loads(document) for block in in_array(blocks, "a.json", 100_000) for document in block.texts]
    assert found == documents


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b"]), SCALARS, min_size=1), min_size=1, max_size=6))
def test_values_of_json_lines_are_those_that_were_written(documents: list[dict[str, Any]]) -> None:
    rows = read("".join(json.dumps(document) + "\n" for document in documents).encode(), "a.jsonl")
    assert len(good(rows)) == len(documents)
    for document, row in zip(documents, good(rows), strict=True):
        for name, value in row.items():
            written = document.get(name)
            assert _same(written, value), (written, value)


def _same(written: Any, found: Any) -> bool:
    """Whether a value is the one that was written, if not in the same type."""
    if written is None or isinstance(written, bool | str):
        as_text = str(written).lower() if isinstance(written, bool) else written
        return bool(found in (written, as_text) or str(found) == as_text)
    as_number = Decimal(json.dumps(written))
    return Decimal(repr(found) if isinstance(found, float) else found) == as_number


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), TEXT, st.booleans()), min_size=1, max_size=5), st.randoms())
def test_reading_into_the_merged_schema_of_two_files_rejects_nothing(rows: list[tuple[Any, ...]], random: Any) -> None:
    texts = [_csv(rows), _csv([(f"{number}.5", text, truth) for number, text, truth in rows])]
    random.shuffle(texts)
    found = format_for({}, "a.csv")
    schema = merged(found.schema(decompressed(io.BytesIO(text), "a.csv", {}), "a.csv") for text in texts)
    with_lines = schema.append(pa.field(LINE, pa.int64()))
    for text in texts:
        read_back = read(text, schema=with_lines)
        assert len(good(read_back)) == len(rows)


def _csv(rows: list[tuple[Any, ...]]) -> bytes:
    sink = io.StringIO(newline="")
    csv.writer(sink, quoting=csv.QUOTE_ALL).writerows([("a", "b", "c"), *rows])
    return sink.getvalue().encode()
