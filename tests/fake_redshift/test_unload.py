"""UNLOAD: what it writes into a bucket of a real S3 server, and what it refuses."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fake_redshift import Bucket, FakeRedshift
from tests.fake_redshift.test_rules import connect
from tests.servers import s3

OPTIONS = "IAM_ROLE default FORMAT PARQUET MANIFEST VERBOSE MAXFILESIZE 16 MB"


@pytest.fixture(scope="module")
def lake() -> Iterator[Bucket]:
    with s3.started() as server:
        bucket = Bucket("lake", server.endpoint, s3.ACCESS_KEY, s3.SECRET_KEY)
        bucket.create()
        yield bucket


@pytest.fixture
async def session(fake: FakeRedshift, lake: Bucket) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    fake.bucket = lake
    connection = await connect(fake)
    yield connection
    connection.terminate()


@pytest.fixture
def table(fake: FakeRedshift, schema: str) -> str:
    fake.query(
        f"CREATE TABLE {schema}.t (id BIGINT, n NUMERIC(10, 2), ts TIMESTAMP, tz TIMESTAMPTZ, doc SUPER, raw VARBYTE, "
        "day DATE, f REAL, b BOOLEAN, name VARCHAR(20))"
    )
    values = ", ".join(
        f"({n}, {n}.25, '2024-01-01 00:00:00.5', '2024-01-01 02:00:00+02', JSON_PARSE('[{n}]'), FROM_HEX('ff'), "
        "'2024-02-29', 0.5, true, 'x''y')"
        for n in range(10)
    )
    fake.query(f"INSERT INTO {schema}.t VALUES {values}")
    return f"{schema}.t"


async def test_rows_are_in_files_and_a_manifest_names_them(
    fake: FakeRedshift, lake: Bucket, table: str, session: asyncpg.Connection
) -> None:
    fake.unload_rows = 4
    query = f"SELECT id, n, ts, tz, doc, day, f, b, name FROM {table} WHERE name = ''x\\'\\'y''"
    await session.execute(f"UNLOAD ('{query}') TO 's3://lake/one/' {OPTIONS}")
    manifest = json.loads(lake.get("one/manifest"))
    assert [entry["meta"]["record_count"] for entry in manifest["entries"]] == [4, 4, 2]
    assert manifest["meta"]["record_count"] == 10
    data = lake.get(manifest["entries"][0]["url"].removeprefix("s3://lake/"))
    assert len(data) == manifest["entries"][0]["meta"]["content_length"]
    found = pq.read_table(io.BytesIO(data))
    assert found.schema.field("n").type == pa.decimal128(10, 2)
    assert found.schema.field("tz").type == pa.timestamp("us")
    assert found.to_pylist()[1]["doc"] == "[1]"
    assert str(found.to_pylist()[1]["tz"]) == "2024-01-01 00:00:00"


@pytest.mark.parametrize(
    ("query", "said"),
    [("SELECT raw FROM {}", "Unsupported data type varbyte"), ("SELECT id FROM {} LIMIT 5", "Limit clause")],
)
async def test_what_parquet_or_unload_cannot_take_is_refused(
    lake: Bucket, table: str, session: asyncpg.Connection, query: str, said: str
) -> None:
    with pytest.raises(asyncpg.PostgresError, match=said):
        await session.execute(f"UNLOAD ('{query.format(table)}') TO 's3://lake/refused/' {OPTIONS}")
    assert lake.names("refused/") == []


async def test_a_prefix_in_use_is_refused(lake: Bucket, table: str, session: asyncpg.Connection) -> None:
    lake.put("used/leftover", b"x")
    with pytest.raises(asyncpg.PostgresError, match="not empty"):
        await session.execute(f"UNLOAD ('SELECT id FROM {table}') TO 's3://lake/used/' {OPTIONS}")


async def test_a_file_can_be_left_out(
    fake: FakeRedshift, lake: Bucket, table: str, session: asyncpg.Connection
) -> None:
    fake.unload_rows, fake.left_out = 5, {1}
    await session.execute(f"UNLOAD ('SELECT id FROM {table}') TO 's3://lake/short/' {OPTIONS}")
    assert len(json.loads(lake.get("short/manifest"))["entries"]) == 2
    assert len([key for key in lake.names("short/") if key.endswith(".parquet")]) == 1
