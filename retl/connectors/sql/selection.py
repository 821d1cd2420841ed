"""The SELECT statements of a scan, built from a table's declaration. No I/O."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

import pyarrow as pa

from retl.connectors.sql.dialect import Dialect
from retl.model.actions import Write
from retl.model.cursor import CursorFamily
from retl.model.errors import ConfigError
from retl.model.schema import TableSchema, missing
from retl.model.table import TableSpec
from retl.model.window import Slice, Window


@dataclass(frozen=True)
class Relation:
    """The FROM clause, with its columns and key under the source's names."""

    sql: str
    schema: TableSchema


@dataclass(frozen=True)
class Selection:
    """The columns of a scan: source expression and target name of each, in order."""

    dialect: Dialect
    relation: Relation
    table: TableSpec
    names: tuple[str, ...]

    def expression(self, name: str) -> str:
        computed = self.table.expressions.get(name)
        # A user's text ends with a new line, since it may end in a comment.
        return f"({computed}\n)" if computed is not None else self.dialect.identifier(name)

    def raw(self) -> str:
        """A SELECT of everything chosen, under the target's names, as the source types it."""
        return f"SELECT {self._list(self.expression)} FROM {self.relation.sql}{self._where()}"

    def _list(self, expression: Callable[[str], str]) -> str:
        return ", ".join(f"{expression(name)}{self.dialect.alias(self.table.target_name(name))}" for name in self.names)

    def _where(self, *conditions: str) -> str:
        every = [f"({self.table.where}\n)"] if self.table.where else []
        every.extend(conditions)
        return f" WHERE {' AND '.join(every)}" if every else ""

    def rows(self, schema: pa.Schema, slice_: Slice) -> str:
        """The SELECT that reads one slice; ``schema`` names the target's columns with their logical types."""

        def select(name: str) -> str:
            return self.dialect.select_expression(schema.field(self.table.target_name(name)), self.expression(name))

        return f"SELECT {self._list(select)} FROM {self.relation.sql}{self._where(*self._slice(slice_))}"

    def _slice(self, slice_: Slice) -> list[str]:
        conditions: list[str] = []
        if self.table.cursor is not None:
            cursor = self.dialect.identifier(self.table.cursor)
            column = self.relation.schema.columns.field(self.table.cursor)
            if slice_.nulls:
                conditions.append(f"{cursor} IS NULL")
            if slice_.lower is not None:
                above = f"> {self.dialect.literal(slice_.lower, column)}"
                conditions.append(
                    f"{cursor} {above if slice_.lower_exclusive else f'>= {self.dialect.lowest(slice_.lower, column)}'}"
                )
            if slice_.upper is not None:
                conditions.append(f"{cursor} <= {self.dialect.literal(slice_.upper, column)}")
        if slice_.modulus > 1:
            conditions.append(self.dialect.hash_condition(self.hashed(), slice_.remainder, slice_.modulus))
        return conditions

    def hashed(self) -> list[str]:
        """The columns whose hash cuts a range of rows with one cursor value."""
        stored = [name for name in self.table.key if self.relation.schema.has(name)]
        return stored or list(self.relation.schema.key or self.relation.schema.names)

    def bounds(self, cursor: pa.Field, lower: str | None = None, below: str | None = None) -> str:
        """Of the rows from ``lower`` on and below ``below``, in one statement: lowest and highest cursor value, how many rows of the table have
        none, the source's clock, the number of rows, and the lowest and highest bucket number."""
        name, relation = self.dialect.identifier(cursor.name), self.relation.sql
        ends = (("<", below), (">=", lower))
        within = [f"{name} {sign} {self.dialect.lowest(end, cursor)}" for sign, end in ends if end is not None]
        if self.dialect.has_indexes and self.table.query is None:
            # Each part by itself is a look into an index, where there is one.
            null = f"(SELECT COUNT(*) FROM {relation}{self._where(f'{name} IS NULL')})" if cursor.nullable else "0"
            value, where = name, self._where(*within)
        else:
            null, where = f"COUNT(*) - COUNT({name})", self._where()
            value = f"CASE WHEN {' AND '.join(within)} THEN {name} END" if within else name
        extremes = [self.dialect.as_text(f"{end}({value})") for end in ("MIN", "MAX")]
        buckets = self._buckets(cursor, f"MIN({value})", f"MAX({value})")
        every = [*extremes, null, self.dialect.now(cursor), f"COUNT({value})", *buckets]
        return f"SELECT {', '.join(every)} FROM {relation}{where}"

    def _buckets(self, cursor: pa.Field, *values: str) -> list[str]:
        return [self.dialect.bucket_number(cursor, value) or "NULL" for value in values]

    def odd_value(self, cursor: pa.Field, lowest: str, other: str, start: str | None) -> str:
        """One cursor value ``c`` that a condition holds for: ``lowest`` for the lowest, ``other`` for one from ``start`` on."""
        name, relation = self.dialect.identifier(cursor.name), self.relation.sql
        first = f"SELECT MIN({name}) AS c FROM {relation}{self._where()}"
        some = self._where(
            f"{name} IS NOT NULL" if start is None else f"{name} >= {self.dialect.literal(start, cursor)}"
        )
        rest = f"SELECT {name} AS c FROM {relation}{some}"
        return (
            f"SELECT c FROM ({first}) AS a WHERE {lowest} UNION ALL SELECT c FROM ({rest}) AS b WHERE {other} LIMIT 1"
        )

    def count(self, slice_: Slice | None = None) -> str:
        """Rows of one slice, or of everything."""
        return f"SELECT COUNT(*) FROM {self.relation.sql}{self._where(*(self._slice(slice_) if slice_ else []))}"

    def totals(self, window: Window, cursor: pa.Field) -> str:
        """Rows of a window, and the extremes of their bucket numbers."""
        name = self.dialect.identifier(cursor.name)
        numbers = ["COUNT(*)", *self._buckets(cursor, f"MIN({name})", f"MAX({name})")]
        return f"SELECT {', '.join(numbers)} FROM {self.relation.sql}{self._where(*self._window(window))}"

    def _window(self, window: Window) -> list[str]:
        return self._slice(
            Slice(index=0, lower=window.lower, upper=window.upper, lower_exclusive=window.lower_exclusive)
        )

    def histogram(self, window: Window, cursor: pa.Field, low: int, high: int, width: int) -> str:
        """``(highest value, rows, whether all share one value)`` of each bucket that has rows, ascending."""
        name = self.dialect.identifier(cursor.name)
        bucket = self.dialect.bucket_number(cursor, name)
        number = self.dialect.divide(f"({bucket} - ({low}))", width)
        conditions = [*self._window(window), f"{bucket} BETWEEN {low} AND {high}"]
        return (
            f"SELECT {self.dialect.as_text(f'MAX({name})')}, COUNT(*), MIN({name}) = MAX({name}), MIN({bucket}), MAX({bucket}) "
            f"FROM {self.relation.sql}{self._where(*conditions)} GROUP BY {number} ORDER BY {number}"
        )

    def exact_histogram(self, window: Window, cursor: pa.Field, slice_rows: int) -> str:
        """The same for values that are not numbers: count every distinct value."""
        name = self.dialect.identifier(cursor.name)
        running = self.dialect.divide(
            "(SUM(n) OVER (ORDER BY c ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) - 1)", slice_rows
        )
        return (
            f"SELECT {self.dialect.as_text('MAX(c)')}, SUM(n) FROM (SELECT c, n, {running} AS s FROM "
            f"(SELECT {name} AS c, COUNT(*) AS n FROM {self.relation.sql}{self._where(*self._window(window))} "
            f"GROUP BY {name}) AS counted) AS numbered GROUP BY s ORDER BY s"
        )


def choose(dialect: Dialect, relation: Relation, table: TableSpec) -> Selection:
    """Check a table's words against its real columns. Raises ``ConfigError``."""
    have = relation.schema.names
    _check_exclude(relation, table)
    left_out = set(table.exclude)
    unasked = left_out | relation.schema.hidden.difference(table.rename, table.key, [table.cursor])
    names = list(table.columns) if table.columns is not None else [name for name in have if name not in unasked]
    names.extend(missing(table.expressions, names))
    real = [name for name in names if name not in table.expressions]
    _require(real, have, "columns")
    for word, wanted in (("rename", table.rename), ("key", table.key)):
        _require(wanted, [*names, *table.exclude], word)
        _check_left_out(wanted, left_out.difference(names), word)
    if table.cursor is not None:
        _require([table.cursor], have, "cursor")
        _check_left_out([table.cursor], left_out, "cursor")
    if not names:
        raise ConfigError("exclude leaves out every column: there would be nothing to read.")
    doubled = sorted(name for name, times in Counter(map(table.target_name, names)).items() if times > 1)
    if doubled:
        raise ConfigError(
            f"two columns would have the name {doubled[0]!r} in the target.", remedy="rename one of them."
        )
    return Selection(dialect, relation, table, tuple(names))


def _check_exclude(relation: Relation, table: TableSpec) -> None:
    """Excluded columns must exist, and the source's key must stay whole."""
    _require(table.exclude, relation.schema.names, "exclude")
    if not table.key and table.write is Write.UPSERT:
        _check_left_out(relation.schema.key, set(table.exclude), "the source's key")


def _check_left_out(wanted: Iterable[str], left_out: Set[str], word: str) -> None:
    absent = next((name for name in wanted if name in left_out), None)
    if absent is not None:
        raise ConfigError(
            f"{word} needs {absent!r}, which exclude leaves out.", remedy=f"take {absent!r} out of exclude."
        )


def _require(wanted: Iterable[str], have: Sequence[str], word: str) -> None:
    absent = missing(wanted, have)
    if not absent:
        return
    close = difflib.get_close_matches(absent[0], have, n=1)
    hint = (
        f"did you mean {close[0]!r}?" if close else f"it has {', '.join(have[:20])}{' ...' if len(have) > 20 else ''}."
    )
    raise ConfigError(f"{word} names {absent[0]!r}, which the source table does not have.", remedy=hint)


def cursor_column(chosen: Selection) -> tuple[pa.Field, CursorFamily]:
    """The cursor's column and its kind. Raises ``ConfigError`` if it cannot order change."""
    column = chosen.relation.schema.columns.field(chosen.table.cursor)
    family = chosen.dialect.family(column)
    if family is None:
        raise ConfigError(
            f"the cursor {chosen.table.cursor!r} is of type {column.type}, which does not order change.",
            remedy="choose a column of time (or a whole number that only grows), or cursor = false for full scans.",
        )
    return column, family
