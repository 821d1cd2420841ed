"""A table of the target, as the shared room and a merge know it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

from retl.connectors.postgres.catalog import CatalogTable, Column, Index
from retl.connectors.sql.tables import ExistingTable

_WHOLE = frozenset({"smallint", "integer", "bigint"})


@dataclass(frozen=True)
class PostgresTable(ExistingTable):
    """A table with all that the catalog tells of it; ``None`` for one that does not exist yet."""

    catalog: CatalogTable | None = None

    @classmethod
    def of(cls, catalog: CatalogTable) -> PostgresTable:
        """``keys`` hold those of a partitioned table without the columns that only choose the partition, too."""
        existing = catalog.existing()
        plain: dict[str, Any] = {name.name: getattr(existing, name.name) for name in fields(ExistingTable)}
        chosen = frozenset(filter(None, catalog.partitioned_by))
        shorter = [key - chosen for key in plain["keys"] if key - chosen]
        return cls(**{**plain, "keys": tuple(dict.fromkeys([*plain["keys"], *shorter]))}, catalog=catalog)

    def column(self, name: str) -> Column | None:
        return next((column for column in self._columns if column.name == name), None)

    @property
    def _columns(self) -> list[Column]:
        return self.catalog.columns if self.catalog else []

    @property
    def indexes(self) -> list[Index]:
        """The unique ones that ON CONFLICT can use."""
        return [index for index in self.catalog.indexes if index.arbiter] if self.catalog else []

    def arbiter(self, key: Sequence[str]) -> Index | None:
        """The unique index that finds rows by this key: over it, or over it and columns that choose the partition."""
        chosen = frozenset(filter(None, self.catalog.partitioned_by)) if self.catalog else frozenset[str]()
        fitting = [index for index in self.indexes if set(key) <= set(index.columns) <= set(key) | chosen]
        return min(fitting, key=lambda index: len(index.columns), default=None)

    def identities(self, names: Collection[str]) -> list[str]:
        """Those of some columns that are GENERATED ALWAYS AS IDENTITY."""
        return [column.name for column in self._columns if column.identity == "a" and column.name in names]

    def is_loose(self, name: str) -> bool:
        """Whether a column calls texts equal that are spelled differently."""
        found = self.column(name)
        return found is not None and (found.base == "citext" or not found.deterministic)

    def is_numbered(self, name: str) -> bool:
        """Whether a sequence may belong to a column."""
        found = self.column(name)
        return found is not None and bool(found.identity or (found.has_default and found.base in _WHOLE))

    @property
    def is_blank(self) -> bool:
        """Whether it has never held a row; one that does not exist yet has not."""
        return self.catalog is None or self.catalog.blank

    @property
    def defers(self) -> bool:
        """Whether a constraint may be checked as late as at the commit."""
        catalog = self.catalog
        if catalog is None:
            return False
        keys = (*catalog.parents, *catalog.children)
        return any(key.deferrable for key in keys) or not all(index.immediate for index in catalog.indexes)

    @property
    def refers_to_itself(self) -> bool:
        """Whether a foreign key of the table refers to the table."""
        catalog = self.catalog
        own = (catalog.schema, catalog.table) if catalog else None
        return catalog is not None and any((key.schema, key.table) == own for key in catalog.parents)
