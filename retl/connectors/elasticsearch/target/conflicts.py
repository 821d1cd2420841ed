"""Documents whose version in the target is higher than that of their row.

A version tells what is newer among the documents of one history only. A scan that begins from nothing does
not go on with the history of its predecessor: what was dated 2099 once would stay for ever, and so would
nothing where a document has just been deleted, whose version the server remembers. And a document that
was written in the place of such a one has a version above its cursor from then on. So what clashes is
looked at: a document stays only where it holds a newer cursor itself, or this very scan has written it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.elasticsearch.connection import Client, quoted
from retl.connectors.elasticsearch.target.encode import Lines
from retl.connectors.elasticsearch.target.loader import Bulk, Rows, fail_on_conflict
from retl.connectors.elasticsearch.target.plan import PreparedLoad
from retl.connectors.elasticsearch.types import ROUTING
from retl.connectors.rows.keys import repeated_key
from retl.model.actions import Write
from retl.model.plan import WriteSpec

_TRIES = 5
_AT_ONCE = 1_000


class Conflicts(ABC):
    """Settles the items of a bulk request that conflict with their documents. ``prove`` raises for a lost fence."""

    def __init__(
        self,
        client: Client,
        index: str,
        prove: Callable[[], Awaitable[None]],
        *,
        fields: Sequence[str] | Literal[True] = True,
    ) -> None:
        """``fields``: what is looked at of a document, if not the whole of it."""
        self._client = client
        self._index = index
        self._prove = prove
        self._fields = fields

    async def __call__(self, bulk: Bulk, lines: Lines, rows: Rows) -> None:
        for first in range(0, rows.size, _AT_ONCE):
            await self._settle(bulk, lines.take(rows[first : first + _AT_ONCE]))

    async def _settle(self, bulk: Bulk, lines: Lines) -> None:
        for _ in range(_TRIES):
            found = await stored(self._client, self._index, lines, self._fields)
            # Only now: what another owner wrote before it was seen, and what he writes after it clashes.
            await self._prove()
            replaced = self.replacing(bulk, lines, found)
            numbers = [numbered(found[number]) for number in replaced]
            lines = lines.take(replaced)
            again = await bulk.resend(lines.in_place_of(numbers)) if replaced else ()
            if not len(again):
                return
            lines = lines.take(again)
        await fail_on_conflict(bulk, lines, np.arange(len(lines)))

    @abstractmethod
    def replacing(self, bulk: Bulk, lines: Lines, found: Sequence[Mapping[str, Any]]) -> list[int]:
        """The rows that take the place of their documents; the others are counted, or rejected."""


class OlderRows(Conflicts):
    """Settles the items that are older than their documents."""

    def __init__(
        self, client: Client, load: PreparedLoad, duplicates: Duplicates, prove: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(client, load.address.index, prove, fields=[load.spec.cursor or ""])
        self._load = load
        self._duplicates = duplicates

    def replacing(self, bulk: Bulk, lines: Lines, found: Sequence[Mapping[str, Any]]) -> list[int]:
        replaced = [number for number in self._newest(lines) if not self._stays(lines, number, found[number])]
        bulk.older += len(lines) - len(replaced)
        return replaced

    def _newest(self, lines: Lines) -> list[int]:
        """The rows without a newer one in this slice."""
        ids, versions = lines.ids.to_pylist(), lines.versions.to_pylist()
        newest = self._duplicates.newest(ids)
        return [
            n for n, (name, version) in enumerate(zip(ids, versions, strict=True)) if newest.get(name, 0) <= version
        ]

    def _stays(self, lines: Lines, number: int, document: Mapping[str, Any]) -> bool:
        """Whether a document is newer than its row, and not left by a predecessor."""
        spec = self._load.spec
        if self._load.from_nothing or spec.cursor is None or not document.get("found"):
            return False
        there = version_of(document.get("_source") or {}, spec.cursor, spec.schema.field(spec.cursor).type)
        return there is not None and there > lines.versions[number].as_py()


async def stored(
    client: Client, index: str, lines: Lines, fields: Sequence[str] | bool = False
) -> list[dict[str, Any]]:
    """Each document as of now: ``found``, its sequence numbers, and these fields of it, or the whole of it."""
    routing = lines.rows.column(ROUTING).to_pylist() if ROUTING in lines.rows.schema.names else [None] * len(lines)
    asked = [
        {"_id": name, "_source": fields, **({} if way is None else {"routing": way})}
        for name, way in zip(lines.ids.to_pylist(), routing, strict=True)
    ]
    answer = await client.call("POST", f"/{quoted(index)}/_mget", body={"docs": asked})
    found: list[dict[str, Any]] = answer["docs"]
    return found


def numbered(document: Mapping[str, Any]) -> tuple[int, int] | None:
    """The sequence numbers of a document as it was found; ``None`` where there is none."""
    return (document["_seq_no"], document["_primary_term"]) if document.get("found") else None


def version_of(source: Mapping[str, Any], cursor: str, logical: pa.DataType) -> int | None:
    """The version that a document's own cursor gives; ``None`` where it cannot be read."""
    value = _at(source, cursor)
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    if isinstance(value, int):
        # A number in a field of time counts milliseconds.
        return value if pa.types.is_integer(logical) else value * 10**6
    if pa.types.is_integer(logical):
        return int(value) if re.fullmatch(r"[0-9]{1,18}", value) else None
    for zone in (None, "UTC"):  # written without, and with one
        with suppress(pa.ArrowException):
            found: int = pa.array([value]).cast(pa.timestamp("ns", zone)).view(pa.int64())[0].as_py()
            return found
    return None


def _at(source: Any, path: str) -> Any:
    """A value of a document by its path; names may be dotted or nested."""
    if not isinstance(source, dict):
        return None
    if path in source:
        return source[path]
    heads = [path[:at] for at in range(len(path)) if path[at] == "."]
    return next((_at(source[head], path[len(head) + 1 :]) for head in heads if head in source), None)


class Duplicates:
    """Detects rows that share an ``_id`` where no version tells the newer one.

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
        # Rows are only compared, so a hash of the content is enough.
        prints = pa.array([hash(item) for item in lines.items.to_pylist()], pa.int64())
        table = pa.table({"id": lines.ids, "version": lines.versions.fill_null(-1), "print": prints})
        self._check(table)
        self._held.append(table)

    def check(self) -> None:
        """Look at all rows since ``clear``. Raises ``RepeatedKey``."""
        if len(self._held) > 1:
            self._check(pa.concat_tables(self._held))

    def newest(self, ids: Sequence[str]) -> dict[str, int]:
        """The highest version since ``clear`` of each of these documents; unknown for what is not watched."""
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
