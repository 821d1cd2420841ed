"""A table on one server that a pipeline brings to another, scan after scan, while something goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec

import retl
from retl.model import events
from tests.adversity.jobs import Job
from tests.adversity.looks import Look, Row, checkpoint, rows

BEGINNING = datetime(2024, 2, 28, 23, 59, 58, 999_990)  # noqa: DTZ001  # as the column has none
MODES: dict[str, dict[str, Any]] = {
    "incremental": {"cursor": "at"},
    "append": {"cursor": "at", "write": "append", "settle": "1s"},
    "none": {},
    "truncate": {"pre_action": "truncate"},
    "rename_and_create": {"pre_action": "rename_and_create", "keep_archives": 1},
    "swap": {"pre_action": "swap"},
    "mirror": {"pre_action": "mirror"},
}


class Feed:
    """The source, its target, and what the target must hold once a scan has ended well."""

    def __init__(
        self,
        mode: str,
        source: Look,
        target: Look,
        *,
        first: int = 40,
        slice_rows: int = 10,
        width: int = 20,
        **options: Any,
    ) -> None:
        """``width`` is how long a row's text is, and ``options`` are those of the target."""
        self.mode = mode
        self.source = source
        self.target = target
        self._width = width
        self._rows: dict[int, Row] = {}
        self._good: list[Row] | None = None
        """The content that the last complete scan left."""
        self._before: list[Row] | None = None
        self.job = Job(
            source=source.address,
            target=target.address,
            table={"name": "t", "to": "copy", "slice_rows": slice_rows, **MODES[mode]},
            source_options=source.options,
            target_options=options,
        )
        columns = f'id BIGINT NOT NULL PRIMARY KEY, "at" {source.time_type}, "text" {source.text_type}'
        source.write((f"CREATE TABLE t ({columns})", [()]))
        self.more(first)

    def more(self, count: int = 20) -> None:
        """New rows, and changed ones where the mode can bring them."""
        new = range(len(self._rows), len(self._rows) + count)
        changed = range(0, new.start, 3) if self.mode != "append" else ()
        for id in (*new, *changed):
            at = BEGINNING + timedelta(microseconds=7 * (len(self._rows) + new.stop) + id)
            self._rows[id] = Row(id, at, f"{new.stop} ä'\"\n".ljust(self._width, "x"))
        self.source.write(
            ('INSERT INTO t (id, "at", "text") VALUES (?, ?, ?)', [tuple(self._rows[id]) for id in new]),
            (
                'UPDATE t SET "at" = ?, "text" = ? WHERE id = ?',
                [(self._rows[id].at, self._rows[id].text, id) for id in changed],
            ),
        )

    def pipeline(self, **changes: Any) -> retl.Pipeline:
        """As after a restart; ``changes`` are to the job."""
        return msgspec.structs.replace(self.job, **changes).pipeline()

    @property
    def expected(self) -> list[Row]:
        return [self._rows[id] for id in sorted(self._rows)]

    def check(self, *, frozen: bool = False) -> None:
        """A scan has ended well: the target is as the source, row by row, and nothing is left of what went wrong.

        What a ``frozen`` owner has staged is left to it.
        """
        found = self.check_rows()
        self._check_others(self._good, "_retl_stage_copy_" if frozen else "retl_")
        self._before, self._good = self._good, found

    def check_again(self) -> None:
        """Nothing has changed since ``check``."""
        assert self.check_rows() == self._good
        self._check_others(self._before)

    def check_rows(self) -> list[Row]:
        """The same, whatever the archive holds."""
        found, saved = rows(self.target, "copy"), checkpoint(self.target, "t")
        assert found == self.expected
        assert saved.refresh is None and saved.position is None
        if "cursor" in MODES[self.mode]:
            assert saved.watermark is not None
            assert datetime.fromisoformat(saved.watermark) == max(row.at for row in found if row.at)
        return found

    def _check_others(self, archived: list[Row] | None, left: str = "retl_") -> None:
        found = self.target.tables()
        others = [name for name in found if name != "copy" and not name.startswith(("retl_", left))]
        archives = [archived] if self.mode == "rename_and_create" and archived is not None else []
        assert [rows(self.target, name) for name in others if name.startswith("copy_arc_")] == archives
        assert len(others) == len(archives), others

    def check_meanwhile(self) -> None:
        """A scan has broken off: what the checkpoint claims is there, and no row is there twice."""
        if "copy" not in self.target.tables():
            return
        found, saved = rows(self.target, "copy"), checkpoint(self.target, "t")
        assert len({row.id for row in found}) == len(found)
        if self.mode in ("swap", "mirror"):
            assert found in (self._good, self.expected)
        elif "cursor" in MODES[self.mode] and saved.watermark is not None:
            there = set(found)
            watermark = datetime.fromisoformat(saved.watermark)
            assert [row for row in self.expected if row.at and row.at <= watermark and row not in there] == []
        if found == self.expected and saved.refresh is None:
            self._good = found  # it had ended


class Heard:
    """The events of a pipeline, and something to do at one of them."""

    def __init__(self, pipeline: retl.Pipeline) -> None:
        self.events: list[events.Event] = []
        self._acts: list[tuple[type[events.Event], int, Callable[[], object]]] = []
        pipeline.subscribe(self._listen)

    def at(self, kind: type[events.Event], act: Callable[[], object], count: int = 1) -> None:
        self._acts.append((kind, count, act))

    def count(self, kind: type[events.Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events)

    def _listen(self, event: events.Event) -> None:
        self.events.append(event)
        for kind, count, act in self._acts:
            if isinstance(event, kind) and self.count(kind) == count:
                act()
