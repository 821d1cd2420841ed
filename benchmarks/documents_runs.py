"""One contender each: the first load, a change of 1 % of the documents, and the second scan, in one process."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

import retl
from benchmarks.documents_service import DIMENSIONS
from retl.connectors import DuckDB, LocalFiles, PostgreSQL

CHUNK = 1_000
"""Characters of a chunk, for all."""
BATCH = 64
"""Texts of one request, for all."""
_CHANGES = 3


def by_retl(root: str, service: str, system: str, address: str) -> dict[str, Any]:
    target = PostgreSQL(address) if system == "postgres" else DuckDB(str(Path(root).parent / "target.duckdb"))
    table = retl.Table(
        "*.md",
        to="chunks",
        format="documents",
        pre_action=retl.PreAction.TRUNCATE,
        chunks=retl.Chunks(size=CHUNK),
        embeddings=retl.Embeddings(of="content", url=service, model="any", dimensions=DIMENSIONS, batch=BATCH),
    )

    def scan() -> None:
        pipeline = retl.Pipeline("documents", source=LocalFiles(path=root), target=target, tables=[table])
        anyio.run(pipeline.run_once)

    return measured(root, service, scan)


def by_langchain(root: str, service: str) -> dict[str, Any]:
    from langchain_classic.indexes import SQLRecordManager
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.indexing import index
    from langchain_core.vectorstores import InMemoryVectorStore
    from langchain_text_splitters import MarkdownTextSplitter

    client = client_of(service)

    class Asking(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return embedded(client, texts)

        def embed_query(self, text: str) -> list[float]:
            return embedded(client, [text])[0]

    store = InMemoryVectorStore(Asking())
    records = SQLRecordManager("documents", db_url=f"sqlite:///{Path(root).parent / 'records.db'}")
    records.create_schema()
    splitter = MarkdownTextSplitter(chunk_size=CHUNK, chunk_overlap=0)

    def scan() -> None:
        documents = [
            Document(path.read_text(), metadata={"source": path.name}) for path in sorted(Path(root).glob("*.md"))
        ]
        chunks = splitter.split_documents(documents)
        index(
            chunks,
            records,
            store,
            cleanup="incremental",
            source_id_key="source",
            batch_size=1_000,
            key_encoder="sha256",
        )

    return measured(root, service, scan)


def by_llama_index(root: str, service: str) -> dict[str, Any]:
    from llama_index.core import SimpleDirectoryReader
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.storage.docstore import SimpleDocumentStore
    from llama_index.core.vector_stores import SimpleVectorStore

    client = client_of(service)

    class Asking(BaseEmbedding):
        def _get_text_embedding(self, text: str) -> list[float]:
            return embedded(client, [text])[0]

        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return embedded(client, texts)

        def _get_query_embedding(self, query: str) -> list[float]:
            return embedded(client, [query])[0]

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return embedded(client, [query])[0]

    pipeline = IngestionPipeline(
        # About as many tokens as the others have characters, by four.
        transformations=[SentenceSplitter(chunk_size=CHUNK // 4, chunk_overlap=0), Asking(embed_batch_size=BATCH)],
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS,
        vector_store=SimpleVectorStore(),
    )

    def scan() -> None:
        pipeline.run(documents=SimpleDirectoryReader(root, filename_as_id=True).load_data())

    return measured(root, service, scan)


def client_of(service: str) -> Any:
    import openai

    return openai.OpenAI(api_key="none", base_url=service)


def embedded(client: Any, texts: list[str]) -> list[list[float]]:
    found: list[list[float]] = []
    for start in range(0, len(texts), BATCH):
        answer = client.embeddings.create(model="any", input=texts[start : start + BATCH])
        found += [item.embedding for item in answer.data]
    return found


def measured(root: str, service: str, scan: Callable[[], None]) -> dict[str, Any]:
    """The first load, and the scan with the median time of some that follow a change each."""
    _asked(service)
    first, _ = _timed(scan)
    first_asked = _asked(service)
    changed = sorted(_changed(root, scan) for _ in range(_CHANGES))
    second, busy = changed[_CHANGES // 2]
    found = {"first": first, "second": second, "second_busy": busy}
    return {**found, "first_asked": first_asked, "second_asked": _asked(service) // _CHANGES}


def _changed(root: str, scan: Callable[[], None]) -> tuple[float, float]:
    _change(Path(root))
    return _timed(scan)


def _timed(scan: Callable[[], None]) -> tuple[float, float]:
    """Seconds of the clock, and of the processor: those tell more on a busy machine, and leave out what a server does."""
    began, busy = time.perf_counter(), time.process_time()
    scan()
    return time.perf_counter() - began, time.process_time() - busy


def _asked(service: str) -> int:
    with urllib.request.urlopen(f"{service}/asked") as answer:
        return int(answer.read())


def _change(root: Path) -> None:
    """A word of the first section, in every hundredth document."""
    for path in sorted(root.glob("*.md"))[::100]:
        text = path.read_text()
        path.write_text(text.replace("\n\n## Section", " changed.\n\n## Section", 1))
