"""``python -m tests.servers``: downloads what the tests' servers are made of, so that no test has to wait for it.

What can't be had is named and left to the tests that need it: they skip or fail with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.servers import clients, elasticsearch, mariadb, mysql, opensearch, pgbouncer, postgres, s3

SERVERS: dict[str, Callable[[], Path]] = {
    "Elasticsearch 8": elasticsearch.unpack,
    "Elasticsearch 9": lambda: elasticsearch.unpack(9),
    "OpenSearch 3": opensearch.unpack,
    "MySQL": mysql.unpack,
    "MariaDB": mariadb.unpack,
    "PostgreSQL 15": lambda: postgres.unpack(15),
    "PostgreSQL 18": postgres.unpack,
    "pgbouncer": pgbouncer.unpack,
    "SeaweedFS": s3.unpack,
    "the client of MySQL": lambda: clients.unpack("mysql"),
    "the client of MariaDB": lambda: clients.unpack("mariadb"),
}


def fetch(name: str) -> str:
    """What became of one of ``SERVERS``, for people."""
    began = time.monotonic()
    try:
        SERVERS[name]()
    except (pytest.skip.Exception, RuntimeError, OSError) as error:
        return f"{name}: {error}"
    return f"{name}: there after {time.monotonic() - began:.0f} s"


def main() -> None:
    with ThreadPoolExecutor(len(SERVERS)) as threads:
        for told in threads.map(fetch, SERVERS):
            print(told, flush=True)


if __name__ == "__main__":
    main()
