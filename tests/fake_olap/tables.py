"""A table as its CREATE TABLE made it: columns, key model, partitions with their versions, tablets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tests.fake_olap.types import Type

MODELS = {"DUPLICATE": "DUP_KEYS", "AGGREGATE": "AGG_KEYS", "UNIQUE": "UNQ_KEYS", "PRIMARY": "PRI_KEYS"}
# What information_schema.columns says of a key column.
COLUMN_KEYS = {"DUPLICATE": "DUP", "AGGREGATE": "AGG", "UNIQUE": "UNI", "PRIMARY": "PRI"}

UNITS = {"hour": "%Y%m%d%H", "day": "%Y%m%d", "month": "%Y%m", "year": "%Y"}


@dataclass
class Column:
    name: str
    type: Type
    key: bool = False
    aggregate: str = ""
    nullable: bool = True
    default: str | None = None
    comment: str = ""
    generated: str = ""


@dataclass
class Partition:
    """A part of a table: ``predicate`` chooses its rows, in the SQL of DuckDB."""

    id: int
    name: str
    predicate: str
    values: str
    tablets: list[int]
    version: int = 1
    temporary: bool = False
    changed: datetime = field(default_factory=lambda: now())

    def change(self) -> None:
        self.version += 1
        self.changed = now()


@dataclass
class Table:
    database: str
    name: str
    id: int
    columns: list[Column]
    model: str
    keys: list[str]
    partition_by: list[str]
    # Set where partitions come into being with the rows: the unit of date_trunc, or "" for one per value.
    automatic: str | None
    partitions: list[Partition]
    distribution: list[str]
    buckets: int
    sort_keys: list[str]
    comment: str
    created: datetime = field(default_factory=lambda: now())
    rows: int = 0

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name.lower() == name.lower()), None)

    def partition(self, name: str) -> Partition | None:
        return next((part for part in self.partitions if part.name.lower() == name.lower()), None)

    @property
    def replaces(self) -> bool:
        """A row of a key that is there already takes its place."""
        return self.model in {"PRIMARY", "UNIQUE"}

    def tablet(self, number: int) -> str | None:
        """The predicate that chooses the rows of a tablet."""
        for part in self.partitions:
            if number in part.tablets:
                bucket = part.tablets.index(number)
                hashed = ", ".join(quoted(name) for name in self.distribution) or "rowid"
                return f"({part.predicate}) AND hash({hashed}) % {len(part.tablets)} = {bucket}"
        return None

    def grow(self, values: tuple[object, ...], number: Callable[[], int]) -> None:
        """Add the partition that a row's partition values call for, where partitions come by themselves."""
        assert self.automatic is not None
        names = [quoted(name) for name in self.partition_by]
        if self.automatic:
            (moment,) = values
            if moment is None:
                name, predicate, text = "pNULL", f"{names[0]} IS NULL", "(NULL)"
            else:
                start = datetime.fromisoformat(str(moment))
                end = after(start, self.automatic, 1)
                name = f"p{start.strftime(UNITS[self.automatic])}"
                predicate, text = _between(names[0], start.isoformat(" "), end.isoformat(" "))
        else:
            name = "p" + "_".join("NULL" if value is None else str(value).replace("-", "") for value in values)
            pairs = zip(names, values, strict=True)
            predicate = " AND ".join(f"{n} IS NOT DISTINCT FROM {literal(v)}" for n, v in pairs)
            text = f"({', '.join(literal(value) for value in values)})"
        if self.partition(name) is None:
            tablets = [number() for _ in range(self.buckets)]
            self.partitions.append(Partition(number(), name, predicate, text, tablets))


def whole(number: Callable[[], int], name: str, buckets: int) -> Partition:
    """The one partition of a table without PARTITION BY, which bears the name of the table."""
    return Partition(number(), name, "true", "", [number() for _ in range(buckets)])


def ranges(column: str, lower: str | None, upper: str | None) -> tuple[str, str]:
    """The predicate of a range partition, and how it is shown."""
    name = quoted(column)
    if lower is not None and upper is not None:
        return _between(name, lower, upper)
    # NULL belongs to the lowest range.
    if upper is not None:
        return f"({name} < '{upper}' OR {name} IS NULL)", _shown("MIN", upper)
    if lower is not None:
        return f"{name} >= '{lower}'", _shown(lower, "MAX")
    return "true", _shown("MIN", "MAX")


def after(start: datetime, unit: str, count: int) -> datetime:
    match unit:
        case "hour" | "day" | "week":
            return start + count * timedelta(**{f"{unit}s": 1})
        case "month":
            months = start.year * 12 + start.month - 1 + count
            return start.replace(year=months // 12, month=months % 12 + 1)
    return start.replace(year=start.year + count)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(value: object) -> str:
    return "NULL" if value is None else "'" + str(value).replace("'", "''") + "'"


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


def _between(name: str, lower: str, upper: str) -> tuple[str, str]:
    return f"({name} >= '{lower}' AND {name} < '{upper}')", _shown(lower, upper)


def _shown(lower: str, upper: str) -> str:
    return f"[types: [DATETIME]; keys: [{lower}]; ..types: [DATETIME]; keys: [{upper}]; )"
