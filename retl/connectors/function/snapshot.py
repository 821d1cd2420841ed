"""Copies of a user's rows as they came: the function may fill the same dict again and again."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from retl.connectors.function.rows import as_mapping, is_row
from retl.model.errors import SourceError

_CHANGEABLE = frozenset({dict, list, set, bytearray})


class Snapshots:
    """Copies rows as they come, and notices one object that stands for several rows."""

    def __init__(self) -> None:
        self._item: Any = None
        self._row: Mapping[str, Any] = {}

    def copy(self, item: Any) -> Any:
        """A copy of a row, or of a page of rows, that later changes do not reach."""
        if is_row(item):
            row = _copy_row(as_mapping(item))
            if item is self._item and row == self._row and _says_something(row):
                raise _one_for_many(1)
            self._item, self._row = item, row
            return row
        if is_page(item) and not is_lazy(item):
            rows = list(item)
            check_distinct(rows)
            return [self.copy(row) for row in rows]
        return item


def check_distinct(page: Sequence[Any]) -> None:
    """Raise ``SourceError`` if a list holds one object several times: what it held before is lost."""
    again = len(page) - len(set(map(id, page)))
    if not again:
        return
    seen: set[int] = set()
    for row in page:
        if id(row) in seen and is_row(row) and _says_something(as_mapping(row)):
            raise _one_for_many(again)
        seen.add(id(row))


def _says_something(row: Mapping[str, Any]) -> bool:
    """Whether a row has any value: an empty one loses nothing by being given again."""
    return any(value is not None for value in row.values())


def _one_for_many(again: int) -> SourceError:
    return SourceError(
        f"the function gave one and the same object for several rows ({again:,} too many), so what it held before is lost.",
        remedy="make a new dict for every row, as in rows.append(dict(row)).",
        system="function",
    )


def _copy_row(row: Mapping[str, Any]) -> dict[str, Any]:
    copied = dict(row)
    if not _CHANGEABLE.isdisjoint(map(type, copied.values())):
        copied = {name: _copy(value) for name, value in copied.items()}
    return copied


def _copy(value: Any) -> Any:
    """A copy of a value; only the containers of JSON are copied deeply."""
    kind = type(value)
    if kind is dict:
        return {name: _copy(item) for name, item in value.items()}
    if kind is list:
        return [_copy(item) for item in value]
    return kind(value) if kind in _CHANGEABLE else value


def is_page(item: Any) -> bool:
    """Whether an item holds more items."""
    alone = str | bytes | bytearray | pa.RecordBatch | pa.Table
    return isinstance(item, Iterable) and not isinstance(item, alone) and not is_row(item)


def is_lazy(item: Any) -> bool:
    """Whether its items come one by one, and only once."""
    return hasattr(item, "__next__") or hasattr(item, "__anext__")


class OneShots:
    """Remembers the iterators that a function returned, to notice one that comes again, used up."""

    def __init__(self) -> None:
        self._weak: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._held: dict[str, Any] = {}
        """The last iterator of each table that has no weak reference."""

    def check(self, table: str, given: Any) -> None:
        """Raise ``SourceError`` for an iterator that was returned before."""
        if not is_lazy(given):
            return
        if self._weak.get(id(given)) is given or any(held is given for held in self._held.values()):
            raise SourceError(
                f"the function that reads gave the same {type(given).__name__} a second time, and rows that it gave before do not come again.",
                remedy="let every call make a new iterator: each scan calls the function anew, and once more to learn the columns.",
                system="function",
            )
        try:
            self._weak[id(given)] = given
        except TypeError:
            self._held[table] = given
