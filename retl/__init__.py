"""retl keeps a target equal to what a source says, on a schedule, without losing or doubling a row.

The public names, and nothing else. No driver is imported before it is used.
"""

from retl.connectors.documents.embeddings.models import embed
from retl.engine.schedule import Cron, Interval, Manual, Schedule
from retl.host import Running, running
from retl.model import events
from retl.model.actions import Action, PreAction, Write
from retl.model.alerts import Alert, Notice
from retl.model.backfills import BackfillStatus
from retl.model.checkpoint import Checkpoint, Reject
from retl.model.documents import Chunks
from retl.model.embeddings import Budget, Embeddings, VectorIndex
from retl.model.errors import (
    ConfigError,
    ConnectionFailed,
    GuardStopped,
    HookFailed,
    LeaseLost,
    PermanentError,
    RepeatedKey,
    RetlError,
    RowsRejected,
    SchemaDrift,
    SourceError,
    StateError,
    TargetBusy,
    TargetError,
    TransientError,
    UnsupportedError,
)
from retl.model.hooks import SQL, BeforeRun, BeforeScan, Hooks
from retl.model.report import Progress, RunReport, ScanReport
from retl.model.secret import Secret, env, secret_file
from retl.model.status import PipelineStatus, Snapshot, TableSnapshot, TableStatus
from retl.model.steering import Sent
from retl.model.table import Table
from retl.pipeline import Finding, Pipeline, TablePlan
from retl.state.memory import MemoryStore
from retl.state.sqlite import SqliteStore
from retl.sync import InThread, in_thread

__all__ = [
    "SQL",
    "Action",
    "Alert",
    "BackfillStatus",
    "BeforeRun",
    "BeforeScan",
    "Budget",
    "Checkpoint",
    "Chunks",
    "ConfigError",
    "ConnectionFailed",
    "Cron",
    "Embeddings",
    "Finding",
    "GuardStopped",
    "HookFailed",
    "Hooks",
    "InThread",
    "Interval",
    "LeaseLost",
    "Manual",
    "MemoryStore",
    "Notice",
    "PermanentError",
    "Pipeline",
    "PipelineStatus",
    "PreAction",
    "Progress",
    "Reject",
    "RepeatedKey",
    "RetlError",
    "RowsRejected",
    "RunReport",
    "Running",
    "ScanReport",
    "Schedule",
    "SchemaDrift",
    "Secret",
    "Sent",
    "Snapshot",
    "SourceError",
    "SqliteStore",
    "StateError",
    "Table",
    "TablePlan",
    "TableSnapshot",
    "TableStatus",
    "TargetBusy",
    "TargetError",
    "TransientError",
    "UnsupportedError",
    "VectorIndex",
    "Write",
    "embed",
    "env",
    "events",
    "in_thread",
    "running",
    "secret_file",
]

__version__ = "0.1.0"
