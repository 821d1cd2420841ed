"""The model that a table names, for a load or for a question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import anyio.to_thread

from retl.connectors.documents.embeddings.hashing import Hashing
from retl.connectors.documents.embeddings.model import Model
from retl.connectors.documents.embeddings.wordllama import WordLlama
from retl.connectors.rows.vectors import to_canonical
from retl.model.embeddings import LOCAL, EmbeddingCounts, Embeddings
from retl.model.errors import ConfigError, TargetError
from retl.threads import shielded

_LOCAL: Mapping[str, Callable[[int, EmbeddingCounts], Model]] = {"hashing": Hashing, "wordllama": WordLlama}


async def open_model(words: Embeddings, counts: EmbeddingCounts) -> Model:
    """The model that some words name; it counts into ``counts``. Raises ``ConfigError`` where there is none."""
    if words.url.startswith(LOCAL):
        return await anyio.to_thread.run_sync(_local, words.url.removeprefix(LOCAL), words.dimensions, counts)
    service = await anyio.to_thread.run_sync(_service)
    return service(words, counts)


def _local(name: str, dimensions: int, counts: EmbeddingCounts) -> Model:
    if name not in _LOCAL:
        raise ConfigError(
            f"there is no local model {name!r}.",
            remedy='use "local:hashing" or "local:wordllama", or the address of a service that runs here.',
            system="embeddings",
        )
    return _LOCAL[name](dimensions, counts)


def _service() -> Callable[[Embeddings, EmbeddingCounts], Model]:
    try:
        from retl.connectors.documents.embeddings.service import Service
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a service of embeddings needs the Python package {error.name!r}, which is not installed.",
            remedy="pip install 'retl[embeddings]'",
            system="embeddings",
        ) from None
    return Service


async def embed(embeddings: Embeddings, texts: Sequence[str]) -> list[str]:
    """The vectors of some texts, such as a question, as text for SQL: ``[0.1,-2]``. They compare with those of the table.

    Raises ``TargetError`` for a text that the model refuses, and what else asking may raise.
    """
    if isinstance(texts, str):
        raise ConfigError("embed was given one text.", remedy="give it a list, such as [question].")
    blank = next((number for number, text in enumerate(texts) if not text.strip()), None)
    if blank is not None:
        raise ConfigError(f"text {blank} is blank, and has no vector.")
    model = await open_model(embeddings, EmbeddingCounts())
    try:
        answer = await model.embed(texts)
    finally:
        await shielded(model.aclose())
    for number, reason in answer.rejected.items():
        raise TargetError(f"the model refuses text {number}: {reason}.", system="embeddings")
    found: list[str] = to_canonical(answer.vectors).to_pylist()
    return found
