"""Vectors as text, the model that comes with retl, and the words of a declaration."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
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


async def test_wordllama_puts_texts_of_the_same_meaning_near_to_each_other() -> None:
    texts = ["Is my fare reimbursed if we arrive late?", "The railway gives back the price of a ticket.", "Bake bread."]
    (question, money, bread), short = await vectors_of(texts, 256), await vectors_of(texts, 64)

    assert not {"fare", "reimbursed", "arrive", "late"} & set(texts[1].lower().split())
    assert question @ money > question @ bread + 0.1
    assert short[0] @ short[1] > short[0] @ short[2] + 0.1
    assert np.allclose(np.linalg.norm(short, axis=1), 1.0)


async def test_wordllama_gives_the_same_vector_everywhere_and_any_text_has_one() -> None:
    (vector, *others) = await vectors_of(["night train", "夜行列车", "!", "x" * 100_000], 64)

    assert np.allclose(vector[:4], [-0.059530128, 0.08582008, 0.017343674, 0.14040196])
    assert np.isfinite(others).all()


async def vectors_of(texts: list[str], dimensions: int) -> Any:
    found = await retl.embed(words(url="local:wordllama", dimensions=dimensions), texts)
    return to_numbers(pa.array(found), dimensions)


_OFFLINE = """
import asyncio, logging, socket, sys
sys.addaudithook(lambda event, args: event.startswith("socket.connect") and sys.exit(f"it asks the network: {args}"))
import retl
words = retl.Embeddings(of="body", url="local:wordllama", dimensions=64)
(vector,) = asyncio.run(retl.embed(words, ["text"]))
assert vector.count(",") == 63
assert logging.getLogger().handlers == [] and "wordllama" not in sys.modules
"""


@pytest.mark.processes
def test_wordllama_asks_no_network_and_leaves_the_logging_of_the_host_alone(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", _OFFLINE], check=True, env=environment)
    assert list(tmp_path.iterdir()) == []


async def test_wordllama_refuses_dimensions_that_it_does_not_have() -> None:
    with pytest.raises(retl.ConfigError, match=r"no vectors of 512 dimensions.*\n?.*64, 128 or 256"):
        await vectors_of(["text"], 512)


@pytest.mark.parametrize("package", ["wordllama", "tokenizers", "safetensors"])
async def test_wordllama_that_is_not_installed_names_its_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(retl.ConfigError, match=rf"package '{package}' is not installed") as raised:
        await vectors_of(["text"], 64)
    assert raised.value.remedy == "pip install 'retl[wordllama]'"


async def test_a_service_without_its_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "retl.connectors.documents.embeddings.service", raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(retl.ConfigError, match="needs the Python package 'aiohttp'") as raised:
        await retl.embed(served(), ["text"])
    assert raised.value.remedy == "pip install 'retl[embeddings]'"


def words(**more: Any) -> retl.Embeddings:
    return retl.Embeddings(**{"of": "body", "url": "local:hashing", "dimensions": 8, **more})


def served(**more: Any) -> retl.Embeddings:
    return words(**{"url": "http://localhost:11434/v1", "model": "m", **more})


def test_a_stamp_tells_the_model_the_dimensions_and_the_text() -> None:
    assert stamp(served(), "bread") == "m 8 985604c2b60243122c24d4e18363e643"
    assert stamp(served(), None) == stamp(served(), " \n") == "m 8 "
    assert stamp(words(), None) == "hashing 8 "
    assert stamp(words(url="local:wordllama"), None) == "wordllama 8 "


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"dimensions": 0}, "embeddings.dimensions is 0"),
        ({"dimensions": True}, "embeddings.dimensions is True"),
        ({"batch": 5_000}, "embeddings.batch is 5000"),
        ({"of": " "}, "embeddings.of is empty"),
        ({"into": "body"}, "would replace the text 'body' by its vector"),
        ({"into": " "}, "embeddings.into is empty"),
        ({"preset": "vendor"}, "unknown preset of embeddings 'vendor'"),
        ({"url": "ftp://host/v1"}, "is not an address"),
        ({"timeout": "soon"}, "embeddings.timeout"),
        ({"budget": retl.Budget(cost=1.0)}, "no price to count it by"),
        ({"url": "http://host/v1", "model": "m" * 200}, "more than 150 bytes"),
        ({"url": "http://host/v1"}, "embeddings.model is empty"),
        ({"model": "wordllama"}, "names the model 'wordllama', and local:hashing is another one"),
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
    shown = repr(served(api_key="sk-very-secret", url="https://user:hidden@host/v1"))

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

    assert table.embeddings == served(
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
