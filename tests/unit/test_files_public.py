"""Files that others have written, as packages carry them, read as another reader reads them: row by row."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import shutil
import subprocess
import tarfile
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather

from tests.formats import good, read
from tests.servers.cache import cache_folder, made_once

ARROW = Path(pa.__file__).parent / "tests" / "data"
NUMPY = Path(np.__file__).parent
NUMBERS = sorted((*NUMPY.glob("_core/tests/data/*.csv"), *NUMPY.glob("random/tests/data/*.csv")))
SPECTRUM = "csv-spectrum@2.0.0"


def ours(path: Path, **options: Any) -> list[dict[str, Any]]:
    return good(read(path.read_bytes(), path.name, **options))


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal; a NaN equals itself, and a moment in UTC its wall clock."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, datetime) and isinstance(other, datetime):
        return one.replace(tzinfo=None) == other.replace(tzinfo=None)
    return bool(one == other)


def check(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert len(found) == len(wanted)
    for number, (row, other) in enumerate(zip(found, wanted, strict=True)):
        assert same(row, other), f"row {number}: {row} is not {other}"


@pytest.mark.parametrize("path", sorted(ARROW.glob("parquet/*.parquet")), ids=lambda path: path.name)
def test_parquet_of_older_writers_is_what_duckdb_reads(path: Path) -> None:
    found = ours(path)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        asked = connection.execute(f"SELECT * FROM '{path}'")
        names = [name for name, *_ in asked.description or ()]
        check(found, [dict(zip(names, row, strict=True)) for row in asked.fetchall()])


@pytest.mark.parametrize("path", sorted(ARROW.glob("orc/*.orc")), ids=lambda path: path.name)
def test_orc_of_its_own_project_is_what_that_says_of_it(path: Path) -> None:
    told = gzip.decompress(path.with_suffix(".jsn.gz").read_bytes()).decode()
    wanted = [json.loads(line) for line in told.splitlines() if line]
    check([_as_json(row) for row in ours(path)], [_without_zeros(row) for row in wanted])


def _as_json(value: Any) -> Any:
    """A value as the tool of ORC writes it."""
    if isinstance(value, dict):
        return {name: _as_json(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        pairs = value and all(isinstance(inner, tuple) for inner in value)
        return [{"key": _as_json(k), "value": _as_json(v)} for k, v in value] if pairs else list(map(_as_json, value))
    if isinstance(value, bytes):
        return list(value)
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return _without_zeros(value.strftime("%Y-%m-%d %H:%M:%S.%f"))
    return value.isoformat() if isinstance(value, date) else value


def _without_zeros(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_zeros(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return list(map(_without_zeros, value))
    if isinstance(value, str) and value[-2:].count(":") == 0 and value.count(":") == 2 and "." in value:
        return value.rstrip("0").rstrip(".")
    return value


@pytest.mark.parametrize("path", sorted(ARROW.glob("feather/*.feather")), ids=lambda path: path.name)
def test_feather_of_an_older_arrow_is_what_its_own_reader_reads(path: Path) -> None:
    check(ours(path), feather.read_table(path).to_pylist())


@pytest.mark.parametrize("path", NUMBERS, ids=lambda path: path.name)
def test_tables_of_numbers_are_what_the_csv_module_reads(path: Path) -> None:
    text = path.read_text()
    rows = [row for row in csv.reader(io.StringIO(text)) if row and not row[0].startswith("#")]
    header, *lines = rows
    wanted = [dict(zip(header, line, strict=True)) for line in lines if len(line) == len(header)]
    check(ours(path, all_text=True, comment="#"), wanted)


_MISTOLD = {"Contact Phone Number": "2095257564"}
"""What one description has otherwise than its file."""


@pytest.mark.large
def test_csv_spectrum_is_read_as_it_says() -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, by which csv-spectrum is fetched")
    folder = made_once(cache_folder() / SPECTRUM.replace("@", "-"), _fetch)
    cases = sorted(folder.glob("package/csvs/*.csv"))
    assert len(cases) >= 12
    for path in cases:
        wanted = json.loads((path.parent.parent / "json" / f"{path.stem}.json").read_text(encoding="utf-8"))
        wanted = [{**wanted, **_MISTOLD}] if isinstance(wanted, dict) else wanted
        found = [
            {name: "" if value is None else value for name, value in row.items()} for row in ours(path, all_text=True)
        ]
        assert found == wanted, path.name


def _fetch(folder: Path) -> None:
    subprocess.run(["npm", "pack", "--silent", SPECTRUM], cwd=folder, check=True, capture_output=True, timeout=120)
    (packed,) = folder.glob("*.tgz")
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
