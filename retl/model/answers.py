"""What systems answer: who they are, what a commit did, how a table stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from retl.model.checkpoint import Reject


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """Who answered a ``ping``."""

    product: str
    version: str
    detail: str = ""
    warnings: tuple[str, ...] = ()
    """What people should know of the way there: a login that others may read."""


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What one commit did. Every row that was given to it is counted in one of these, where the target can tell."""

    rows: int
    """Rows that were staged: written, unchanged, older, dropped and rejected ones together."""
    changed: int | None = None
    """Rows inserted or changed, where the target tells."""
    rejects: Sequence[Reject] = ()
    unchanged: int | None = None
    """Rows that the target held already, byte for byte, where it tells."""
    older: int = 0
    """Rows left out because the target holds a newer version of them."""
    dropped: int = 0
    """Rows that the target acknowledged and, by a rule of its own, did not keep: an ingest pipeline that drops."""


@dataclass(frozen=True, slots=True)
class TargetTable:
    """A table of the target as it stands before a scan, to compare with what the checkpoint remembers."""

    exists: bool
    empty: bool
    identity: str | None = None
    """What names this very table, and changes when it is dropped and made again; ``None`` where the system has no such thing."""
    columns: pa.Schema | None = field(default=None, compare=False)
    """As ``describe`` tells them, where they were found on the way."""
    extremes: tuple[str, str] | None = field(default=None, compare=False)
    """The lowest and the highest text of the column that was asked for: see ``Target.inspect_column``."""
    outdated: str | None = None
    """Why the next scan must read everything, whatever its checkpoint says: see ``Target.look``."""


class ScanAgain(Exception):  # no error: the scan goes on
    """Raised by ``SourceScan.slices`` at their end: the table has to become another one before the rest can be read.

    What is committed stays, a shadow goes. The checkpoint then holds ``detail`` too, and the source is asked again.
    """

    def __init__(self, detail: Mapping[str, Any]) -> None:
        super().__init__("the source has learned what the rest of the scan needs")
        self.detail = detail
