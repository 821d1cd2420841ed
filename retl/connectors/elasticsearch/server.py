"""All differences between Elasticsearch and OpenSearch, and between their versions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retl.model.errors import UnsupportedError

_OLDEST = {"Elasticsearch": (8, 0), "OpenSearch": (2, 0)}


@dataclass(frozen=True)
class Server:
    """The server that answers, and how it must be asked."""

    name: str
    version: tuple[int, ...]
    number: str
    cluster: str = ""
    """The uuid of the cluster, the same for every address."""

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Server:
        """From the answer to ``GET /``. Raises ``UnsupportedError`` for what is too old."""
        version = answer["version"]
        number = str(version["number"])
        opensearch = version.get("distribution") == "opensearch"
        name = "OpenSearch" if opensearch else "Elasticsearch"
        parts = tuple(int(part) for part in re.findall(r"\d+", number)[:3])
        if opensearch and parts[0] >= 7:
            parts = (2, 0)  # it may be configured to call itself 7.10.2, for old clients
        if parts < _OLDEST[name]:
            raise UnsupportedError(
                f"the server is {name} {number}.", remedy=f"{name} {_OLDEST[name][0]} or newer is needed."
            )
        return cls(name, parts, number, str(answer.get("cluster_uuid") or ""))

    @property
    def opensearch(self) -> bool:
        return self.name == "OpenSearch"

    # Points in time ---------------------------------------------------------

    def open_pit(self, index: str) -> str:
        """The path that opens a point in time; ``keep_alive`` is a parameter."""
        return f"/{index}/_search/point_in_time" if self.opensearch else f"/{index}/_pit"

    def pit_id(self, answer: Mapping[str, Any]) -> str:
        """The id in the answer."""
        found = answer["pit_id" if self.opensearch else "id"]
        if not isinstance(found, str):
            raise TypeError("the id of a point in time is not text")
        return found

    def close_pit(self, pit: str) -> tuple[str, dict[str, Any]]:
        """Path and body of the DELETE that gives a point in time back."""
        if self.opensearch:
            return "/_search/point_in_time", {"pit_id": [pit]}
        return "/_pit", {"id": pit}

    @property
    def shard_doc(self) -> bool:
        """Whether a point in time can be sorted by the position of its documents."""
        return not self.opensearch or self.version >= (3, 3)

    @property
    def tiebreak(self) -> list[dict[str, Any]]:
        """The sort that makes the order of one point in time total."""
        # Without _shard_doc only the id is unique; OpenSearch, unlike Elasticsearch, can sort by it.
        return [{"_shard_doc": "asc"}] if self.shard_doc else [{"_id": "asc"}, {"_index": "asc"}]

    @property
    def exact_search(self) -> dict[str, str]:
        """The parameters of a search that is sorted by nanoseconds.

        OpenSearch tells the shards that it asks last what the first ones have found, in milliseconds: whatever lies
        within the same one is then left out. It does not where it has asked all of them something before.
        """
        return {"search_type": "dfs_query_then_fetch"} if self.opensearch else {}

    @property
    def sort_format(self) -> bool:
        """Whether a sort can choose the format of its values."""
        return not self.opensearch

    @property
    def tells_ignored(self) -> bool:
        """Whether a hit shows text that was too long for its index; otherwise only its document does."""
        return not self.opensearch

    @property
    def hides_vectors(self) -> bool:
        """Whether a search leaves vectors out of its documents unless it is told not to."""
        return not self.opensearch and self.version >= (9, 2)

    # Mappings ---------------------------------------------------------------

    @property
    def flattened(self) -> str:
        """The type of an object whose leaves have no mapping of their own."""
        return "flat_object" if self.opensearch else "flattened"
