"""``local:wordllama``: static vectors of words, which the package ``wordllama`` brings. It finds what means the same in English.

The vector of a text is the mean of the vectors of its tokens. Only the package's files of data are read: its own code
looks for them elsewhere, downloads what it does not find, and sets up the logging of the host.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import anyio.to_thread
import numpy as np

from retl.connectors.documents.embeddings.model import Answer, Model
from retl.connectors.rows.vectors import Numbers
from retl.model.embeddings import EmbeddingCounts
from retl.model.errors import ConfigError

DIMENSIONS = (64, 128, 256)
"""The model is trained so that its first numbers are a vector, too."""
_WEIGHTS = "weights/l2_supercat_256.safetensors"
_TOKENS = "tokenizers/l2_supercat_tokenizer_config.json"
_AT_ONCE = 64
_PACKAGES = ("wordllama", "tokenizers", "safetensors")


class _Files(NamedTuple):
    tokenizer: Any
    """Of the package ``tokenizers``."""
    weights: np.ndarray[Any, np.dtype[np.float16]]
    """A row for each token."""


class WordLlama(Model):
    """Vectors of the package's model, in a worker thread. Nothing is loaded before the first text."""

    def __init__(self, dimensions: int, counts: EmbeddingCounts) -> None:
        """Blocks a moment. Raises ``ConfigError`` without the package, and for dimensions that the model does not have."""
        if dimensions not in DIMENSIONS:
            raise ConfigError(
                f"the local model 'wordllama' has no vectors of {dimensions:,} dimensions.",
                remedy=f"say {', '.join(map(str, DIMENSIONS[:-1]))} or {DIMENSIONS[-1]} in embeddings.dimensions.",
                system="embeddings",
            )
        self._folder = _folder()
        self._dimensions = dimensions
        self._counts = counts

    async def embed(self, texts: Sequence[str]) -> Answer:
        files = await anyio.to_thread.run_sync(_files, self._folder)
        vectors = np.empty((len(texts), self._dimensions), dtype=np.float32)
        for start in range(0, len(texts), _AT_ONCE):
            some = texts[start : start + _AT_ONCE]
            vectors[start : start + len(some)] = await anyio.to_thread.run_sync(_mean, files, some, self._dimensions)
        self._counts.asked += len(texts)
        return Answer(vectors, {})


def _folder() -> Path:
    """Where the package lies; it is not run."""
    for name in _PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise _missing(f"the Python package {name!r} is not installed")
    package = importlib.util.find_spec("wordllama")
    folder = Path(*(package.submodule_search_locations or ())[:1]) if package is not None else Path()
    if not (folder / _WEIGHTS).is_file():
        raise _missing(f"the installed version of 'wordllama' does not hold {_WEIGHTS}")
    return folder


def _missing(what: str) -> ConfigError:
    return ConfigError(
        f"the local model 'wordllama' is not there: {what}.",
        remedy="pip install 'retl[wordllama]'",
        system="embeddings",
    )


@cache
def _files(folder: Path) -> _Files:
    """The model, read once in a process: 16 MB of numbers, and 32,000 tokens."""
    from safetensors import safe_open
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / _TOKENS))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    with safe_open(folder / _WEIGHTS, framework="np") as file:
        return _Files(tokenizer, file.get_tensor("embedding.weight"))


def _mean(files: _Files, texts: Sequence[str], dimensions: int) -> Numbers:
    """The vectors of texts, each of length 1; a text without a token has only its first number."""
    vectors = np.zeros((len(texts), dimensions), dtype=np.float32)
    for vector, text in zip(vectors, texts, strict=True):
        # One after the other: a batch would start threads of the tokenizer, which no fork of the host survives.
        tokens = files.tokenizer.encode(text, add_special_tokens=False).ids
        if tokens:
            np.mean(files.weights[tokens, :dimensions], axis=0, dtype=np.float32, out=vector)
        if not vector.any():
            vector[0] = 1.0
    short: Numbers = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return short
