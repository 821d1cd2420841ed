"""Check a target table before anything is written to it."""

from __future__ import annotations

import sys

from retl.connectors.mysql.catalog import DIALECT, Inspection, MySQLTable
from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.errors import TargetRefused, server_error
from retl.connectors.mysql.prepared import respells
from retl.connectors.mysql.types import length
from retl.connectors.sql.tables import TableName
from retl.model.actions import PreAction, Write
from retl.model.errors import ConfigError, UnsupportedError
from retl.model.plan import WriteSpec
from retl.model.schema import native_type

_LONGEST_NAME = 64
_TABLES = ("BASE TABLE", "SYSTEM VERSIONED")


def slow_inserts(why_not: str) -> str:
    """A warning; ``why_not``: the reason, unless it is the server's setting."""
    if why_not:
        return (
            f"LOAD DATA LOCAL is refused ({why_not[:200]}), so rows are sent by INSERT, which is 2 to 3 times slower; a pooler may "
            "have to be told to let it pass."
        )
    return (
        "the server does not take LOAD DATA LOCAL (local_infile is off), so rows are sent by INSERT, which is 2 to 3 times slower; "
        "SET GLOBAL local_infile = ON there makes it faster."
    )


def check_server(connection: MySQLConnection, found: Inspection) -> list[str]:
    """Warnings about the server's settings. Raises ``ConfigError`` if nothing can be written."""
    if found.logs_statements:
        raise server_error(1665, "binlog_format is STATEMENT", "target", connection.place)
    if not found.has_database:
        database = str(found.name.schema)
        raise ConfigError(
            f"the target has no database {database!r}.",
            remedy=f"create it there: CREATE DATABASE {database} CHARACTER SET utf8mb4.",
        )
    if not found.read_only:
        return []
    return ["the server is read only now (read_only): most users cannot write there. Is it the right one?"]


def check_names(place: TableName, spec: WriteSpec) -> None:
    """Refuse impossible and reserved names."""
    odd = next((name for name in (place.name, *spec.schema.names) if max(name, default="") > "\uffff"), None)
    if odd is not None:
        raise ConfigError(
            f"the name {odd!r} has a character that no name can have here: MySQL would write ? for it.",
            remedy="give the table another name with to, or the column with rename.",
        )
    if place.name.lower().startswith(("retl_", "_retl_")):
        raise ConfigError(f"{place.name!r} is a reserved name.", remedy="choose another name with to.")
    if len(place.name) > _LONGEST_NAME:
        raise ConfigError(
            f"{place.name!r} has more than {_LONGEST_NAME} characters.", remedy="choose a shorter name with to."
        )


def check(spec: WriteSpec, name: TableName, known: MySQLTable) -> list[str]:
    """Warnings about a table. Raises ``UnsupportedError`` if it cannot be written in the requested way."""
    shown, pre_action = spec.table.to, spec.table.pre_action
    if known.kind not in _TABLES:
        raise UnsupportedError(
            f"{shown!r} is a {known.kind.lower()}, which cannot be written.", remedy="name a table with to."
        )
    if known.engine.lower() != "innodb":
        raise UnsupportedError(
            f"{shown!r} is kept by {known.engine}, which has no transactions: a crash would leave half a slice.",
            remedy=f"ALTER TABLE {shown} ENGINE=InnoDB, or name another table with to.",
        )
    exchanges = spec.table.replaces and pre_action is not PreAction.MIRROR
    if exchanges and known.versioned:
        raise UnsupportedError(
            f"{shown!r} is system-versioned: to empty or exchange it would lose its history.",
            remedy='use pre_action = "mirror" or "none", which write only what changed, or name another table with to.',
        )
    if exchanges and known.children:
        raise UnsupportedError(
            f"{known.children[0]!r} has a foreign key to {shown!r}, so it can be neither emptied nor exchanged: "
            "the key would stop it, or follow the table that is renamed away.",
            remedy='use pre_action = "mirror", which changes rows alone; or drop the foreign key.',
        )
    warnings: list[str] = []
    if pre_action is PreAction.MIRROR:
        warnings.append(
            "how many rows a mirror deletes is known when the source was read, and before any is deleted: max_shrink limits them."
        )
    if pre_action in (PreAction.RENAME_AND_CREATE, PreAction.SWAP):
        if known.parents:
            raise UnsupportedError(
                f"{shown!r} has a foreign key to {known.parents[0]!r}, which a table made like it would lack.",
                remedy='drop the foreign key, or use pre_action = "mirror".',
            )
        if known.triggers:
            raise UnsupportedError(
                f"{shown!r} has the trigger {known.triggers[0]!r}, which would follow the table that is renamed away.",
                remedy='drop the trigger, or use pre_action = "mirror".',
            )
        if not known.sees_triggers:
            raise ConfigError(
                f"the user may not see the triggers of {shown!r}, which would follow the table that is renamed away.",
                remedy=f"GRANT TRIGGER ON `{name.schema}`.* to the user, by which they are seen; "
                'or use pre_action = "mirror".',
            )
    elif known.triggers:
        warnings.append(
            f"{shown!r} has triggers ({', '.join(known.triggers)}), which fire for every row that is written."
        )
    elif exchanges and not known.sees_triggers:
        warnings.append(
            f"the user may not see the triggers of {shown!r}, so one connection loads it; GRANT TRIGGER makes it two."
        )
    warnings += _narrow(spec, name, known)
    loose = _loose_key(spec, known)
    if loose and not respells(spec, known):
        warnings.append(
            f"the key column {loose[0]!r} of the target has the collation {known.column(loose[0]).collation}, to which texts that "
            "differ in case, accents or spaces at the end may be the same: such keys would be one row."
        )
    return warnings


def referred_to(spec: WriteSpec, error: TargetRefused) -> UnsupportedError:
    """The error of a refresh that was stopped by a foreign key of a table which the user cannot see."""
    return UnsupportedError(
        f"some table has a foreign key to {spec.table.to!r}, so it can be neither emptied nor exchanged, and was left "
        f"as it was ({error.message}).",
        remedy='use pre_action = "mirror", which changes rows alone; or drop the foreign key.',
    )


def _narrow(spec: WriteSpec, name: TableName, known: MySQLTable) -> list[str]:
    """Columns that are longer at the source than in the target."""
    found: list[str] = []
    names = {column.name.lower(): column for column in known.described}
    for column in spec.schema:
        there = names.get(column.name.lower())
        if there is not None and (length(native_type(column)) or 0) > (length(there.type) or sys.maxsize):
            found.append(
                f"column {column.name!r} is {native_type(column)} at the source, but {there.type} in the target: longer values "
                f"are refused; widen it there, by ALTER TABLE {name.sql} MODIFY {DIALECT.identifier(there.name)} ..."
            )
    return found


def _loose_key(spec: WriteSpec, known: MySQLTable) -> list[str]:
    """Key columns whose different values may be equal to the target."""
    if spec.table.write is Write.APPEND:
        return []
    names = {column.name.lower() for column in known.described if not column.exact}
    return [name for name in spec.key if name.lower() in names]
