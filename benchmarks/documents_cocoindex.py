"""CocoIndex as a contender: files to chunks to vectors, into a PostgreSQL of its own, as its own example does it.

Its declarations are of its engine, at the top of a module; so it stands by itself.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import cocoindex as coco
import numpy as np
from cocoindex.connectors import localfs, postgres
from cocoindex.ops.text import RecursiveSplitter
from cocoindex.resources.chunk import Chunk
from cocoindex.resources.file import FileLike, PatternFilePathMatcher
from cocoindex.resources.id import IdGenerator
from cocoindex.resources.schema import VectorSchema
from numpy.typing import NDArray

from benchmarks.documents_runs import BATCH, CHUNK, client_of, embedded, measured
from benchmarks.documents_service import DIMENSIONS


class Asking:
    """The service, as CocoIndex asks an embedder: its engine gathers texts, and remembers what it has asked for."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._client = client_of(service)

    def __getstate__(self) -> dict[str, Any]:
        return {"service": self._service}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["service"])  # type: ignore[misc]

    @coco.fn.as_async(batching=True, max_batch_size=BATCH)
    def _embed(self, texts: list[str]) -> list[NDArray[np.float32]]:
        return [np.array(vector, dtype=np.float32) for vector in embedded(self._client, texts)]

    @coco.fn(memo=True)
    async def embed(self, text: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = await self._embed(text)
        return vector

    async def __coco_vector_schema__(self) -> VectorSchema:
        return VectorSchema(dtype=np.dtype(np.float32), size=DIMENSIONS)


DATABASE = coco.ContextKey[asyncpg.Pool]("database")
EMBEDDER = coco.ContextKey[Asking]("embedder")
_splitter = RecursiveSplitter()
_given: dict[str, str] = {}


@coco.lifespan
async def lifespan(builder: coco.EnvironmentBuilder) -> AsyncIterator[None]:
    async with asyncpg.create_pool(_given["address"]) as pool:
        builder.provide(DATABASE, pool)
        builder.provide(EMBEDDER, Asking(_given["service"]))
        yield


@dataclass
class Row:
    id: int
    filename: str
    position: int
    text: str
    embedding: Annotated[NDArray[np.float32], EMBEDDER]


@coco.fn
async def chunk_to_row(chunk: Chunk, filename: str, ids: IdGenerator, table: postgres.TableTarget[Row]) -> None:
    vector = await coco.use_context(EMBEDDER).embed(chunk.text)
    table.declare_row(
        row=Row(await ids.next_id(chunk.text), filename, chunk.start.char_offset, chunk.text, vector),
    )


@coco.fn(memo=True)
async def file_to_rows(file: FileLike, table: postgres.TableTarget[Row]) -> None:
    text = await file.read_text()
    chunks = _splitter.split(text, chunk_size=CHUNK, chunk_overlap=0, language="markdown")
    await coco.map(chunk_to_row, chunks, str(file.file_path.path), IdGenerator(), table)


@coco.fn
async def main(root: Path) -> None:
    schema = await postgres.TableSchema.from_class(Row, primary_key=["id"])
    table = await postgres.mount_table_target(DATABASE, table_name="coco_chunks", table_schema=schema)
    files = localfs.walk_dir(root, path_matcher=PatternFilePathMatcher(included_patterns=["**/*.md"]))
    await coco.mount_each(file_to_rows, files.items(), table)


def by_cocoindex(root: str, service: str, address: str) -> dict[str, Any]:
    os.environ["COCOINDEX_DB"] = str(Path(root).parent / "cocoindex.db")
    _given.update(address=address, service=service)
    app = coco.App(coco.AppConfig(name="documents"), main, root=Path(root))
    return measured(root, service, app.update_blocking)
