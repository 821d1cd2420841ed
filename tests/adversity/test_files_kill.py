"""Killed at any moment, a scan of files leaves no file half replaced, and a manifest that agrees with the rows."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from retl.connectors.base import Connector
from tests import tiers
from tests.integration.files.folder import Folder, folder_in
from tests.routes.fixtures import make_end

ROOT = Path(__file__).parents[2]
FILES, ROWS = 40, 50
# Forks a child for each scan, so that what is imported is imported once.
_SERVER = """
import os, signal, sys, time
import anyio, pyarrow.csv, retl
import retl.connectors.files.changes as changes
import retl.connectors.files.source
import retl.connectors.files.stores.objects.store
from retl.connectors import LocalFiles, S3Files, {connector}

changes.GROUP_FILES = 4

def pipeline():
    return retl.Pipeline(
        "files", source={source}, target={target}, lease_ttl=1,
        tables=[retl.Table("*.csv", to="sales", pre_action=retl.PreAction.TRUNCATE)],
    )

pipeline()
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        code = 1
        try:
            anyio.run(pipeline().run_once)
            code = 0
        finally:
            os._exit(code)
    if float(line) >= 0:
        time.sleep(float(line))  # at no particular moment
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print("killed" if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status), flush=True)
"""


class Scans:
    """Scans in processes of their own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.length = 0.0
        """How many seconds the last one took that was not killed."""

    def run(self, kill_after: float | None = None) -> bool:
        """One scan; whether it was killed before its end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        began = time.monotonic()
        self._process.stdin.write(f"{-1 if kill_after is None else kill_after}\n")
        self._process.stdin.flush()
        ended = self._process.stdout.readline().strip()
        assert ended in ("killed", "0"), ended
        if ended != "killed":
            self.length = time.monotonic() - began
        return ended == "killed"


@contextmanager
def scans(source: Connector, target: Connector) -> Iterator[Scans]:
    script = _SERVER.format(connector=type(target).__name__, source=_written(source), target=_written(target))
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield Scans(process)
        finally:
            process.kill()


def _written(connector: Connector) -> str:
    """A connector as a program writes it."""
    words = {name: getattr(connector, name) for name in connector.__struct_fields__}
    given = {name: value for name, value in words.items() if isinstance(value, str | int | float | bool)}
    return f"{type(connector).__name__}(**{given!r})"


@pytest.mark.processes
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("place", "system"), [("folder", "sqlite"), ("folder", "postgres"), ("s3", "postgres")])
def test_a_killed_scan_leaves_whole_files_and_a_true_manifest(
    place: str, system: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        folder = folder_in(place, request, tmp_path, make_end(system, "app", request, tmp_path, stack))
        running = stack.enter_context(scans(folder.source(), folder.target.connector()))
        wanted, chance = 200 if tiers.every_step() else tiers.number(4), random.Random(f"{place}-{system}")
        killed = halfway = generation = 0
        while killed < wanted:
            write(folder, generation)
            # Each sixth scan lives: how long that takes, with the wait for a lease that nobody gives back, says when to kill.
            killed += running.run(kill_after=chance.uniform(0.0, running.length) if generation % 6 else None)
            halfway += check(folder)
            generation += 1
        print(f"{place} to {system}: {killed} kills in {generation} scans, {halfway} of them between two commits")
        write(folder, 1_000_000)
        assert not running.run()
        check(folder)
        assert {number for (number,) in folder.rows("id")} == {1_000_000}


def write(folder: Folder, generation: int) -> None:
    """Each file with rows of one generation, and as many as that says."""
    for number in range(FILES):
        folder.write(f"{number:02}.csv", "id", *[str(generation)] * (ROWS + generation % 7))


def check(folder: Folder) -> bool:
    """Each file has the rows of one generation, all of them, and the manifest says how many; whether these differ."""
    if "sales" not in folder.target.tables():
        return False
    rows = Counter(folder.rows("_file", "id"))
    assert len(rows) == len({name for name, _ in rows}), "a file has rows of two generations"
    counted = {name: count for (name, generation), count in rows.items()}
    assert counted == {name: ROWS + generation % 7 for name, generation in rows}
    assert folder.entries() == sorted(counted.items())
    return len({generation for _, generation in rows}) > 1
