"""What a pipeline is declared as, in a form that can be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from retl.config.words import PipelineOptions, PipelineWords
from retl.model.errors import ConfigError
from retl.model.secret import Secret
from retl.model.table import Table


def definition(words: PipelineWords, tables: Sequence[Table], defaults: PipelineOptions, store: str) -> str:
    """A fingerprint of everything that makes a pipeline: its words, the texts of its queries, the values of its secrets."""
    kinds = [type(side).__qualname__ for side in (words.source, words.target)]
    chosen = [kinds, msgspec.structs.replace(words, tables=tables), defaults, store]
    return hashlib.sha256(msgspec.json.encode(chosen, enc_hook=_plain)).hexdigest()


def _plain(value: Any) -> Any:
    if not isinstance(value, Secret):
        return repr(value)
    try:
        return [str(value), hashlib.sha256(value.reveal().encode("utf-8", "surrogatepass")).hexdigest()]
    except ConfigError:  # it is read when it is needed, and reported then
        return str(value)
