"""StarRocks and Doris for the tests: the real ones where a variable names them, else their stand-ins.

``RETL_TEST_STARROCKS_URL`` and ``RETL_TEST_DORIS_URL`` (``mysql://user:password@host:9030``) let the same tests run
against real systems; what only a stand-in can do, such as a fault on demand, is skipped there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from retl.connectors import Doris, StarRocks
from tests.fake_olap import FakeDoris, FakeStarRocks
from tests.servers.database import Server, given

VARIABLES = {"starrocks": "RETL_TEST_STARROCKS_URL", "doris": "RETL_TEST_DORIS_URL"}
CONNECTORS = {"starrocks": StarRocks, "doris": Doris}
TABLE_ENDS = {
    "starrocks": 'PRIMARY KEY (id) DISTRIBUTED BY HASH(id) BUCKETS 2 PROPERTIES ("replication_num" = "1")',
    "doris": 'UNIQUE KEY (id) DISTRIBUTED BY HASH(id) BUCKETS 2 PROPERTIES ("replication_num" = "1")',
}


@contextmanager
def any_server(kind: str) -> Iterator[Server]:
    """The real system that the environment names, or its stand-in."""
    if server := given(kind, VARIABLES[kind]):
        yield server
    else:
        with FakeStarRocks() if kind == "starrocks" else FakeDoris() as stand_in:
            yield stand_in


def url(server: Server, kind: str, database: str) -> str:
    """As the connector takes it."""
    return server.url(database).replace("mysql://", f"{kind}://", 1)
