"""The staging table of a load, and how rows reach it: the part that differs most between SQL targets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from retl.connectors.rows.rejects import RejectCollector
from retl.connectors.sql.session import Session
from retl.connectors.sql.statement import Statement, Step


class Stage(ABC):
    """A staging table, which belongs to one load and is invisible to others."""

    typed: bool
    """Whether it has the target's types, so that two different texts may be one key."""
    row: str = "rowid"
    """The column that numbers the staged rows in the order in which they came."""
    names: Mapping[str, str]
    """Its column for each written column of a batch."""

    @property
    @abstractmethod
    def table(self) -> str:
        """Its name, as it stands in SQL."""

    @abstractmethod
    def create(self) -> Step[None]:
        """Create it, or empty it."""

    @abstractmethod
    def clear(self) -> Step[None]:
        """Remove all staged rows."""

    @abstractmethod
    def drop(self) -> Step[None]:
        """Remove the table."""

    @abstractmethod
    def rows(self, where: str) -> Step[list[dict[str, Any]]]:
        """Some staged rows for people, by the column names of batches."""

    def remove(self, numbers: str) -> Step[int]:
        """Remove the rows whose numbers a query of the stage gives; returns how many they were."""
        return int((yield Statement(f"DELETE FROM {self.table} WHERE {self.row} IN ({numbers})")))


class BulkLoader(Stage):
    """Stages the rows of a slice: COPY, Arrow or pages into a temporary table."""

    @abstractmethod
    async def stage(self, session: Session, batch: pa.RecordBatch, rejects: RejectCollector) -> pa.RecordBatch:
        """Stage a batch; returns the staged rows of it. Rejects a row that the target would change."""

    async def gather(self, session: Session) -> None:  # not abstract: most loaders stage in one place
        """Before a merge: bring all staged rows into ``table``."""
