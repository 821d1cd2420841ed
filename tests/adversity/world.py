"""A source that changes, the target that follows it, and what must hold of the two whenever a scan is killed."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from random import Random
from typing import Protocol

from retl.model.checkpoint import Checkpoint
from tests.adversity.fork_server import ForkServer, Kill, Outcome
from tests.adversity.jobs import Job
from tests.adversity.looks import Look, Row, checkpoint, rows

FIRST_ROWS = 100
SLICE_ROWS = 10
KEPT_ARCHIVES = 2
SHADOWED = ("swap", "mirror")
"""Modes that load a table which nobody sees before the end."""
BEGINNING = datetime(2024, 1, 31, 23, 59, 59, 999_990)  # noqa: DTZ001  # as the column has none


class Survivor(Protocol):
    """Two systems, of which one follows the other, and what must hold of them."""

    random: Random

    @property
    def job(self) -> Job:
        """What is run, and killed."""

    def hurries(self) -> bool:
        """Whether the next scan comes at once, before anything is looked at."""

    def check(self, *, ended: bool) -> None:
        """Look at everything after a scan, killed or not."""

    def change(self) -> None:
        """Something happens at the source."""

    def go_on(self, *, ended: bool) -> None:
        """What happens between two scans."""


def survive(world: Survivor, server: ForkServer, kills: int, *, spread: float = 0.0015) -> str:
    """Kill scans until so many have died; what is committed is looked at after each of them. Returns a summary."""
    killer = Killer(world.random, spread)
    killed = turns = 0
    while killed < kills:
        turns += 1
        assert turns < 50 + 20 * kills, "hardly any scan lives long enough to be killed"
        outcome = server.run(world.job, killer.next())
        killer.learn(outcome)
        killed += outcome.killed
        if outcome.killed and world.hurries():
            continue
        world.check(ended=not outcome.killed)
        world.go_on(ended=not outcome.killed)
    for _ in range(2):
        assert not server.run(world.job).killed
        world.check(ended=True)
        world.change()
    return f"{killed} kills in {turns} scans; {killer.tally()}"


class Killer:
    """Chooses the instants: anywhere in a scan, or just after something has happened."""

    EVENTS = ("LeaseAcquired", "ScanStarted", "ScanPlanned", "SliceCommitted", "ScanFinished")

    def __init__(self, random: Random, spread: float) -> None:
        """``spread``: how long after an event a kill comes, on average."""
        self._random = random
        self._spread = spread
        self._length = 0.2
        self._slices = 5
        self._last: list[str] = []

    def next(self) -> Kill | None:
        if self._random.random() < 0.1:
            return None
        if self._random.random() < 0.4:
            return Kill(seconds=self._random.uniform(0, self._length * 1.05))
        event = self._random.choice((*self.EVENTS, "SliceCommitted", "SliceCommitted", "SliceCommitted"))
        count = self._random.randint(1, self._slices) if event == "SliceCommitted" else 1
        return Kill(event=event, count=count, seconds=self._random.expovariate(1 / self._spread))

    def learn(self, outcome: Outcome) -> None:
        """How long a whole scan takes, and where the last breath was."""
        if not outcome.killed:
            self._length = outcome.seconds
            self._slices = max(2, outcome.events.count("SliceCommitted"))
        else:
            self._last.append(outcome.events[-1])

    def tally(self) -> dict[str, int]:
        return {name: self._last.count(name) for name in dict.fromkeys(self._last)}


class World:
    """A source that changes, its target, and all that is known of both."""

    def __init__(
        self,
        mode: str,
        source: Look,
        target: Look,
        random: Random,
        *,
        store: Look | None = None,
        target_options: dict[str, object] | None = None,
    ) -> None:
        """``store`` where the state is not in the target, so that data and checkpoint are two commits."""
        self.mode = mode
        self.random = random
        self._source = source
        self._target = target
        self._store = store or target
        self._target_options = target_options or {}
        self._torn = store is not None or target.ddl_commits
        """Whether a refresh may be noted and not begun, or ended and not noted."""
        self._idle = False
        """Whether nothing has happened at the source since the last look: a scan of the same rows again writes none."""
        self._now = BEGINNING
        self._next_id = 1
        self._rows: dict[int, Row] = {}
        self._history: dict[int, set[Row]] = defaultdict(set)
        self._forget_target()
        columns = f'id BIGINT NOT NULL PRIMARY KEY, "at" {source.time_type}, "text" VARCHAR(100)'
        self._source.write((f"CREATE TABLE t ({columns})", [()]))
        self._insert(FIRST_ROWS)

    @property
    def job(self) -> Job:
        table: dict[str, object] = {"name": "t", "to": "copy", "slice_rows": SLICE_ROWS}
        if self.mode == "incremental":
            table["cursor"] = "at"
        else:
            table["pre_action"] = self.mode
        if self.mode == "mirror":
            table["max_shrink"] = 1.0
        if self.mode == "rename_and_create":
            table["keep_archives"] = KEPT_ARCHIVES
        return Job(
            source=self._source.address,
            target=self._target.address,
            table=table,
            state=self._store.address if self._store is not self._target else None,
            source_options=self._source.options,
            target_options=self._target_options,
        )

    def hurries(self) -> bool:
        """Whether the next scan comes at once, while the server may still be at work for the one that was killed."""
        # Nobody could tell then whether what an archive holds is what it should.
        return self._target.ddl_commits and self.mode != "rename_and_create" and self.random.random() < 0.3

    # Changes ----------------------------------------------------------------

    def go_on(self, *, ended: bool) -> None:
        """What happens between two scans."""
        if self.random.random() < (0.35 if ended else 0.1):
            self._remove_target()
        if self.random.random() < (0.9 if ended else 0.4):
            self.change()

    def change(self) -> None:
        """New rows, changed rows, rows that are gone; many of them share a cursor value."""
        self._idle = False
        self._insert(self.random.randint(1, 25))
        self._update(self.random.sample(sorted(self._rows), self.random.randint(1, 15)))
        self._delete(self.random.sample(sorted(self._rows), self.random.randint(0, 6)))

    def _tick(self, chance: float = 0.5) -> datetime:
        if self.random.random() < chance:
            self._now += timedelta(microseconds=self.random.choice((1, 7, 1_000_000)))
        return self._now

    def _new(self, id: int) -> Row:
        row = Row(
            id, self._tick(self._changing), self.random.choice((None, "", "ä'\"\n", "x" * self.random.randrange(40)))
        )
        self._rows[id] = row
        self._history[id].add(row)
        return row

    def _insert(self, count: int) -> None:
        self._now += timedelta(microseconds=1)
        self._changing = self.random.choice((0.03, 0.5, 1.0))
        new = [self._new(self._next_id + number) for number in range(count)]
        self._next_id += count
        self._source.write(('INSERT INTO t (id, "at", "text") VALUES (?, ?, ?)', list(new)))

    def _update(self, ids: list[int]) -> None:
        self._now += timedelta(microseconds=1)
        new = [self._new(id) for id in ids]
        self._source.write(
            ('UPDATE t SET "at" = ?, "text" = ? WHERE id = ?', [(row.at, row.text, row.id) for row in new])
        )

    def _delete(self, ids: list[int]) -> None:
        for id in ids:
            del self._rows[id]
        if ids:
            self._source.write(("DELETE FROM t WHERE id = ?", [(id,) for id in ids]))

    def _remove_target(self) -> None:
        """As if the pipeline were new: what follows is a first load."""
        for look in {self._target, self._store}:
            look.remove()
        self._forget_target()

    def _forget_target(self) -> None:
        self._good: list[Row] | None = None
        """The content that the last complete scan left."""
        self._archives: dict[str, list[Row]] = {}
        self._scan_id: str | None = None

    # What must hold ---------------------------------------------------------

    def check(self, *, ended: bool) -> None:
        """After a scan, killed or not."""
        self._target.settle()
        with self._target.opened(), self._store.opened():
            if ended:
                self._check_after_end()
            else:
                self._check_after_kill()
        self._idle = True

    def _check_after_end(self) -> None:
        """The scan is complete: everything is there, and nothing but that."""
        self._check_rest(after_kill=False)
        found, saved = rows(self._target, "copy"), self._checkpoint()
        assert saved.refresh is None and saved.position is None
        self._check_complete(found, saved)
        self._settle(found, saved)

    def _check_after_kill(self) -> None:
        """Whatever was committed is right, and the checkpoint does not claim more."""
        self._check_rest(after_kill=True)
        saved = self._checkpoint()
        found = rows(self._target, "copy") if "copy" in self._tables() else None
        if self.mode == "incremental":
            self._check_watermark(found or [], saved)
        elif self.mode == "none":
            self._check_known(found or [])
            assert {row.id for row in found or []} >= {row.id for row in self._good or []}
        elif self.mode in SHADOWED and found == self._good:
            pass  # not switched yet, though the last rows of the shadow may be committed
        elif saved.refresh is None and saved.scan_id != self._scan_id:
            # The kill came after the last commit.
            assert found is not None
            self._check_complete(found, saved)
            self._settle(found, saved)
        elif self.mode in SHADOWED and self._target.ddl_commits and found == self._expected():
            self._good = found  # switched, and to be noted when the old table is gone: the next scan loads it again
        elif saved.refresh is None:
            assert found == self._good
            assert self._found_archives() == self._archives
        else:
            self._check_refresh(found or [], saved)

    def _check_refresh(self, found: list[Row], saved: Checkpoint) -> None:
        """A refresh that readers see has begun: the archive holds what was there."""
        self._check_known(found)
        if self.mode != "rename_and_create":
            return
        archives = self._found_archives()
        if self._torn and self._good is not None and archives == self._archives:
            assert found == self._good  # noted, but not begun
            return
        if self._torn and found == self._expected():
            # Ended, but not noted: the oldest archive may be gone already.
            self._archives = {name: rows for name, rows in self._archives.items() if name in archives}
        assert {name: archives.get(name) for name in self._archives} == self._archives
        new = [name for name in archives if name not in self._archives]
        assert [archives[name] for name in new] == ([self._good] if self._good is not None else [])

    def _check_complete(self, found: list[Row], saved: Checkpoint) -> None:
        if self.mode in ("incremental", "none"):
            self._check_known(found)
            left = {row.id: row for row in found if row.id in self._rows}
            assert left == self._rows
        else:
            assert found == self._expected()
        if self.mode == "incremental":
            assert saved.watermark is not None
            assert datetime.fromisoformat(saved.watermark) == max(row.at for row in self._rows.values() if row.at)
        if self.mode == "rename_and_create":
            archives = self._found_archives()
            added = [name for name in archives if name not in self._archives]
            expected = [*self._archives.values(), *([self._good] if self._good is not None else [])]
            assert len(added) <= 1
            assert [archives[name] for name in sorted(archives)] == expected[-KEPT_ARCHIVES:]

    def _settle(self, found: list[Row], saved: Checkpoint) -> None:
        self._good, self._archives, self._scan_id = found, self._found_archives(), saved.scan_id

    def _check_known(self, found: list[Row]) -> None:
        """Every row is one that the source once had, and no key is there twice."""
        strangers = [row for row in found if row not in self._history[row.id]]
        assert not strangers
        assert len({row.id for row in found}) == len(found)

    def _check_watermark(self, found: list[Row], saved: Checkpoint) -> None:
        """Every source row at or below the watermark is in the target, as it is."""
        self._check_known(found)
        if saved.watermark is None:
            return
        there = {row.id: row for row in found}
        watermark = datetime.fromisoformat(saved.watermark)
        missing = [row for row in self._rows.values() if row.at and row.at <= watermark and there.get(row.id) != row]
        assert not missing, f"not in the target, although the watermark is {watermark}: {missing}"

    def _check_rest(self, *, after_kill: bool) -> None:
        """No table but those that people should see; a shadow may wait for the next scan."""
        known = ("copy", "retl_")
        others = [name for name in self._tables() if not name.startswith(known)]
        if after_kill or self._idle:  # a stage that is an ordinary table waits, too, for a scan that writes
            others = [name for name in others if not name.startswith("_retl_stage_copy_")]
        waits = self.mode in SHADOWED or (self.mode == "rename_and_create" and self._target.ddl_commits)
        if after_kill and waits:
            ours = ("_retl_new_copy_", "_retl_old_copy_") if self._target.ddl_commits else "_retl_new_copy_"
            assert len(others) <= 1 and all(name.startswith(ours) for name in others)
        else:
            assert not others, others

    def _expected(self) -> list[Row]:
        return sorted(self._rows.values(), key=lambda row: row.id)

    def _tables(self) -> list[str]:
        return self._target.tables() if self._target.exists() else []

    def _found_archives(self) -> dict[str, list[Row]]:
        return {name: rows(self._target, name) for name in self._tables() if name.startswith("copy_arc_")}

    def _checkpoint(self) -> Checkpoint:
        return checkpoint(self._store, "t")
