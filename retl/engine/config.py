"""What a pipeline is made of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from retl.connectors.base import Source, Target
from retl.engine.context import Limits
from retl.engine.schedule import Schedule
from retl.engine.tables import Tables
from retl.model.actions import Action
from retl.state.base import StateStore

KEEP_REJECTS = timedelta(days=90)
"""How long refused rows are kept."""


@dataclass(frozen=True)
class PipelineConfig:
    """One pipeline, every word of it checked and every system opened."""

    name: str
    source: Source
    target: Target
    tables: Tables
    schedule: Schedule
    store: StateStore
    state_in_target: bool
    blacklist: frozenset[Action]
    limits: Limits
    lease_ttl: float
    keep_rejects: timedelta = KEEP_REJECTS
