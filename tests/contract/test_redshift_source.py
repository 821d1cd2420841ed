"""Redshift, held to the contract of a source: its stand-in, or a cluster that a variable names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pyarrow as pa
import pytest

from retl.connectors import Redshift
from retl.connectors.base import Source
from retl.testing import SourceContract
from tests.fake_redshift import Cluster, insert
from tests.servers import redshift


@pytest.fixture
def cluster(redshift_server: Cluster) -> Cluster:
    return redshift_server


class TestRedshiftSource(SourceContract):
    keeps_tables: ClassVar[bool] = True  # by its lock
    many_rows = 3_000

    @pytest.fixture(autouse=True)
    def _schema(self, cluster: Cluster) -> Iterator[None]:
        self.cluster = cluster
        with cluster.fresh_schema() as self.schema:
            yield

    def source(self) -> Source:
        return redshift.connector(self.cluster, schema=self.schema).source()

    async def create(self, table: str, rows: pa.Table) -> None:
        await self.cluster.run(
            f"CREATE TABLE {self.schema}.{table} (id BIGINT NOT NULL, name VARCHAR(600), updated_at TIMESTAMP, PRIMARY KEY (id))"
        )
        await self.change(table, rows)

    async def change(self, table: str, rows: pa.Table) -> None:
        # Nobody else does it: its keys are informational.
        if rows.num_rows:
            ids = ", ".join(map(str, rows.column("id").to_pylist()))
            await self.cluster.run(f"DELETE FROM {self.schema}.{table} WHERE id IN ({ids})")
        values = list(zip(*(column.to_pylist() for column in rows.columns), strict=True))
        insert(self.cluster, f"{self.schema}.{table}", values)

    async def drop(self, table: str) -> None:
        await self.cluster.run(f"DROP TABLE {self.schema}.{table}")

    def unreachable(self) -> Source:
        return Redshift("redshift://nobody@127.0.0.1:1/dev", password="secret", connect_timeout=1).source()
