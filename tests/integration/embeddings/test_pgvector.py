"""Vectors in a real pgvector: types, indexes, and neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import retl
from tests.fake_embeddings import EmbeddingService
from tests.integration.embeddings.conftest import Articles, make_articles
from tests.routes.ends import PostgresEnd
from tests.routes.fixtures import make_end


@pytest.fixture
def articles(
    request: pytest.FixtureRequest, tmp_path: Path, service: EmbeddingService, at_once: None
) -> Iterator[Articles]:
    with ExitStack() as stack:
        yield make_articles("postgres", request, tmp_path, stack, service)


def run(articles: Articles, *statements: str) -> list[tuple[object, ...]]:
    assert isinstance(articles.target, PostgresEnd)
    return articles.target.run(*statements)


def definition(articles: Articles) -> list[str]:
    """The indexes over vectors."""
    found = run(articles, "SELECT indexdef FROM pg_indexes WHERE tablename = 'articles' ORDER BY 1")
    return [str(text) for (text,) in found if "hnsw" in str(text) or "ivfflat" in str(text)]


@pytest.mark.parametrize("pre_action", ["none", "swap", "mirror"])
async def test_a_question_finds_its_nearest_text_by_the_index(articles: Articles, pre_action: str) -> None:
    articles.words = {"pre_action": pre_action}
    articles.embeddings |= {"index": retl.VectorIndex(options={"m": 8, "ef_construction": 32})}
    articles.write(*((number, f"filler of kind {number}") for number in range(200)), (500, "trains to Prague by night"))
    await articles.scan()
    articles.write((7, "another text"))
    await articles.scan()

    (question,) = await retl.embed(articles.words_of(), ["night trains to Prague"])

    nearest = f"SELECT id, body FROM articles ORDER BY embedding <=> '{question}' LIMIT 1"
    assert run(articles, nearest) == [(500, "trains to Prague by night")]
    (index,) = definition(articles)
    assert index.startswith(
        "CREATE INDEX articles_embedding_idx ON public.articles USING hnsw (embedding vector_cosine_ops)"
    )
    assert "m='8'" in index and "ef_construction='32'" in index
    plan = run(articles, "SET enable_seqscan = off", f"EXPLAIN {nearest}")
    assert any("using" in str(line) and "embedding" in str(line) for (line,) in plan)


async def test_other_distances_have_their_operators(articles: Articles) -> None:
    articles.embeddings |= {"index": retl.VectorIndex(method="ivfflat", distance="inner_product", options={"lists": 5})}
    articles.write(*((number, f"text {number}") for number in range(20)))

    await articles.scan()

    (index,) = definition(articles)
    assert "USING ivfflat (embedding vector_ip_ops) WITH (lists='5')" in index


async def test_vectors_too_long_for_an_index_are_kept_in_sixteen_bits(articles: Articles) -> None:
    articles.embeddings |= {"model": "huge", "dimensions": 2_200, "index": retl.VectorIndex()}
    articles.write((1, "bread"), (2, "butter"))
    await articles.scan()
    articles.service.forget()

    report = await articles.scan()

    kinds = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'articles'::regclass AND attname = 'embedding'"
    assert run(articles, kinds) == [("halfvec(2200)",)]
    assert "halfvec_cosine_ops" in definition(articles)[0]
    assert (report.changed, articles.service.requests) == (0, 0)


async def test_hashes_of_texts_are_found_by_an_index(articles: Articles) -> None:
    articles.write((1, "bread"))
    await articles.scan()

    found = run(articles, "SELECT indexdef FROM pg_indexes WHERE tablename = 'articles'")

    assert any("(embedding_of)" in str(text) for (text,) in found)


async def test_a_database_without_pgvector_is_told_what_to_do(
    request: pytest.FixtureRequest, tmp_path: Path, service: EmbeddingService, at_once: None
) -> None:
    with ExitStack() as stack:
        articles = Articles(tmp_path, make_end("postgres", "app", request, tmp_path, stack), service)
        articles.write((1, "bread"))

        report = await articles.failed()

    assert "the database has no type vector" in str(report.error)
    assert "CREATE EXTENSION vector" in str(report.error)
    assert service.requests == 0
