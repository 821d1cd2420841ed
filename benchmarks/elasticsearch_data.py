"""The documents that the benchmark of Elasticsearch copies, about 1 KB each, and how two copies are compared."""

from __future__ import annotations

import datetime as dt
import json
import zlib
from typing import Any

from tests.servers.search import SearchServer

BEGIN = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
CITIES = ("Köln", "上海市浦东新区世纪大道", "Århus", "San José", "東京 🗼 港区芝公園")
WORDS = "the parcel was left with a neighbour who signed for it and promised to bring it over in the evening; "
MAPPING = {
    "properties": {
        "id": {"type": "long"},
        "customer": {"type": "keyword"},
        "city": {"type": "keyword"},
        "amount": {"type": "double"},
        "active": {"type": "boolean"},
        "tags": {"type": "keyword"},
        "updated_at": {"type": "date"},
        "address": {"properties": {"street": {"type": "text"}, "zip": {"type": "keyword"}}},
        "lines": {"properties": {"sku": {"type": "keyword"}, "n": {"type": "integer"}, "price": {"type": "float"}}},
        "note": {"type": "text"},
    }
}
AT_ONCE = 5000


def document(number: int) -> dict[str, Any]:
    """Of every kind something; no number is one that a client might print in another way."""
    updated = BEGIN + dt.timedelta(milliseconds=number * 37)
    return {
        "id": number,
        "customer": f"C{number * 7919 % 100_000:06}",
        "city": CITIES[number % 5],
        "amount": number * 7919 % 1_000_000 + 0.25,
        "active": number % 3 == 0,
        "tags": ["red", "green", "blue"][: 1 + number % 3],
        "updated_at": f"{updated:%Y-%m-%dT%H:%M:%S}.{updated.microsecond // 1000:03}Z",
        "address": {"street": f"{number % 900} Long Street", "zip": f"{number * 31 % 100_000:05}"},
        "lines": [
            {"sku": f"S{number * each % 5000:05}-{'x' * 20}", "n": each, "price": each + 0.5} for each in range(1, 5)
        ],
        "note": f"{number} {WORDS * 4}",
    }


def fill(server: SearchServer, index: str, count: int) -> None:
    """Make the index anew."""
    create(server, index)
    for first in range(0, count, AT_ONCE):
        lines = [
            f'{{"index":{{"_id":"{number}"}}}}\n{json.dumps(document(number), ensure_ascii=False)}\n'
            for number in range(first, min(first + AT_ONCE, count))
        ]
        assert not server.ask("POST", f"/{index}/_bulk", "".join(lines).encode())["errors"]
    server.ask("POST", f"/{index}/_refresh")


def create(server: SearchServer, index: str) -> None:
    """An empty index, in place of all whose names begin so."""
    server.remove(index)
    server.ask("PUT", f"/{index}", {"mappings": MAPPING, "settings": {"number_of_replicas": 0}})


def content(server: SearchServer, index: str) -> tuple[int, int, int]:
    """How many documents there are, a checksum over what they say, and one over their bytes."""
    count = values = texts = 0
    for hit in server.each(index):
        key, text = hit.id.encode(), bytes(hit.source)
        count += 1
        texts += zlib.crc32(text, zlib.crc32(key))
        values += zlib.crc32(json.dumps(json.loads(text), sort_keys=True).encode(), zlib.crc32(key))
    return count, values, texts
