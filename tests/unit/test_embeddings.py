"""Vectors as text, the model that comes with retl, and the words of a declaration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import retl
from retl.config import load_jobs
from retl.connectors.documents.embeddings.hashing import hashed
from retl.connectors.documents.embeddings.writer import stamp
from retl.connectors.rows.vectors import from_hex, to_canonical, to_numbers, to_packed
from retl.model.embeddings import EmbeddingCounts, in_all

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(floats, floats, floats), min_size=1, max_size=5))
def test_a_vector_keeps_every_bit_as_text_and_as_bytes(rows: list[tuple[float, float, float]]) -> None:
    numbers = np.array(rows, dtype=np.float32)
    texts = to_canonical(numbers)

    assert to_numbers(texts, 3).tobytes() == numbers.tobytes()
    packed = to_packed(pa.concat_arrays([texts, pa.nulls(1, pa.string())]), 3)
    assert packed.to_pylist() == [row.tobytes() for row in numbers] + [None]
    digits = pa.array([value and value.hex().upper() for value in packed.to_pylist()])
    assert from_hex(digits).to_pylist() == [*texts.to_pylist(), None]


@pytest.mark.parametrize("text", ["[1,2]", "[1,2,3,4]", "[]", "[1,2,inf]", "[1,2,nan]", "[1,2,x]", "nothing"])
def test_what_is_no_vector_of_three_numbers_is_never_one(text: str) -> None:
    with pytest.raises((ValueError, pa.ArrowInvalid)):
        to_numbers(pa.array([text]), 3)


def test_other_spellings_of_numbers_are_read() -> None:
    assert to_numbers(pa.array(["[ 1.0,-2e-05 , 3E2]\n"]), 3).tolist() == [[1.0, np.float32(-2e-05), 300.0]]


def test_hashing_puts_texts_with_the_same_words_near_to_each_other() -> None:
    texts = ["How do I bake bread?", "Baking bread at home", "The night train to Prague", "夜行列车去布拉格", "!?"]
    vectors = hashed(texts, 256)

    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    assert hashed(texts, 256).tobytes() == vectors.tobytes()


def test_hashing_gives_the_same_vector_everywhere() -> None:
    """It stands in tables: what it makes of a text must not change with a release."""
    (vector,) = hashed(["night train"], 8)

    assert to_canonical(vector.reshape(1, -1)).to_pylist() == [EXPECTED]


EXPECTED = "[0,0.6974858,0,0.6974858,0.11624764,0,0.11624764,0]"


def words(**more: Any) -> retl.Embeddings:
    return retl.Embeddings(**{"of": "body", "url": "local:hashing", "dimensions": 8, **more})


def test_a_stamp_tells_the_model_the_dimensions_and_the_text() -> None:
    assert stamp(words(model="m"), "bread") == "m 8 985604c2b60243122c24d4e18363e643"
    assert stamp(words(model="m"), None) == stamp(words(model="m"), " \n") == "m 8 "


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"dimensions": 0}, "embeddings.dimensions is 0"),
        ({"dimensions": True}, "embeddings.dimensions is True"),
        ({"batch": 5_000}, "embeddings.batch is 5000"),
        ({"of": " "}, "embeddings.of is empty"),
        ({"into": "body"}, "would replace the text 'body' by its vector"),
        ({"url": "ftp://host/v1"}, "is not an address"),
        ({"timeout": "soon"}, "embeddings.timeout"),
        ({"budget": retl.Budget(cost=1.0)}, "no price to count it by"),
        ({"model": "m" * 200}, "more than 150 bytes"),
    ],
)
def test_words_that_cannot_work_are_refused_at_once(wrong: dict[str, Any], problem: str) -> None:
    with pytest.raises(retl.ConfigError, match=problem):
        words(**wrong)


async def test_an_unknown_local_model_is_refused() -> None:
    with pytest.raises(retl.ConfigError, match="no local model 'magic'"):
        await retl.embed(words(url="local:magic"), ["text"])


async def test_a_question_that_is_no_list_or_blank_is_refused() -> None:
    with pytest.raises(retl.ConfigError, match="was given one text"):
        await retl.embed(words(), "text")
    with pytest.raises(retl.ConfigError, match="text 1 is blank"):
        await retl.embed(words(), ["text", " "])


def test_neither_key_nor_password_is_shown() -> None:
    shown = repr(words(api_key="sk-very-secret", url="https://user:hidden@host/v1"))

    assert "sk-very-secret" not in shown and "hidden@" not in shown


def test_a_job_file_has_the_same_words(tmp_path: Path) -> None:
    file = tmp_path / "jobs.toml"
    file.write_text(
        """
        [pipelines.p]
        source = { type = "sqlite", path = "a.db" }
        target = { type = "sqlite", path = "b.db" }

        [[pipelines.p.tables]]
        name = "t"

        [pipelines.p.tables.embeddings]
        of = "body"
        url = "http://localhost:11434/v1"
        model = "m"
        dimensions = 8
        price = 1
        budget = { cost = 2.5, tokens = 1000 }
        index = { method = "ivfflat", distance = "l2", options = { lists = 10 } }
        """
    )

    (table,) = load_jobs(file).pipelines["p"]._tables.declared

    assert table.embeddings == words(
        url="http://localhost:11434/v1",
        model="m",
        price=1.0,
        budget=retl.Budget(cost=2.5, tokens=1000),
        index=retl.VectorIndex(method="ivfflat", distance="l2", options={"lists": 10}),
    )


def test_counts_of_several_loads_are_added() -> None:
    one = EmbeddingCounts(texts=3, reused=1, asked=2, tokens=5, requests=1, cost=0.5)

    assert in_all([]) is None
    assert in_all([one, EmbeddingCounts(texts=1, reused=1)]) == EmbeddingCounts(
        texts=4, reused=2, asked=2, tokens=5, requests=1, cost=0.5
    )
    assert str(one) == "3 texts, 1 reused, 2 asked for in 1 requests, 5 tokens, cost 0.5"
