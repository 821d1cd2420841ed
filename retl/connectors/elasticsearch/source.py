"""Elasticsearch as a source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retl.connectors.base import Source

if TYPE_CHECKING:
    from retl.connectors.elasticsearch import Elasticsearch


class ElasticsearchSource(Source):
    """Reads indices, aliases and data streams. See ``retl.connectors.Elasticsearch``."""

    def __init__(self, options: Elasticsearch) -> None:
        self._options = options
