"""A scan of files is cancelled at every one of its steps, and leaves whole files and nothing open."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import tiers
from tests.adversity.steps import Kind, cancelled_at
from tests.integration.files.folder import Folder, folder_in
from tests.integration.files.stores import Remote
from tests.routes.fixtures import make_end

pytestmark = pytest.mark.adversity

MOST_STEPS = 2_000
FILES, ROWS = 5, 7


@pytest.fixture(params=["folder-sqlite", "folder-postgres", "s3-postgres"])
def folder(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: None
) -> Iterator[Folder]:
    """Files over a line, two of them a slice."""
    monkeypatch.setattr("retl.connectors.files.changes.GROUP_FILES", 2)
    with ExitStack() as stack:
        place, _, system = request.param.partition("-")
        found = folder_in(place, request, tmp_path, make_end(system, "app", request, tmp_path, stack))
        if place == "folder":
            found.store = Remote(found.root)
        found.words["vanished"] = "delete"
        yield found


@pytest.mark.parametrize("kind", ["task", "scope"])
async def test_a_scan_of_files_can_be_cancelled_at_every_step(folder: Folder, kind: Kind) -> None:
    stride = 1 if tiers.every_step() else 12
    step = random.randint(1, stride)
    print(f"each {stride}th step from step {step} on")
    write(folder, 0)
    await folder.scan()
    tasks = asyncio.all_tasks()
    generation = 1
    write(folder, generation)
    while await cancelled_at(step, kind, folder.pipeline(lease_ttl=1).run_once):
        assert asyncio.all_tasks() == tasks
        check(folder)
        await folder.scan()
        assert {number for (number,) in folder.rows("id")} == {generation}
        check(folder)
        generation += 1
        write(folder, generation)
        step += stride
        assert step < MOST_STEPS
    assert step > 30
    assert {number for (number,) in folder.rows("id")} == {generation}


def write(folder: Folder, generation: int) -> None:
    """Each file with rows of one generation, and as many as that says; one comes and another goes."""
    for number in range(FILES):
        folder.write(f"{number:02}.csv", "id", *[str(generation)] * (ROWS + generation % 3))
    folder.remove(f"x{generation % 2}.csv")
    folder.write(f"x{(generation + 1) % 2}.csv", "id", str(generation))


def check(folder: Folder) -> None:
    """Each file has the rows of one generation, all of them, and the manifest says how many."""
    rows = Counter(folder.rows("_file", "id"))
    assert len(rows) == len({name for name, _ in rows}), "a file has rows of two generations"
    counted = {name: count for (name, generation), count in rows.items()}
    assert counted == {name: 1 if name[0] == "x" else ROWS + generation % 3 for name, generation in rows}
    assert folder.entries() == sorted(counted.items())
