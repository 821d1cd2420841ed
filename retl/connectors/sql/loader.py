"""What is really different between SQL targets: how rows reach the staging table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa

from retl.connectors.rows.rejects import RejectCollector
from retl.connectors.sql.session import Session
from retl.connectors.sql.statement import Step


class BulkLoader(ABC):
    """Stages the rows of a slice where nobody sees them: LOAD DATA, COPY, Arrow or pages into a temporary table.

    Staged rows are numbered by ``rowid``, in the order in which they came.
    """

    typed: ClassVar[bool]
    """Whether the stage has the target's types, so that two texts may be one value of a key."""
    names: Mapping[str, str]
    """The staging table's column for each column of a batch that is written."""

    @property
    @abstractmethod
    def table(self) -> str:
        """The staging table, as it stands in SQL."""

    @abstractmethod
    def create(self) -> Step[None]:
        """Make the staging table, or make it empty."""

    @abstractmethod
    def clear(self) -> Step[None]:
        """Remove all staged rows."""

    @abstractmethod
    def drop(self) -> Step[None]:
        """Remove the staging table."""

    @abstractmethod
    async def stage(self, session: Session, batch: pa.RecordBatch, rejects: RejectCollector) -> pa.RecordBatch:
        """Stage a batch; returns what was staged. A row that the target would take but change is rejected."""

    async def gather(self, session: Session) -> None:  # noqa: B027  # not abstract: most stage in one place
        """Before a merge: bring all staged rows into ``table``."""

    @abstractmethod
    def rows(self, where: str) -> Step[list[dict[str, Any]]]:
        """Some staged rows, by the names of the batches, as people are shown them."""
