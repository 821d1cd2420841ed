"""One system as a suite sees it, and two of them as a way that rows take."""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import retl

Row = tuple[Any, ...]

EPOCH = dt.datetime(2024, 1, 1)  # noqa: DTZ001  # as the columns have no zone


def at(seconds: float) -> dt.datetime:
    """A moment of the rows: so many seconds after the first of them."""
    return EPOCH + dt.timedelta(seconds=seconds)


def moment(value: Any) -> dt.datetime:
    """A moment as any system or report writes it, to the microsecond."""
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=None)
    return dt.datetime.fromisoformat(str(value).rstrip("Z")[:26])


def old(*keys: int) -> list[Row]:
    """Rows as ``Route.fill`` makes them."""
    return [(key, "old", at(key)) for key in keys]


class End(ABC):
    """A system that holds tables. Their key is ``id``; the other columns are of the kinds int, text and time."""

    # What a test may need of its source or its target, as its mark ``needs`` says.
    live: ClassVar[bool] = True
    """Whether it can be changed while a scan reads it."""
    cursors: ClassVar[bool] = True
    """Whether a table has a cursor: what files have changed is known by the files."""
    counts: ClassVar[bool] = True
    """Whether its rows are counted before they are read."""
    columns: ClassVar[bool] = True
    """Whether a row has columns that its table declares: a document has not."""
    failing_rows: ClassVar[bool] = True
    """Whether ``failing`` makes a scan fail at one row."""
    streams: ClassVar[bool] = True
    """Whether the slices before a row that cannot be read are read."""
    snapshots: ClassVar[bool] = True
    """Whether a reader can hold on to what he has begun to read: ``old_reader``."""
    refuses: ClassVar[bool] = True
    """Whether it can be made to ``refuse`` rows."""
    atomic: ClassVar[bool] = True
    """Whether rows and checkpoint are one commit."""
    refreshes: ClassVar[Sequence[str]] = ("none", "truncate", "rename_and_create", "swap", "mirror")
    ends_readers: ClassVar[Sequence[str]] = ()
    """The refreshes after which a reader with an old snapshot gets an error."""

    empties_readers: ClassVar[Sequence[str]] = ()
    """The refreshes after which he sees an empty table."""

    @abstractmethod
    def connector(self, **options: Any) -> Any:
        """What a pipeline takes, on either side."""

    @abstractmethod
    def create(self, table: str, kinds: dict[str, str], *, key: bool = True) -> None:
        """An empty table with these columns, in place of what there is."""

    @abstractmethod
    def insert(self, table: str, *rows: Row) -> None: ...

    @abstractmethod
    def update(self, table: str, key: int, **values: Any) -> None: ...

    @abstractmethod
    def delete(self, table: str, *keys: int) -> None:
        """Some rows, or all."""

    @abstractmethod
    def rows(self, table: str, *columns: str) -> list[Row]:
        """By their first column; those of ``id``, ``v`` and ``ts`` unless others are named."""

    @abstractmethod
    def tables(self) -> list[str]:
        """All but those of the state store."""

    @abstractmethod
    def take_over(self) -> None:
        """Become the owner of the pipeline that has its state here."""

    @abstractmethod
    def drop(self, table: str) -> None: ...

    def old_reader(self, table: str) -> AbstractContextManager[Callable[[], list[Row]]]:
        """Somebody whose snapshot is from now, and what he sees of the columns of ``rows``."""
        raise NotImplementedError

    def add_column(self, table: str, name: str) -> None:
        raise NotImplementedError

    def drop_column(self, table: str, name: str) -> None:
        raise NotImplementedError

    def failing(self, key: int) -> dict[str, Any]:
        """Words for a ``retl.Table`` whose scan fails at one row."""
        raise NotImplementedError

    def refuse(self, table: str) -> None:
        """From now on refuse each new or changed row of a table, be it one of the state store: ``no NAME``."""
        raise NotImplementedError

    def allow(self, table: str) -> None:
        """Refuse nothing any more."""
        raise NotImplementedError

    def called(self, table: str) -> str:
        """The name of a table for a pipeline."""
        return table

    def listed(self, table: str) -> str:
        """What is shown of a table where all that can be read is listed."""
        return self.called(table)

    def words(self, words: dict[str, Any]) -> dict[str, Any]:
        """The words of a ``retl.Table`` that mean the same for what is read here."""
        return words


class Route:
    """From one system to another."""

    def __init__(self, source: End, target: End) -> None:
        self.source = source
        self.target = target
        self.rows = target.rows

    def fill(self, rows: int, *, every: float = 1.0) -> None:
        """``events`` with so many rows, their times a second apart; ``every`` is how many share a time."""
        self.source.create("events", {"v": "text", "ts": "time"})
        self.source.insert("events", *((n, "old", at(n // every)) for n in range(rows)))

    def table(self, name: str = "events", *, to: str = "", **words: Any) -> retl.Table:
        words = self.source.words(words)
        if action := words.get("pre_action"):
            words["pre_action"] = retl.PreAction(action)
        return retl.Table(self.source.called(name), to=self.target.called(to or name), **words)

    def pipeline(self, *tables: retl.Table, options: dict[str, Any] | None = None, **words: Any) -> retl.Pipeline:
        """One table with a cursor unless others are given; ``options`` are those of the source."""
        return retl.Pipeline(
            "notes",
            source=self.source.connector(**(options or {})),
            target=self.target.connector(),
            tables=list(tables or [self.table(cursor="ts")]),
            **words,
        )

    def empties_readers(self, pre_action: str) -> bool:
        """Whether a reader with an old snapshot sees an empty table."""
        return pre_action in self.target.empties_readers and not self._goes_by_file(pre_action)

    def ends_readers(self, pre_action: str) -> bool:
        """Whether such a reader is told to begin anew."""
        return pre_action in self.target.ends_readers and not self._goes_by_file(pre_action)

    def _goes_by_file(self, pre_action: str) -> bool:
        """Whether it is the rows of each file that are replaced, and not the table."""
        return pre_action == "truncate" and not self.source.cursors

    def is_at(self, watermark: str | None, moment_: dt.datetime) -> bool:
        """Whether a watermark is that of a moment, where there are any."""
        return watermark is None if not self.source.cursors else moment(watermark) == moment_

    def equal(self, table: str = "events") -> bool:
        """Whether the target holds the rows of the source, and no others."""
        return self.target.rows(table) == self.source.rows(table)

    def archives(self) -> list[str]:
        """The oldest first."""
        return [name for name in self.target.tables() if "_arc_" in name]
