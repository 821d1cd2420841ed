"""The words of a job file, besides those of tables and connectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec

from retl.connectors.base import Connector
from retl.model.alerts import Alert
from retl.model.duration import Duration
from retl.model.hooks import Hooks
from retl.model.options import TableOptions
from retl.model.table import Table


class StateWords(msgspec.Struct, kw_only=True, frozen=True):
    """Where checkpoints and leases live."""

    store: str | None = None
    """``"target"``, ``"sqlite:///path"`` or ``"memory"``."""


class PipelineOptions(TableOptions, kw_only=True, frozen=True):
    """What ``[defaults]`` sets for every pipeline, and a pipeline for itself."""

    interval: Duration | Literal["manual"] | None = None
    cron: str | None = None
    timezone: str | None = None
    jitter: Duration | None = None
    blacklist: Sequence[str] | None = None
    parallel_tables: Annotated[int, msgspec.Meta(ge=1)] | None = None
    keep_rejects: Duration | None = None
    lease_ttl: Duration | None = None
    stall_timeout: Duration | None = None
    channel_bytes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    alerts: Sequence[Alert] | None = None


class PipelineWords(PipelineOptions, kw_only=True, frozen=True):
    """One ``[pipelines.NAME]``."""

    source: Annotated[Connector, msgspec.Meta(extra={"role": "source"})]
    target: Annotated[Connector, msgspec.Meta(extra={"role": "target"})]
    tables: Annotated[Sequence[Table | str], msgspec.Meta(min_length=1)]
    hooks: Hooks | None = None
    """Statements before and after a run and each scan, in the source or the target: `[pipelines.NAME.hooks]`."""


Include = str | Sequence[str]
"""Files, folders and globs of job files."""


class JobFile(msgspec.Struct, kw_only=True, frozen=True):
    """A whole job file."""

    include: Include = ()
    state: StateWords = StateWords()
    defaults: PipelineOptions = PipelineOptions()
    pipelines: Mapping[str, PipelineWords] = {}
