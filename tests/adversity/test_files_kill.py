"""Killed at any moment, a scan of files leaves no file half replaced, and a manifest that agrees with the rows."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests import tiers
from tests.integration.files.folder import Folder
from tests.routes.fixtures import make_end

ROOT = Path(__file__).parents[2]
FILES, ROWS = 40, 50
_SCAN = """
import anyio, sys, retl
import retl.connectors.files.changes as changes
from retl.connectors import LocalFiles, {connector}
changes.GROUP_FILES = 4
pipeline = retl.Pipeline(
    "files", source=LocalFiles(path={root!r}), target={target}, lease_ttl=1,
    tables=[retl.Table("*.csv", to="sales", pre_action="truncate")],
)
print("ready", flush=True)
anyio.run(pipeline.run_once)
"""


@pytest.mark.processes
@pytest.mark.parametrize("system", ["sqlite", "postgres"])
def test_a_killed_scan_leaves_whole_files_and_a_true_manifest(
    system: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from contextlib import ExitStack

    with ExitStack() as stack:
        folder = Folder(tmp_path, make_end(system, "app", request, tmp_path, stack))
        chance = random.Random(f"files-{system}")
        killed = 0
        for generation in range(tiers.number(4)):
            write(folder, generation)
            killed += scan(folder, kill_after=chance.uniform(0.0, 0.8))
            check(folder)
        write(folder, 1_000_000)
        assert not scan(folder, kill_after=None)
        check(folder)
        assert {number for (number,) in folder.rows("id")} == {1_000_000}


def write(folder: Folder, generation: int) -> None:
    """Each file with rows of one generation, and as many as that says."""
    for number in range(FILES):
        folder.write(f"{number:02}.csv", "id", *[str(generation)] * (ROWS + generation % 7))


def scan(folder: Folder, *, kill_after: float | None) -> bool:
    """Scan in a process of its own; whether it was killed before its end."""
    connector = folder.target.connector()
    words = {name: getattr(connector, name) for name in connector.__struct_fields__}
    given = {name: value for name, value in words.items() if isinstance(value, str | int | float | bool)}
    script = _SCAN.format(
        connector=type(connector).__name__,
        root=str(folder.root),
        target=f"{type(connector).__name__}(**{given!r})",
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        if kill_after is None:
            assert process.wait(120) == 0
            return False
        time.sleep(kill_after)  # at no particular moment
        process.kill()
        return process.wait(30) != 0


def check(folder: Folder) -> None:
    """Each file has the rows of one generation, all of them, and the manifest says how many."""
    if "sales" not in folder.target.tables():
        return
    rows = Counter(folder.rows("_file", "id"))
    assert len(rows) == len({name for name, _ in rows}), "a file has rows of two generations"
    counted = {name: count for (name, generation), count in rows.items()}
    assert counted == {name: ROWS + generation % 7 for name, generation in rows}
    assert folder.entries() == sorted(counted.items())
