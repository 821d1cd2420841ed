"""The tables of a store in a SQL system, and their version."""

from __future__ import annotations

from dataclasses import dataclass

from retl.model.errors import StateError
from retl.state.base import STATE_VERSION
from retl.state.statement import Statement, Step


@dataclass(frozen=True)
class StateDialect:
    """How a system spells the store's tables."""

    key_type: str = "TEXT"
    text_type: str = "TEXT"
    integer_type: str = "BIGINT"
    real_type: str = "DOUBLE PRECISION"
    name_type: str = ""
    """For texts of up to 1,024 bytes in a key, ordered by their bytes; ``key_type`` if unset."""
    table_suffix: str = ""

    def create(self) -> list[str]:
        """The DDL of the store. Safe to run again."""
        key, text, integer, real = self.key_type, self.text_type, self.integer_type, self.real_type
        tables = {
            "retl_meta": f"name {key} NOT NULL PRIMARY KEY, value {text} NOT NULL",
            "retl_checkpoints": (
                f"pipeline {key} NOT NULL, table_name {key} NOT NULL, watermark {text}, body {text} NOT NULL, "
                f"epoch {integer} NOT NULL, updated_at {text} NOT NULL, PRIMARY KEY (pipeline, table_name)"
            ),
            "retl_manifest": (
                f"pipeline {key} NOT NULL, table_name {key} NOT NULL, name {self.name_type or key} NOT NULL, body {text} NOT NULL, "
                "PRIMARY KEY (pipeline, table_name, name)"
            ),
            "retl_leases": (
                f"pipeline {key} NOT NULL PRIMARY KEY, owner {text}, epoch {integer} NOT NULL, beat {integer} NOT NULL, ttl {real} NOT NULL"
            ),
            "retl_claims": (
                f"pipeline {key} NOT NULL, table_name {key} NOT NULL, target {key} NOT NULL, replaces {integer} NOT NULL, "
                "PRIMARY KEY (pipeline, table_name)"
            ),
            "retl_alerts": f"pipeline {key} NOT NULL PRIMARY KEY, body {text} NOT NULL",
            "retl_rejects": (
                f"pipeline {key} NOT NULL, table_name {key} NOT NULL, row_key {key} NOT NULL, rejected_at {key} NOT NULL, "
                f"reason {text} NOT NULL, body {text} NOT NULL, PRIMARY KEY (pipeline, table_name, row_key)"
            ),
            "retl_scans": (
                f"pipeline {key} NOT NULL, table_name {key} NOT NULL, scan_id {key} NOT NULL, started_at {key} NOT NULL, "
                f"status {text} NOT NULL, body {text} NOT NULL, PRIMARY KEY (pipeline, table_name, scan_id)"
            ),
            "retl_steering": f"pipeline {key} NOT NULL PRIMARY KEY, revision {integer} NOT NULL, body {text} NOT NULL",
        }
        return [f"CREATE TABLE IF NOT EXISTS {name} ({columns}){self.table_suffix}" for name, columns in tables.items()]


STATE_TABLES = (
    "retl_meta",
    "retl_checkpoints",
    "retl_manifest",
    "retl_leases",
    "retl_claims",
    "retl_alerts",
    "retl_rejects",
    "retl_scans",
    "retl_steering",
)
"""The tables that a store inside a target adds to it; never listed as tables to sync. The last one is made last."""


def check_version() -> Step[None]:
    """Refuse a store of a newer retl; stamp a new one."""
    rows = yield Statement("SELECT value FROM retl_meta WHERE name = 'version'", rows=True)
    if not rows:
        yield Statement("INSERT INTO retl_meta (name, value) VALUES ('version', ?)", (str(STATE_VERSION),))
    elif not str(rows[0][0]).isdigit():
        raise StateError(
            f"the state store says its version is {rows[0][0]!r}.",
            remedy="restore it from a backup; or, if no newer retl has ever used it, run in its database: "
            f"UPDATE retl_meta SET value = '{STATE_VERSION}' WHERE name = 'version'",
        )
    elif int(rows[0][0]) > STATE_VERSION:
        raise StateError(
            f"the state store is of version {rows[0][0]}, but this retl knows versions up to {STATE_VERSION}.",
            remedy="upgrade retl, or name another store.",
        )
