"""Text to chunks, and their rows: places, headings, and ids that stay."""

from __future__ import annotations

import hashlib
import itertools
import random
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import retl
from retl.connectors.base import REJECT, RowReject, with_rejects
from retl.connectors.documents.columns import ChunkShape, shape_of
from retl.connectors.documents.rows import ChunkRows, SliceDocuments
from retl.connectors.documents.splitter import Chunk, Splitter
from retl.model.documents import Chunks, chunk_rules
from retl.model.errors import ConfigError, RepeatedKey
from retl.model.plan import SourcePlan
from retl.model.table import TableSpec

MARKDOWN = """---
title: not a heading
---

Before all headings.

# Fruit

Apples.

## Citrus

### Lemons

Sour.

```sh
# no heading
```

Nuts
====

Almonds.

1. one
---

# Empty #
"""


def cut(text: str, name: str = "a.md", **words: Any) -> list[Chunk]:
    rules = chunk_rules(Chunks(**words))
    assert rules is not None
    return list(Splitter(rules).chunks(text, name))


def contents(text: str, name: str = "a.md", **words: Any) -> list[str]:
    return [text[chunk.start : chunk.end] for chunk in cut(text, name, **words)]


def made(*rows: tuple[Any, ...], unique: bool = True, **words: Any) -> list[dict[str, Any]]:
    """The chunks of documents, each ``(id, body)``."""
    schema = pa.schema([("id", pa.int64()), ("body", pa.string())])
    batch = pa.RecordBatch.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)
    return [row for piece in pieces(batch, unique=unique, **words) for row in piece.to_pylist()]


def pieces(batch: pa.RecordBatch, *, unique: bool = True, **words: Any) -> list[pa.RecordBatch]:
    rules = chunk_rules(Chunks(**words))
    assert rules is not None
    columns = batch.schema.names[: -1 if batch.schema.names[-1] == REJECT else None]
    plan = SourcePlan(TableSpec("t", "t"), batch.select(columns).schema, ("id",), ())
    shape: ChunkShape = shape_of(plan, rules)
    return list(ChunkRows(shape, Splitter(rules), unique=unique).of(batch, SliceDocuments()))


# Sections -------------------------------------------------------------------


def test_a_chunk_knows_the_headings_that_it_stands_below() -> None:
    found = [(MARKDOWN[chunk.start : chunk.end], chunk.headings) for chunk in cut(MARKDOWN)]
    assert found == [
        ("---\ntitle: not a heading\n---\n\nBefore all headings.", ()),
        ("# Fruit\n\nApples.", ("Fruit",)),
        ("## Citrus\n\n### Lemons\n\nSour.\n\n```sh\n# no heading\n```", ("Fruit", "Citrus", "Lemons")),
        ("Nuts\n====\n\nAlmonds.\n\n1. one\n---", ("Nuts",)),
        ("# Empty #", ("Empty",)),
    ]


def test_plain_text_has_no_headings() -> None:
    assert {chunk.headings for chunk in cut(MARKDOWN, "a.txt")} == {()}
    assert {chunk.headings for chunk in cut(MARKDOWN, by="text")} == {()}


def test_code_is_cut_where_its_syntax_allows() -> None:
    functions = [f"def f{number}():\n    x = {number}\n\n    return x" for number in range(20)]
    found = contents("\n\n\n".join(functions) + "\n", "a/b.py", size=50)
    assert found == functions


def test_code_in_a_language_without_a_grammar_is_cut_as_text() -> None:
    assert contents("fn main() {}\n", "a.rs") == ["fn main() {}"]
    with pytest.raises(ConfigError, match="pip install tree-sitter-cobol"):
        cut("x", by="code", language="cobol")


def test_the_language_of_code_may_be_said() -> None:
    assert contents("x = 1\n", "1", by="code", language="python") == ["x = 1"]


def test_no_chunk_is_longer_than_size() -> None:
    text = "# Heading\n\n" + "word " * 5_000 + "\n\n" + "x" * 5_000 + "\n\n## Next\n\n" + "Sentence here. " * 500
    for size in (40, 100, 1000):
        assert max(len(content) for content in contents(text, size=size)) <= size


def test_an_overlap_repeats_the_end_of_the_chunk_before() -> None:
    text = " ".join(f"Sentence number {number}." for number in range(200))
    found = cut(text, size=100, overlap=30)
    assert sum(later.start < earlier.end for earlier, later in itertools.pairwise(found)) > len(found) // 2


@given(
    st.lists(
        st.sampled_from(
            [
                "# A\n",
                "## B\n",
                "word ",
                "Satz. ",
                "\n",
                "\n\n",
                "```\n",
                "- x\n",
                "中文。",
                "=\n",
                "\u3000",
                "😀",
                "\r\n",
            ]
        )
    )
)
def test_offsets_give_back_the_text_and_nothing_is_left_out(parts: list[str]) -> None:
    text = "".join(parts)
    for size in (5, 30, 1000):
        found = cut(text, size=size)
        kept = "".join(text[chunk.start : chunk.end] for chunk in found)
        assert "".join(kept.split()) == "".join(text.split())
        assert all(earlier.end <= later.start for earlier, later in itertools.pairwise(found))


def test_a_changed_paragraph_changes_its_own_chunks_and_no_others() -> None:
    """Without a single heading: what is cut after the change is cut as before."""
    words = random.Random(1)
    paragraphs = [" ".join(f"w{words.randrange(999)}" for _ in range(words.randrange(20, 120))) for _ in range(900)]
    before = set(contents("\n\n".join(paragraphs)))
    for place in (0, 450, 899):
        changed = [*paragraphs]
        changed[place] += " and a few words that were not there"
        after = set(contents("\n\n".join(changed)))
        assert 0 < len(after - before) <= 8


# Rows -----------------------------------------------------------------------


def test_rows_tell_where_a_chunk_stands_and_what_it_holds() -> None:
    (row,) = made((7, "# Title\n\n  Some text. \n"))
    assert row == {
        "id": row["id"],
        "document": "7",
        "position": 0,
        "heading_path": "Title",
        "starts": 0,
        "ends": 21,
        "content": "# Title\n\n  Some text.",
        "content_hash": hashlib.sha256(b"# Title\n\n  Some text.").hexdigest(),
        "document_id": 7,
    }
    assert len(row["id"]) == 32


def test_a_chunk_keeps_its_id_whatever_comes_or_goes_before_it() -> None:
    sections = [f"# Part {number}\n\nText of part {number}." for number in range(9)]
    ids = {row["content"]: row["id"] for row in made((1, "\n\n".join(sections)))}
    for changed in (["Before.", *sections], sections[3:], sections[::-1], [*sections[:4], "# New\n\nx", *sections[4:]]):
        later = {row["content"]: row["id"] for row in made((1, "\n\n".join(changed)))}
        assert {text: later[text] for text in later if text in ids} == {
            text: ids[text] for text in later if text in ids
        }
        assert len(later) == len(changed)


def test_equal_chunks_have_ids_of_their_own() -> None:
    rows = made((1, "# A\n\nsame\n\n# A\n\nsame\n"), (2, "# A\n\nsame"))
    assert len({row["id"] for row in rows}) == 3
    assert [row["content_hash"] for row in rows] == [rows[0]["content_hash"]] * 3


def test_the_same_text_below_another_heading_is_another_chunk() -> None:
    one, other = made((1, "# A\n\n## X\n\nsame\n\n# B\n\n## X\n\nsame"))
    assert (one["heading_path"], other["heading_path"]) == ("A > X", "B > X")
    assert one["id"] != other["id"]


def test_a_document_without_text_has_no_chunks() -> None:
    assert made((1, None), (2, ""), (3, " \n ")) == []


def test_names_of_columns_may_be_chosen() -> None:
    (row,) = made((1, "x"), preset="cc", names={"position": False, "starts": False, "ends": False, "content": "text"})
    assert list(row) == ["__id", "__document", "__heading_path", "text", "__content_hash", "id"]


def test_a_long_document_comes_in_several_batches() -> None:
    text = "\n\n".join(f"# Part {number}\n\n" + "word " * 150 for number in range(12_000))
    batch = pa.RecordBatch.from_pylist([{"id": 1, "body": text}])
    found = pieces(batch)
    assert len(found) > 1
    assert [row["position"] for piece in found for row in piece.to_pylist()] == list(range(12_000))
    assert max(piece.nbytes for piece in found) < 8 * 1024 * 1024


def test_a_document_that_comes_twice_is_an_error_unless_its_key_is_unique() -> None:
    with pytest.raises(RepeatedKey, match="does not identify one row"):
        made((1, "a"), (1, "b"), unique=False)


def test_a_reject_of_the_source_stays_one() -> None:
    batch = pa.RecordBatch.from_pylist([{"id": 1, "body": "good"}, {"id": 2, "body": "bad"}])
    (piece,) = pieces(with_rejects(batch, {1: RowReject("broken", "{}")}))
    good, bad = piece.to_pylist()
    assert (good["content"], good[REJECT]) == ("good", None)
    assert (bad["document"], bad[REJECT]["reason"]) == ("2", "broken")


# Words ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"by": "sentences"}, "unknown by of chunks"),
        ({"size": 0}, "size of chunks is 0"),
        ({"size": 10, "overlap": 10}, "would hold nothing new"),
        ({"language": "python"}, "only for code"),
        ({"names": {"id": False}}, "which every chunk needs"),
        ({"names": {"vector": "v"}}, "no such column"),
        ({"names": {"id": "content"}}, "the same name"),
        ({"names": {"id": ""}}, "calls 'id' ''"),
        ({"preset": "dd"}, "unknown preset"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chunk_rules(Chunks(**words))


def test_a_mapping_is_no_chunks() -> None:
    with pytest.raises(ConfigError, match=r"give retl\.Chunks"):
        retl.Pipeline("p", source=_sqlite(), target=_sqlite(), tables=[retl.Table("t", chunks={"size": 5})])  # type: ignore[arg-type]


def _sqlite() -> Any:
    from retl.connectors import SQLite

    return SQLite(path="x.db")


@pytest.mark.parametrize(
    ("columns", "rules", "message"),
    [
        (["id", "a", "b"], Chunks(), "not known which column"),
        (["id", "a"], Chunks(column="body"), "'body', which the documents do not have"),
        (["id", "a"], Chunks(column="id"), "'id', which holds no text"),
        (["id", "content", "starts", "document_starts"], Chunks(), "would be called 'document_starts'"),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns: list[str], rules: Chunks, message: str) -> None:
    schema = pa.schema([(name, pa.int64() if name == "id" else pa.string()) for name in columns])
    made_rules = chunk_rules(rules)
    assert made_rules is not None
    with pytest.raises(ConfigError, match=message):
        shape_of(SourcePlan(TableSpec("t", "t"), schema, ("id",), ()), made_rules)


def test_documents_without_a_key_are_refused() -> None:
    rules = chunk_rules(Chunks())
    assert rules is not None
    with pytest.raises(ConfigError, match="the documents have no key"):
        shape_of(SourcePlan(TableSpec("t", "t"), pa.schema([("body", pa.string())]), (), ()), rules)


def test_chunks_are_words_of_a_job_file() -> None:
    words = msgspec.convert({"size": 300, "names": {"content": "text", "starts": False}}, Chunks)
    assert words == Chunks(size=300, names={"content": "text", "starts": False})
