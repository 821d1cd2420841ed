"""How rows reach the staging table: the part that differs most between SQL targets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa

from retl.connectors.rows.rejects import RejectCollector
from retl.connectors.sql.session import Session
from retl.connectors.sql.statement import Step


class BulkLoader(ABC):
    """Stages the rows of a slice invisibly: LOAD DATA, COPY, Arrow or pages into a temporary table.

    ``rowid`` numbers the staged rows in the order in which they came.
    """

    typed: ClassVar[bool]
    """Whether the stage has the target's types, so that two different texts may be one key."""
    names: Mapping[str, str]
    """The staging table's column for each written column of a batch."""

    @property
    @abstractmethod
    def table(self) -> str:
        """The staging table, as it stands in SQL."""

    @abstractmethod
    def create(self) -> Step[None]:
        """Create the staging table, or empty it."""

    @abstractmethod
    def clear(self) -> Step[None]:
        """Remove all staged rows."""

    @abstractmethod
    def drop(self) -> Step[None]:
        """Remove the staging table."""

    @abstractmethod
    async def stage(self, session: Session, batch: pa.RecordBatch, rejects: RejectCollector) -> pa.RecordBatch:
        """Stage a batch; returns the number of staged rows. Rejects a row that the target would change."""

    async def gather(self, session: Session) -> None:  # noqa: B027  # not abstract: most loaders stage in one place
        """Before a merge: bring all staged rows into ``table``."""

    @abstractmethod
    def rows(self, where: str) -> Step[list[dict[str, Any]]]:
        """Some staged rows for people, by the column names of batches."""
