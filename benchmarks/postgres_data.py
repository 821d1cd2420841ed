"""The table that the benchmarks of PostgreSQL copy: 12 columns, about 280 bytes a row, and how two copies are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from benchmarks.mysql_data import ROWS
from benchmarks.mysql_runs import COLUMNS
from tests.servers.postgres import PostgresServer

FLAGS = (
    "shared_buffers=1GB",
    "fsync=on",
    "full_page_writes=on",
    "max_wal_size=8GB",
    "checkpoint_timeout=30min",
    "wal_level=replica",
)
"""A server as people run one; the tests' own does without fsync."""
CREATE = """
CREATE TABLE {table} (id bigint PRIMARY KEY, customer integer NOT NULL, city varchar(60), note varchar(200),
amount numeric(18,4), ratio double precision, day date, created timestamp, active smallint, details text,
updated_at timestamp NOT NULL, code varchar(40))
"""
INDEX = "CREATE INDEX ON {table} (updated_at)"
CHANGE = "UPDATE {table} SET note = 'changed', updated_at = updated_at + INTERVAL '1 year' WHERE id % {every} = 3"


def create(server: PostgresServer, table: str) -> None:
    """Make the table anew, with its key and its index, and empty."""
    for sql in (f"DROP TABLE IF EXISTS {table}", CREATE.format(table=table), INDEX.format(table=table)):
        server.query(sql)


def write(file: Path, rows: int) -> None:
    """The rows as CSV; every text is quoted, and NULL is an empty field."""
    query = ROWS.format(first=0, end=rows)
    duckdb.connect().execute(
        f"COPY (SELECT i, c, city, note, amount, ratio, day, created, active, details, updated_at, code FROM ({query}) "
        "AS t(i, c, city, note, amount, ratio, day, created, active, details, updated_at, code)) "
        f"TO '{file}' (HEADER false, FORCE_QUOTE (city, note, details, code))"
    )


def content(server: PostgresServer, table: str) -> tuple[Any, ...]:
    """Rows and a checksum over every value."""
    texts = ", ".join(f"{name}::text" for name in COLUMNS)
    (found,) = server.query(f"SELECT COUNT(*), SUM(hashtextextended(concat_ws('|', {texts}), 0)) FROM {table}")
    return found
