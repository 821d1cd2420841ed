"""Which tables a run scans."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from retl.connectors.base import Source
from retl.engine.arguments import listed
from retl.engine.backfill import backfill_spec
from retl.engine.tables import Tables
from retl.model.errors import ConfigError
from retl.model.naming import matching
from retl.model.range import Bound, CursorRange
from retl.model.table import TableSpec
from retl.model.typed import wrong_type


@dataclass(frozen=True)
class Wanted:
    """All tables of a pipeline, those of a schedule, or those of some names."""

    names: frozenset[str] | None = None
    among: Callable[[str], bool] | None = None
    """Those, of all, that a schedule scans."""
    declared: tuple[str, ...] | None = None
    """The names and patterns of these tables; ``None`` for all of them."""
    range: CursorRange | None = None
    """The range of the cursor that is read again, of a backfill."""
    asked: str | None = None
    """The request that the backfill answers, if it was sent to the owner."""

    def has(self, table: str) -> bool:
        """Whether a table is one of them."""
        if self.names is None:
            return self.among is None or self.among(table)
        return table in self.names

    def narrowed(self, spec: TableSpec, source: Source) -> TableSpec:
        """A table as it is to be scanned. Raises ``ConfigError`` for a backfill that cannot be."""
        return spec if self.range is None else backfill_spec(spec, self.range, source)

    def absent(self, found: Iterable[str]) -> list[str]:
        """The names that were not found, sorted."""
        return sorted((self.names or frozenset()).difference(found))

    def concerns(self, error: Exception, absent: Sequence[str]) -> bool:
        """Whether an error of a table, or of a pattern, is one of these tables, of which some are ``absent``."""
        place = getattr(error, "table", None)
        if self.names is None:
            return not place or self.has(place)
        return not place or place in self.names or bool(matching(place, absent))


def wanted_tables(tables: Tables, names: Iterable[str] | None) -> Wanted:
    """The tables of these names; all of them for ``None``. Raises ``ConfigError`` for a name that is not declared."""
    if names is None:
        return Wanted()
    wanted = list(listed("tables", names))
    if not wanted:
        raise ConfigError("tables is empty.", remedy="name at least one, or leave it out for all of them.")
    for name in wanted:
        if not isinstance(name, str):
            raise wrong_type("the name of a table", name, 'text, such as "orders"')
        if not tables.declares(name):
            raise ConfigError(f"the pipeline has no table {name!r}.", remedy=f"it has {tables.in_words()}.")
    return Wanted(frozenset(wanted), declared=tuple(sorted(wanted)))


def wanted_range(tables: Tables, table: str, since: Bound | None, until: Bound | None) -> Wanted:
    """A range of the cursor of one table. Raises ``ConfigError`` for a name that is not declared, and for ends that are none."""
    return replace(wanted_tables(tables, [table]), range=CursorRange.of(since, until))


def not_offered(pipeline: str, table: str) -> ConfigError:
    """The error of a table that a pattern allows, and the source does not have."""
    return ConfigError(
        f"the source has no table {table!r}, or this pipeline does not read it.",
        remedy="see `retl tables` for what there is.",
        pipeline=pipeline,
        table=table,
    )
