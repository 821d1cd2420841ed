"""A schema on Redshift, stand-in or real, for tests that look at what a source makes of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pyarrow as pa
import pytest

from retl.connectors import Redshift
from retl.model.checkpoint import Checkpoint
from retl.model.plan import SourcePlan
from retl.model.table import TableSpec
from retl.testing import Scans, collect
from tests.fake_redshift import Bucket, Cluster, FakeRedshift, Fault, insert
from tests.servers import redshift

ROLE = "arn:aws:iam::123456789012:role/unload"


class Scene:
    """One schema of one cluster. Its SQL is that of an administrator."""

    def __init__(self, cluster: Cluster, schema: str) -> None:
        self.cluster = cluster
        self.schema = schema
        self.bucket: Bucket | None = None

    @property
    def fake(self) -> FakeRedshift:
        """The stand-in, for what only it can do."""
        if not isinstance(self.cluster, FakeRedshift):
            pytest.skip("only the stand-in does this on demand")
        return self.cluster

    def connector(self, **words: Any) -> Redshift:
        return redshift.connector(self.cluster, **{"schema": self.schema, **words})

    def unload(self, **words: Any) -> dict[str, Any]:
        """The options of a source that reads by UNLOAD alone."""
        from retl.connectors.redshift.options import Unload

        assert self.bucket is not None
        bucket = self.bucket
        chosen = {
            "url": f"s3://{bucket.name}/exports",
            "iam_role": ROLE,
            "endpoint": f"http://{bucket.endpoint}",
            "access_key": bucket.access_key,
            "secret_key": bucket.secret_key,
            **words,
        }
        return {"read": "unload", "unload": Unload(**chosen)}

    @asynccontextmanager
    async def source(self, **words: Any) -> AsyncIterator[Scans]:
        async with Scans(self.connector(**words).source()) as source:
            yield source

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        return self.cluster.query(sql.replace("{}", self.schema))

    def create(self, table: str, columns: str) -> None:
        self.run(f"CREATE TABLE {self.schema}.{table} ({columns})")

    def insert(self, table: str, *rows: Sequence[Any]) -> None:
        insert(self.cluster, f"{self.schema}.{table}", rows)

    def numbers(self, rows: int) -> None:
        """A table of so many rows, a second apart."""
        self.create("numbers", "id INTEGER, v VARCHAR(20), ts TIMESTAMP")
        moments = (f"2024-01-01 {n // 3600:02d}:{n // 60 % 60:02d}:{n % 60:02d}" for n in range(rows))
        self.insert("numbers", *((n, f"v{n}", moment) for n, moment in enumerate(moments)))

    async def collect(self, table: str | TableSpec, checkpoint: Checkpoint | None = None, **words: Any) -> pa.Table:
        return await collect(self.connector(**words), table, checkpoint)

    async def sent(self, table: TableSpec, **words: Any) -> list[pa.RecordBatch]:
        """The batches of a first scan as they come: columns may be canonical text."""
        batches: list[pa.RecordBatch] = []
        async with self.source(**words) as source:
            plan = await source.plan(table, Checkpoint())
            for slice_ in plan.slices:
                async with aclosing(source.read(plan, slice_)) as stream:
                    batches.extend([batch async for batch in stream])
        return batches

    async def plan(self, table: TableSpec, **words: Any) -> SourcePlan:
        async with self.source(**words) as source:
            return await source.plan(table, Checkpoint())

    def statements(self) -> list[str]:
        """What the source has sent since the last call."""
        sent = self.fake.statements
        self.fake.forget()
        return sent

    def inject(self, on: str, **words: Any) -> Fault:
        return self.fake.inject(Fault(on, **words))


async def until(reached: Callable[[], bool]) -> None:
    """Return when something outside of this event loop has come so far."""

    def wait() -> None:
        deadline = time.monotonic() + 30
        while not reached():
            assert time.monotonic() < deadline, "it does not come so far"
            time.sleep(0.02)

    await asyncio.to_thread(wait)


def ids(table: pa.Table) -> list[int]:
    return sorted(table.column("id").to_pylist())
