"""The table that the benchmarks of MySQL copy: 12 columns, about 280 bytes a row, and how two copies are compared."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.mysql_runs import COLUMNS, DATABASE
from tests.servers.database import Server

CREATE = """
CREATE TABLE {table} (id BIGINT NOT NULL PRIMARY KEY, customer INT NOT NULL, city VARCHAR(60), note VARCHAR(200),
amount DECIMAL(18,4), ratio DOUBLE, day DATE, created DATETIME(6), active TINYINT(1), details LONGTEXT,
updated_at DATETIME(6) NOT NULL, code VARCHAR(40), KEY (updated_at)) CHARACTER SET utf8mb4
"""
ROWS = """
SELECT i, (hash(i) % 100000)::INTEGER, ['Köln', '上海市浦东新区世纪大道', 'Århus', 'San José', '東京 🗼 港区芝公園'][1 + i % 5],
CASE WHEN i % 5 = 0 THEN NULL
  ELSE ['note "quoted", ', '备注:客户要求尽快发货 🚚 ', 'plain \\ text; '][1 + i % 3] || repeat('x', (i % 60)::INTEGER) END,
((i * 7919) % 100000000)::DECIMAL(18,4) / 10000, i / 7.0, DATE '2020-01-01' + (i % 1500)::INTEGER,
TIMESTAMP '2020-01-01' + INTERVAL (i) SECOND + INTERVAL (i * 37 % 1000000) MICROSECOND, (i % 3 = 0)::INTEGER,
'{{"n": ' || i || ', "tags": ["a", "b"], "name": "' || hex(hash(i)::VARCHAR)[:12] || '"}}',
TIMESTAMP '2024-01-01' + INTERVAL (i) SECOND + INTERVAL (i * 7919 % 1000000) MICROSECOND, hex(hash(i)::VARCHAR)
FROM range({first}, {end}) t(i)
"""
FLAGS = (
    "--innodb-buffer-pool-size=2G",
    "--innodb-flush-log-at-trx-commit=1",
    "--max-allowed-packet=64M",
)
CHANGE = "UPDATE {table} SET note = 'changed', updated_at = updated_at + INTERVAL 1 YEAR WHERE id % 10 = 3"
CHECKSUM = "SELECT COUNT(*), SUM(CRC32(CONCAT_WS('|', {columns}))) FROM {table}"


def fill(server: Server, table: str, rows: int) -> None:
    """Make the table anew."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.csv"
        query = ROWS.format(first=0, end=rows)
        duckdb.connect().execute(f"COPY ({query}) TO '{file}' (HEADER false, NULLSTR 'NULL', FORCE_QUOTE *)")
        server.query(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
        connection = server.connect(DATABASE, local_infile=True)
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"DROP TABLE IF EXISTS {table}")
                cursor.execute(CREATE.format(table=table))
                cursor.execute(
                    f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE {table} CHARACTER SET utf8mb4 "
                    "FIELDS TERMINATED BY ',' ENCLOSED BY '\"' ESCAPED BY ''"
                )
                cursor.execute(f"ANALYZE TABLE {table}")
        finally:
            connection.close()


def content(server: Server, table: str) -> tuple[Any, ...]:
    """Rows and a checksum over every value but the double, which clients print in more than one way."""
    texts = [f"CAST({name} AS CHAR)" for name in COLUMNS if name != "ratio"]
    (found,) = server.query(CHECKSUM.format(columns=", ".join(texts), table=f"{DATABASE}.{table}"))
    return found
