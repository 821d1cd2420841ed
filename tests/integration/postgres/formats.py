"""Loads the same rows in COPY's binary format and as CSV, and compares what is stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from retl.connectors.base import CommitResult
from retl.connectors.postgres import binary, encode
from retl.connectors.postgres.types import logical_field
from tests.integration.postgres.targets import Scene
from tests.integration.scene import scan, spec

DOMAINS = "CREATE DOMAIN letters AS varchar(12); CREATE DOMAIN positive AS integer CHECK (VALUE > 0)"


class Tables:
    """Two tables alike: one is filled in binary, the other by CSV."""

    def __init__(self, connection: psycopg.Connection[Any], declared: str) -> None:
        self._connection = connection
        for table in ("by_binary", "by_csv"):
            connection.execute(f"CREATE TEMP TABLE {table} ({declared})")
        found = connection.execute(
            "SELECT attname::text, CASE WHEN typtype = 'd' THEN format_type(typbasetype, typtypmod) "
            "ELSE format_type(atttypid, atttypmod) END FROM pg_attribute JOIN pg_type AS t ON t.oid = atttypid "
            "WHERE attrelid = 'by_csv'::regclass AND attnum > 0 ORDER BY attnum"
        )
        self.fields = {name: logical_field(name, native) for name, native in found}

    def fill(self, batch: pa.RecordBatch) -> str:
        """Copy a batch into both, and compare them; the format of the first."""
        encoder = encode.Encoder(batch.schema, self.fields, key=(), strict=())
        encoder.sends_binary = True
        data = encoder.encode(batch)
        self._connection.execute("TRUNCATE by_binary, by_csv")
        self._copy("by_binary", data)
        self._copy("by_csv", encoder.csv(batch))
        assert self._connection.execute(unlike(batch.schema.names)).fetchall() == []
        return str(data.options["format"])

    def _copy(self, table: str, data: encode.CopyData) -> None:
        words = encode.BINARY_WORDS if data.is_binary else encode.CSV_WORDS
        with self._connection.cursor() as cursor, cursor.copy(f"COPY {table} {words}") as copy:
            copy.write(data.data)


@contextmanager
def tables(scene: Scene, declared: str) -> Iterator[Tables]:
    with closing(scene.user.connect(scene.database)) as connection:
        for setting in ("TimeZone = 'UTC'", "DateStyle = 'ISO, YMD'", "client_encoding = 'UTF8'"):
            connection.execute(f"SET {setting}")
        yield Tables(connection, declared)


def unlike(names: Sequence[str]) -> str:
    """Asks for rows that are not in both tables to the last byte."""
    left, right = (", ".join(f'{table}."{name}"' for name in names) for table in "ab")
    return (
        "SELECT a::text, b::text FROM by_binary AS a FULL JOIN by_csv AS b ON a.id = b.id WHERE a.id IS NULL OR b.id IS NULL "
        f"OR record_image_ne(ROW({left}), ROW({right})) OR a::text <> b::text"
    )


@contextmanager
def ways() -> Iterator[list[str]]:
    """In which format the batches of this block are encoded first."""
    found: list[str] = []
    encoded = encode.Encoder.encode

    def seen(encoder: encode.Encoder, batch: pa.RecordBatch, first: int | None = None) -> encode.CopyData:
        data = encoded(encoder, batch, first)
        found.append(data.options["format"])
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode.Encoder, "encode", seen)
        yield found


@contextmanager
def as_csv() -> Iterator[None]:
    """Nothing is sent in binary."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(binary, "is_available", lambda: False)
        yield


async def both(
    scene: Scene, declared: str, batch: pa.RecordBatch, *, schema: pa.Schema | None = None, staged: bool = False
) -> tuple[CommitResult, CommitResult, list[str]]:
    """Load a batch as a scan does, in binary and as CSV, and compare the tables; the results, and the formats.

    ``staged``: by an upsert into a table with rows; otherwise straight into an empty one.
    """
    for table in ("by_binary", "by_csv"):
        scene.run(f"CREATE TABLE {table} (id bigint PRIMARY KEY, {declared})")
        if staged:
            scene.run(f"INSERT INTO {table} (id) VALUES (-1)")
    words: dict[str, Any] = {"rejects_left": len(batch), "schema": schema or batch.schema}
    async with scene.session() as session:
        with ways() as formats:
            one = await scan(session, [batch], spec(to="by_binary", max_rejects=len(batch)), **words)
        with as_csv():
            other = await scan(session, [batch], spec(to="by_csv", max_rejects=len(batch)), **words)
    assert scene.run(unlike(batch.schema.names)) == []
    return one, other, formats


def rejected(done: CommitResult) -> list[tuple[str | None, str, str]]:
    """Where and why, whatever the table is called."""
    return [(reject.key, reject.column, reject.reason.replace("by_binary", "by_csv")) for reject in done.rejects]
