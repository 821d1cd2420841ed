"""The demo's folder: the files in it, and how it starts over."""

from __future__ import annotations

import shutil
from pathlib import Path

import anyio

from retl.engine.lease import is_dead
from retl.model.errors import ConfigError, RetlError, TargetBusy
from retl.state.sqlite import SqliteStore

WAREHOUSE_FILE, APP_FILE, JOB_FILE, CHANGE_FILE = "warehouse.duckdb", "app.db", "jobs.toml", "change.py"

JOBS = '''\
# The demo's job file: change it and run it again.
# All words are explained in the reference; `retl init` writes a file for your own data.

[pipelines.flights]
source = { type = "duckdb", path = "warehouse.duckdb" }   # what the analysts have
target = { type = "sqlite", path = "app.db" }             # what the application reads
interval = 5                                              # seconds between two scans

# Incremental: a scan reads only the rows whose updated_at is new.
[[pipelines.flights.tables]]
name = "flights"
cursor = "updated_at"
lookback = "10m"              # finds rows that were committed up to so much later

# A report: each scan computes it anew and switches it in as a whole.
[[pipelines.flights.tables]]
name = "daily_report"
key = ["day", "origin"]
pre_action = "swap"
query = """
SELECT time_hour::DATE AS day, origin, count(*) AS flights,
       count(*) FILTER (air_time IS NULL) AS not_flown, round(avg(dep_delay), 1) AS average_delay
FROM flights GROUP BY ALL ORDER BY ALL"""

# A small table: each scan reads all of it and writes it by its key.
[[pipelines.flights.tables]]
name = "airlines"
'''

# What a user may run beside a schedule. DuckDB lets one process write at a time, so it waits for a scan to end.
CHANGE = '''\
"""Changes some flights in the warehouse."""

import time

import duckdb

while True:
    try:
        warehouse = duckdb.connect("warehouse.duckdb")
        break
    except duckdb.IOException:  # a scan is reading it
        time.sleep(0.1)
changed = warehouse.execute(
    """
    UPDATE flights SET dep_delay = coalesce(dep_delay, 0) + 1, updated_at = now() AT TIME ZONE 'UTC'
    WHERE time_hour < TIMESTAMP '2013-01-02' AND carrier = 'UA'
    """
).fetchone()
warehouse.close()
print(f"{changed[0]} flights of January 1 changed in the warehouse.")
'''


def start_over(folder: Path) -> None:
    """Make the folder, or empty that of an earlier demo. Raises ``ConfigError`` for any other folder."""
    try:
        _start_over(folder)
    except OSError as error:
        raise ConfigError(
            f"the folder {str(folder)!r} cannot be used: {error.strerror}.", remedy="choose another --dir."
        ) from None


def _start_over(folder: Path) -> None:
    jobs = folder / JOB_FILE
    # An interrupted demo leaves its download behind.
    strange = {item.name for item in folder.iterdir()} - {"data", WAREHOUSE_FILE} if folder.exists() else set()
    if strange and not (jobs.is_file() and (folder / WAREHOUSE_FILE).is_file()):
        raise ConfigError(
            f"the folder {str(folder)!r} holds something other than an earlier demo.", remedy="choose another --dir."
        )
    if jobs.is_file():
        _refuse_while_running(folder / APP_FILE)
        print(f"Starting over in {folder}.")
        if jobs.read_text(encoding="utf-8", errors="replace") != JOBS:
            jobs.replace(folder / "jobs.toml.old")
            print("Your jobs.toml is kept as jobs.toml.old.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (WAREHOUSE_FILE, APP_FILE):
        for old in folder.glob(f"{name}*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()


def _refuse_while_running(app: Path) -> None:
    """Do not delete files while another process works on them."""
    try:
        owner = anyio.run(_owner, app) if app.is_file() else None
    except RetlError:
        return  # no longer a database, so no process works on it
    if owner is not None and not is_dead(owner):
        raise TargetBusy(
            "the demo's pipeline is running in another process.", remedy="stop it there, or choose another --dir."
        )


async def _owner(app: Path) -> str | None:
    store = SqliteStore(app)
    try:
        return (await store.read_lease("flights")).owner
    finally:
        await store.aclose()
