"""Keys that repeat within one slice, where the source does not guarantee its key."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.elasticsearch.encode import Lines
from retl.connectors.rows.keys import repeated_key
from retl.model.actions import Write
from retl.model.plan import WriteSpec


class Repeats:
    """Notices two rows with one ``_id`` of which nothing tells the newer: the highest version does.

    Rows that are equal in everything are one. What is in one batch is noticed before it is sent.
    """

    def __init__(self, spec: WriteSpec) -> None:
        self._key = spec.key
        self._watch = bool(spec.key) and not spec.unique_key and spec.table.write is Write.UPSERT
        self._held: list[pa.Table] = []

    def add(self, lines: Lines) -> None:
        """Look at some rows. Raises ``RepeatedKey``."""
        if not self._watch or not len(lines):
            return
        # Where a row is compared with another its content is not needed, only whether it is the same.
        prints = pa.array([hash(item) for item in lines.items.to_pylist()], pa.int64())
        table = pa.table({"id": lines.ids, "version": lines.versions.fill_null(-1), "print": prints})
        self._check(table)
        self._held.append(table)

    def check(self) -> None:
        """Look at all rows since ``clear``. Raises ``RepeatedKey``."""
        if len(self._held) > 1:
            self._check(pa.concat_tables(self._held))

    def newest(self, ids: Sequence[str]) -> dict[str, int]:
        """The highest version since ``clear`` of each of these documents; of what is not watched none is known."""
        held, wanted = list(self._held), pa.array(ids, pa.string())
        found: dict[str, int] = {}
        for table in held:
            some = table.filter(pc.is_in(table.column("id"), wanted))
            for name, version in zip(some.column("id").to_pylist(), some.column("version").to_pylist(), strict=True):
                found[name] = max(version, found.get(name, version))
        return found

    def clear(self) -> None:
        self._held = []

    def _check(self, table: pa.Table) -> None:
        if len(pc.unique(table.column("id"))) == table.num_rows:
            return
        newest = table.group_by("id", use_threads=False).aggregate([("version", "max")])
        both = table.join(newest, "id", use_threads=False)
        both = both.filter(pc.equal(both.column("version"), both.column("version_max")))
        seen = both.group_by("id", use_threads=False).aggregate([("print", "count_distinct")])
        doubtful = seen.filter(pc.greater(seen.column("print_count_distinct"), 1))
        if doubtful.num_rows:
            raise repeated_key(self._key, str(doubtful.column("id")[0]))
