"""Files of any size take the same memory, and one transaction."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common import in_own_process
from tests import tiers
from tests.integration.files.large import LINE
from tests.servers.postgres import PostgresServer

MOST_MEMORY_MB = 250


@pytest.mark.large
@pytest.mark.timeout(3600)
def test_a_larger_file_takes_no_more_memory(postgres_server: PostgresServer, tmp_path: Path) -> None:
    """Each in a process of its own."""
    peaks = []
    for megabytes in (96, 2_048 if tiers.every_step() else 288):
        with postgres_server.fresh_database() as database:
            folder = tmp_path / str(megabytes)
            folder.mkdir()
            rows = _write(folder / "large.csv", megabytes)
            found = in_own_process("tests.integration.files.large", "load", str(folder), postgres_server.url(database))
            counted = postgres_server.query(
                "SELECT count(*), sum(id), min(_row), max(_row) FROM sales", database=database
            )
            (folder / "large.csv").unlink()
        assert (found["rows"], found["slices"]) == (rows, 1)
        assert [tuple(map(int, row)) for row in counted] == [(rows, rows * (rows - 1) // 2, 1, rows)]
        peaks.append(found["peak_mb"])
    print(f"{peaks} MB")
    assert peaks[1] < min(MOST_MEMORY_MB, peaks[0] + 30)


def _write(path: Path, megabytes: int) -> int:
    rows = 0
    with path.open("w") as file:
        file.write("id,note\n")
        while file.tell() < megabytes << 20:
            file.writelines(LINE.format(number) for number in range(rows, rows + 50_000))
            rows += 50_000
    return rows
