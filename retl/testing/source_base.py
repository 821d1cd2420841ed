"""What the author of a source gives to its contract suite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from retl.connectors.base import Source
from retl.model.checkpoint import Checkpoint
from retl.model.plan import SourcePlan
from retl.model.schema import native_type
from retl.model.table import TableSpec
from retl.testing.oracle import in_order
from retl.testing.rows import read_slice, table_spec
from retl.testing.scans import Scans

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("name", pa.string()),
        pa.field("updated_at", pa.timestamp("us")),
    ]
)
"""Every table of the suites: ``id`` is its primary key, the others may be NULL."""

NOON = datetime.fromisoformat("2024-05-01 12:00:00")
TABLE = "contract_orders"

Row = dict[str, Any]


def rows_of(
    ids: Iterable[int], *, name: str = "row", updated_at: datetime | None = NOON, step: bool = True
) -> list[Row]:
    """Rows whose cursor rises by a second and a microsecond with the id, or is the same for all."""
    return [
        {
            "id": number,
            "name": f"{name} {number}",
            "updated_at": updated_at + timedelta(seconds=number, microseconds=number)
            if step and updated_at is not None
            else updated_at,
        }
        for number in ids
    ]


def odd_texts() -> list[Row]:
    """A row for each text that a format, an escape or a literal could take for something else."""
    texts = [
        "",
        "NULL",
        "null",
        "\\N",
        'a "quoted" one',
        "it's",
        "two\nlines\r\n",
        "tab\t",
        "🙂 ü",
        "\\",
        ",",
        None,
    ]
    return [{"id": number, "name": text, "updated_at": None} for number, text in enumerate(texts)]


def table_of(rows: Iterable[Row]) -> pa.Table:
    """Rows as an Arrow table of the suites' columns."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


class SourceBase:
    """The hooks. A suite's object lives for one test, so what a test sets up may be kept in attributes."""

    pytestmark: ClassVar[Any] = [pytest.mark.anyio]

    has_cursor: ClassVar[bool] = True
    """Whether it can read what has changed since the last scan; otherwise every scan reads the whole table."""
    counts: ClassVar[bool] = True
    """Whether the source can count before it reads: it then names an upper bound and cuts slices."""
    lists_tables: ClassVar[bool] = True
    """Whether it can list and describe its tables."""
    changes_meanwhile: ClassVar[bool] = True
    """Whether others can write while a scan is open; a file may be locked for them."""
    keeps_tables: ClassVar[bool] = False
    """Whether nobody can drop a table while a scan of it is open."""
    most_batch_rows: ClassVar[int] = 16_384
    """No batch has more rows than this."""
    many_rows: ClassVar[int] = 20_000
    """How many rows make a table that needs more than one batch."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    def source(self) -> Source:
        """A new source object on the system under test; the suite closes it."""
        raise NotImplementedError

    async def create(self, table: str, rows: pa.Table) -> None:
        """Make a table with the columns of ``SCHEMA``, primary key ``id``, and these rows."""
        raise NotImplementedError

    async def change(self, table: str, rows: pa.Table) -> None:
        """Insert these rows, or put them in the place of those with their ``id``."""
        raise NotImplementedError

    async def drop(self, table: str) -> None:
        """Remove the table."""
        raise NotImplementedError

    def unreachable(self) -> Source | None:
        """A source whose system does not answer; ``None`` where that cannot be."""
        return None

    # For the tests ----------------------------------------------------------

    @asynccontextmanager
    async def opened(self, rows: Sequence[Row] | None = None) -> AsyncIterator[Scans]:
        """A source with its scans, first with the suite's table made, closed at the end."""
        if rows is not None:
            await self.create(TABLE, table_of(rows))
        async with Scans(self.source()) as source:
            yield source

    async def changed(self, source: Scans, rows: Sequence[Row]) -> None:
        """Change rows between two runs: what a source holds for a scan it has let go of then."""
        await source.leave()
        await self.change(TABLE, table_of(rows))

    def incremental(self, **words: Any) -> TableSpec:
        """The suite's table with a cursor; a source that has none skips the test."""
        if not self.has_cursor:
            pytest.skip("this source has no cursor")
        return table_spec(TABLE, cursor="updated_at", **words)

    def scanned(self, **words: Any) -> TableSpec:
        """The suite's table with a cursor, if the source has one."""
        return table_spec(TABLE, **({"cursor": "updated_at", **words} if self.has_cursor else {"key": "id"}))

    def needs_changes(self) -> None:
        if not self.changes_meanwhile:
            pytest.skip("nobody can write to this source while it is read")


def checkpoint_after(plan: SourcePlan, watermark: str) -> Checkpoint:
    """What the engine remembers once a scan of that plan is done."""
    return Checkpoint(
        cursor=plan.table.cursor,
        cursor_type=plan.cursor_type,
        watermark=watermark,
        scan_id="before",
        columns={column.name: native_type(column) for column in plan.schema},
        detail={name: value for slice_ in plan.slices for name, value in slice_.detail.items()},
    )


async def rows_by_slice(source: Scans, plan: SourcePlan) -> list[list[Row]]:
    """The rows of every slice, in the plan's order."""
    return [(await read_slice(source.scan(plan), slice_)).to_pylist() for slice_ in plan.slices]


async def all_rows(source: Scans, plan: SourcePlan) -> list[Row]:
    """The rows of all slices: doubled ones are doubled here too."""
    return in_order(row for rows in await rows_by_slice(source, plan) for row in rows)


FULL = table_spec(TABLE, key="id")
