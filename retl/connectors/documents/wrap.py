"""What a pipeline puts around its source and its target where a table asks for documents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from retl.connectors.base import Source, Target
from retl.connectors.documents.embeddings.target import EmbeddingTarget
from retl.connectors.documents.source import ChunkedSource


def with_documents(source: Source, target: Target, tables: Iterable[Any]) -> tuple[Source, Target]:
    """The source and the target as the tables need them; what no table asks for is left as it is."""
    if any(getattr(table, "chunks", None) is not None for table in tables):
        source = ChunkedSource(source)
    if any(getattr(table, "embeddings", None) is not None for table in tables):
        target = EmbeddingTarget(target)
    return source, target
