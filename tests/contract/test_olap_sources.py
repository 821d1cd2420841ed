"""StarRocks and Doris, held to the contract of a source: their stand-ins, or real ones that a variable names."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest

from retl.connectors.base import Source
from retl.testing import SourceContract
from tests.fake_olap import fresh_database, insert
from tests.servers import olap
from tests.servers.database import Server


@pytest.fixture(scope="module", params=["starrocks", "doris"])
def found(request: pytest.FixtureRequest) -> Iterator[tuple[str, Server]]:
    with olap.any_server(request.param) as server:
        yield request.param, server


class TestOlapSource(SourceContract):
    many_rows = 3_000

    @pytest.fixture(autouse=True)
    def _server(self, found: tuple[str, Server]) -> Iterator[None]:
        self.kind, self.at = found
        with fresh_database(self.at) as self.database:
            yield

    def source(self) -> Source:
        connector = olap.CONNECTORS[self.kind]
        return connector(olap.url(self.at, self.kind, self.database)).source()

    async def create(self, table: str, rows: pa.Table) -> None:
        moment = "DATETIME" if self.kind == "starrocks" else "DATETIME(6)"
        await self.at.run(
            f"CREATE TABLE {table} (id BIGINT NOT NULL, name VARCHAR(600), updated_at {moment}) {olap.TABLE_ENDS[self.kind]}",
            database=self.database,
        )
        await self.change(table, rows)

    async def change(self, table: str, rows: pa.Table) -> None:
        values = list(zip(*(column.to_pylist() for column in rows.columns), strict=True))
        insert(self.at, table, values, self.database, doris=self.kind == "doris")

    async def drop(self, table: str) -> None:
        await self.at.run(f"DROP TABLE {table}", database=self.database)

    def unreachable(self) -> Source:
        return olap.CONNECTORS[self.kind](f"{self.kind}://nobody@127.0.0.1:1/nowhere", password="secret").source()
