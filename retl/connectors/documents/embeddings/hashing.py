"""The model that comes with retl: feature hashing. It knows words and their beginnings and endings, not their meaning.

Each word, each pair of words and each run of four letters counts in one place of the vector, which a hash of it
chooses. So texts with the same words are near to each other, in any language and without any download: enough to try
things out, for tests, and to find again what one has read. The same text has the same vector everywhere.
"""

from __future__ import annotations

import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence

import anyio.to_thread
import numpy as np

from retl.connectors.documents.embeddings.model import Answer, Model
from retl.connectors.rows.vectors import Numbers
from retl.model.embeddings import EmbeddingCounts

_WORD = re.compile(r"\w+")
_COMMON = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "but",
        "by",
        "can",
        "do",
        "does",
        "for",
        "from",
        "has",
        "have",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "may",
        "no",
        "not",
        "of",
        "on",
        "or",
        "so",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "they",
        "this",
        "to",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "who",
        "why",
        "will",
        "with",
        "you",
        "your",
    ]
)
"""Words that say nothing of what a text is about."""
_RUN = 4
_WEIGHTS = {"word": 1.0, "pair": 0.5, "run": 0.25}
_AT_ONCE = 64


class Hashing(Model):
    """Feature hashing, in a worker thread."""

    def __init__(self, dimensions: int, counts: EmbeddingCounts) -> None:
        self._dimensions = dimensions
        self._counts = counts

    async def embed(self, texts: Sequence[str]) -> Answer:
        vectors = np.empty((len(texts), self._dimensions), dtype=np.float32)
        for start in range(0, len(texts), _AT_ONCE):
            some = texts[start : start + _AT_ONCE]
            vectors[start : start + len(some)] = await anyio.to_thread.run_sync(hashed, some, self._dimensions)
        self._counts.asked += len(texts)
        return Answer(vectors, {})


def hashed(texts: Sequence[str], dimensions: int) -> Numbers:
    """The vectors of texts, each of length 1; a text without a word has only its first number."""
    vectors = np.zeros((len(texts), dimensions), dtype=np.float64)
    for vector, text in zip(vectors, texts, strict=True):
        for feature, count in Counter(_features(text)).items():
            kind, _, name = feature.partition(" ")
            number = zlib.crc32(name.encode("utf-8", "surrogatepass"))
            sign = 1.0 if number & 1 else -1.0
            vector[(number >> 1) % dimensions] += sign * _WEIGHTS[kind] * (1.0 + math.log(count))
        if not vector.any():
            vector[0] = 1.0
    short: Numbers = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return short


def _features(text: str) -> Iterator[str]:
    words = [word for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()) if word not in _COMMON]
    before = ""
    for word in words:
        yield f"word {word}"
        if before:
            yield f"pair {before} {word}"
        before = word
        edged = f"<{word}>"
        for start in range(len(edged) - _RUN + 1):
            yield f"run {edged[start : start + _RUN]}"
