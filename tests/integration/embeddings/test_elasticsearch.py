"""Chunks and their vectors in an index: each document replaces its own, and a question finds the nearest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from retl.model.errors import UnsupportedError
from tests.fake_embeddings import EmbeddingService
from tests.fake_embeddings.server import vector
from tests.integration.embeddings.test_documents import Library
from tests.routes.ends import SearchEnd
from tests.routes.fixtures import make_end


class Indexed(Library):
    """A folder of Markdown, and an index of its chunks."""

    target: SearchEnd

    @property
    def index(self) -> str:
        return self.target.called("chunks")

    def documents(self) -> dict[str, dict[str, Any]]:
        """What the index holds, by the key of a chunk."""
        return self.target.server.documents(self.index)

    def found(self) -> list[tuple[str, str, str]]:
        chunks = self.documents().values()
        return sorted((chunk["document"], chunk["heading_path"], chunk["content"]) for chunk in chunks)


@pytest.fixture
def indexed(
    request: pytest.FixtureRequest, tmp_path: Path, service: EmbeddingService, at_once: None
) -> Iterator[Indexed]:
    with ExitStack() as stack:
        made = Indexed(tmp_path, make_end("elasticsearch", "app", request, tmp_path, stack), service)
        made.words |= {"vanished": "delete"}
        yield made


async def test_a_document_replaces_its_chunks_and_their_vectors_and_no_others(indexed: Indexed) -> None:
    indexed.write("fruit.md", "# Apples", "Sweet and red.", "# Lemons", "Sour and yellow.")
    indexed.write("trains.md", "# Trains", "To Prague at ten.")
    indexed.write("gone.md", "# Gone", "Soon.")
    report = await indexed.scan()
    assert (report.status, report.rows) == ("done", 4)
    mapped = indexed.target.server.ask("GET", f"/{indexed.index}/_mapping")[indexed.index]["mappings"]["properties"]
    assert {name: mapped["embedding"][name] for name in ("type", "dims", "similarity")} == {
        "type": "dense_vector",
        "dims": 8,
        "similarity": "cosine",
    }
    assert {mapped[name]["type"] for name in ("embedding_of", "_file")} == {"keyword"}
    before = indexed.documents()
    assert {key for key, chunk in before.items() if chunk["id"] != key} == set()
    indexed.service.forget()
    indexed.write("fruit.md", "# Lemons", "Sour and yellow.", "# Pears", "Green.")
    (indexed.root / "gone.md").unlink()

    report = await indexed.scan()

    assert set(indexed.service.asked) == {"# Pears\n\nGreen."}
    assert indexed.found() == [
        ("fruit.md", "Lemons", "# Lemons\n\nSour and yellow."),
        ("fruit.md", "Pears", "# Pears\n\nGreen."),
        ("trains.md", "Trains", "# Trains\n\nTo Prague at ten."),
    ]
    after = indexed.documents()
    (train,) = (key for key, chunk in before.items() if chunk["document"] == "trains.md")
    (lemons,) = (key for key, chunk in before.items() if chunk["heading_path"] == "Lemons")
    assert after[train] == before[train]  # not even the mark of the scan
    assert after[lemons]["embedding"] == before[lemons]["embedding"]
    indexed.check_vectors()
    assert (await indexed.scan()).rows == 0


async def test_a_question_finds_the_nearest_chunk(indexed: Indexed) -> None:
    indexed.write("fruit.md", "# Lemons", "Sour and yellow lemons.", "# Apples", "Sweet and red apples.")
    indexed.write("trains.md", "# Trains", "The night train to Prague leaves at ten.")
    await indexed.scan()
    asked = [float(one) for one in vector("night train to Prague", 8)]
    body = {"knn": {"field": "embedding", "query_vector": asked, "k": 1, "num_candidates": 10}, "_source": ["document"]}

    hits = indexed.target.server.ask("POST", f"/{indexed.index}/_search", body)["hits"]["hits"]

    assert [hit["_source"]["document"] for hit in hits] == ["trains.md"]


async def test_a_scan_that_failed_halfway_is_made_right_by_the_next_one(indexed: Indexed) -> None:
    """There is no transaction: some chunks may be new already. Nothing that was paid for is asked for again."""
    for number in range(4):
        indexed.write(f"{number}.md", *(f"# {place}\n\nOld text {number} {place}." for place in range(20)))
    await indexed.scan()
    # No search finds what is written from now on, unless somebody asks the index to show it.
    indexed.target.server.ask("PUT", f"/{indexed.index}/_settings", {"index": {"refresh_interval": "1h"}})
    for number in range(4):
        indexed.write(f"{number}.md", *(f"# {place}\n\nNew text {number} {place}." for place in range(20)))
    indexed.words["slice_rows"] = 50  # two documents
    indexed.service.forget()
    indexed.service.refuses = lambda text: "New text 3" in text
    (report,) = (await indexed.pipeline().run_once(check=False)).scans
    assert report.error is not None and "3.md: the model refused the text of 20 rows" in report.error
    indexed.service.refuses = lambda text: False

    await indexed.scan()

    assert {content for _, _, content in indexed.found()} == {
        f"# {place}\n\nNew text {number} {place}." for number in range(4) for place in range(20)
    }
    assert indexed.service.twice == []
    indexed.check_vectors()


async def test_opensearch_is_refused_with_the_ways_out(
    opensearch_server: object, request: pytest.FixtureRequest, tmp_path: Path, service: EmbeddingService, at_once: None
) -> None:
    with ExitStack() as stack:
        made = Indexed(tmp_path, make_end("opensearch", "app", request, tmp_path, stack), service)
        made.write("a.md", "text")
        with pytest.raises(UnsupportedError, match="has no dense_vector") as raised:
            await made.scan()
        assert raised.value.remedy is not None and "text_embedding" in raised.value.remedy
        assert service.requests == 0 and made.target.tables() == []
