"""What a pipeline is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from retl.connectors.base import Source, Target
from retl.engine.context import Limits
from retl.engine.tables import Tables
from retl.engine.timetable import Timetable
from retl.model.actions import Action
from retl.model.alerts import Alert, Send
from retl.model.hooks import Hooks
from retl.state.base import StateStore

PARALLEL_TABLES = 4
"""How many tables of one pipeline are scanned at once."""
KEEP_REJECTS = timedelta(days=90)
"""How long rejects are kept."""


@dataclass(frozen=True)
class PipelineConfig:
    """One pipeline: its checked words, its systems and its store."""

    name: str
    source: Source
    target: Target
    tables: Tables
    timetable: Timetable
    store: StateStore
    state_in_target: bool
    blacklist: frozenset[Action]
    limits: Limits
    lease_ttl: float
    stall_timeout: float = 0.0
    parallel_tables: int = PARALLEL_TABLES
    keep_rejects: timedelta = KEEP_REJECTS
    alerts: tuple[tuple[Alert, Send], ...] = ()
    """Each with what delivers its notices."""
    hooks: Hooks = field(default_factory=Hooks)

    @property
    def scans_at_once(self) -> int:
        """How many tables are scanned at once: one if the target takes one writer, as a file does."""
        return 1 if self.target.one_writer else self.parallel_tables
