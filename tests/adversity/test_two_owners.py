"""Two processes run the same pipeline: only one of them writes, and what the other has in hand is refused."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from tests.adversity.jobs import Job
from tests.adversity.looks import SQLiteLook
from tests.adversity.owner import owner

pytestmark = pytest.mark.adversity

ROWS = 60
SHORT = 0.6
"""Seconds of silence after which a lease is free."""
FAILED = "ScanFailed:LeaseLost"


class Scene:
    """A source whose every row says of which generation it is, and the target."""

    def __init__(self, folder: Path, *, outside: bool = False, ttl: float = SHORT, **options: object) -> None:
        self._source = SQLiteLook(folder / "source.db")
        self.target = SQLiteLook(folder / "target.db")
        self._source.query("PRAGMA journal_mode = WAL")
        self._source.write(('CREATE TABLE t (id BIGINT NOT NULL PRIMARY KEY, at BIGINT, "text" TEXT)', [()]))
        self._source.write(("INSERT INTO t VALUES (?, ?, ?)", [(id, id, "first") for id in range(ROWS)]))
        self.job = Job(
            source=str(self._source.path),
            target=str(self.target.path),
            table={"name": "t", "to": "copy", "slice_rows": 5, **options},
            state=str(folder / "state.db") if outside else None,
            lease_ttl=ttl,
            interval="50ms",
        )

    def change(self, generation: str) -> None:
        """Every row, under the cursor value that it has: whoever has read it before is behind."""
        self._source.write(('UPDATE t SET "text" = ?', [(generation,)]))

    def content(self) -> list[tuple[int, int, str]]:
        return self.target.query('SELECT id, at, "text" FROM copy ORDER BY id')

    def expected(self, generation: str) -> list[tuple[int, int, str]]:
        return [(id, id, generation) for id in range(ROWS)]

    def others(self) -> list[str]:
        return [name for name in self.target.tables() if name != "copy" and not name.startswith("retl_")]


OPTIONS: dict[str, dict[str, Any]] = {
    "incremental": {"cursor": "at", "lookback": ROWS},
    "none": {},
    "truncate": {"pre_action": "truncate"},
    "rename_and_create": {"pre_action": "rename_and_create", "keep_archives": 1},
    "swap": {"pre_action": "swap"},
}


def test_only_one_of_two_writes_and_the_other_takes_over_when_it_dies(folder: Path) -> None:
    """Although the lease would be valid for a minute more: a dead process need not be waited for."""
    scene = Scene(folder, ttl=60, **OPTIONS["incremental"])
    with owner(scene.job) as first:
        first.wait("ScanFinished")
        with owner(scene.job) as second:
            second.wait("LeaseHeld")
            first.wait_again("ScanFinished")
            first.wait_again("ScanFinished")
            assert not {"LeaseAcquired", "ScanStarted"} & {*second.events}
            assert scene.content() == scene.expected("first")
            scene.change("second")
            first.kill()
            began = time.monotonic()
            second.wait("ScanFinished")
            assert time.monotonic() - began < 20
            second.wait_again("ScanFinished")
            assert scene.content() == scene.expected("second")


@pytest.mark.parametrize(
    ("mode", "outside"), [*((mode, False) for mode in OPTIONS), ("incremental", True), ("truncate", True)]
)
def test_a_frozen_owner_that_wakes_up_late_is_refused(folder: Path, mode: str, outside: bool) -> None:
    """It has old rows in hand, and stands right before a commit."""
    scene = Scene(folder, outside=outside, **OPTIONS[mode])
    with owner(scene.job, freeze_at="SliceCommitted", count=3) as first:
        first.wait_frozen()
        scene.change("second")
        with owner(msgspec.structs.replace(scene.job, interval="1h")) as second:
            second.wait("ScanFinished")
            assert scene.content() == scene.expected("second")
            first.go_on()
            first.wait(FAILED)
            first.wait("LeaseHeld")
            assert first.events[first.events.index(FAILED) :].count("SliceCommitted") == 0
            assert scene.content() == scene.expected("second")
            second.kill()
            first.wait("ScanFinished")
            first.kill()
    scene.change("third")
    anyio.run(scene.job.pipeline().run_once)
    assert scene.content() == scene.expected("third")
    assert len(scene.others()) == (mode == "rename_and_create")  # the archive


def test_an_owner_frozen_at_random_instants_never_doubles_or_loses_a_row(folder: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    scene = Scene(folder, **OPTIONS["incremental"])
    for round in range(3):
        with owner(scene.job) as first:
            first.wait("SliceCommitted" if round == 0 else "ScanStarted", chance.randint(1, 3))
            time.sleep(chance.uniform(0, 0.02))
            first.freeze()
            scene.change(f"{round}")
            with owner(scene.job) as second:
                # Frozen within a transaction it keeps the target locked, and the other one has to wait for it.
                if second.hears("LeaseAcquired", 3 * SHORT):
                    second.wait("ScanFinished")
                    second.wait_again("ScanFinished")
                    assert scene.content() == scene.expected(f"{round}")
                first.go_on()
                first.wait_again("LeaseHeld") if second.hears("LeaseAcquired", 0) else first.wait_again("ScanFinished")
                first.kill()
                second.wait_again("ScanFinished")
                second.wait_again("ScanFinished")
        assert scene.content() == scene.expected(f"{round}")
        anyio.run(scene.job.pipeline().run_once)
        assert scene.content() == scene.expected(f"{round}")
        assert scene.others() == []
