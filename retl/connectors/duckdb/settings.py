"""The settings that a guarantee depends on, each with its reason, set on every connection.

A host may have the file open in the same process; DuckDB then shares one instance and its
settings. So a scan's settings are set for its session alone, and those of the instance only
if nobody else is connected to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import duckdb

from retl.connectors.duckdb.dialect import DIALECT

if TYPE_CHECKING:
    from retl.connectors.duckdb import DuckDB

_SESSION: tuple[tuple[str, str, str], ...] = (
    ("max_execution_time", "0", "a long read is not cut off; first, so that it holds for what follows"),
    ("TimeZone", "'UTC'", "a time without a zone is never moved by the host's"),
    ("Calendar", "'gregorian'", "dates are written in this one"),
    ("default_collation", "''", "text equals only itself: keys and changes are compared by bytes"),
    ("default_null_order", "'nulls_last'", "of rows with one key that without a cursor is not the newest"),
    ("default_order", "'asc'", "slices come in ascending order"),
    ("integer_division", "false", "a user's / is the division of numbers"),
    ("ieee_floating_point_ops", "true", "1/0 is infinite, not NULL"),
    ("old_implicit_casting", "false", "text and numbers are never compared by guessing"),
    ("disable_timestamptz_casts", "false", "cursors of both kinds of time are compared"),
    ("scalar_subquery_error_on_multiple_rows", "true", "never one row by chance"),
    ("preserve_identifier_case", "true", "a column keeps its name"),
    ("preserve_insertion_order", "true", "of rows that clash the first is kept"),
    ("binary_as_string", "false", "bytes of a Parquet file are no text"),
    ("errors_as_json", "false", "messages are for people"),
    ("python_enable_replacements", "false", "a table's name never reads a variable of the host's"),
    ("python_scan_all_frames", "false", "the same"),
    ("arrow_lossless_conversion", "false", "types arrive as they are declared"),
    ("arrow_large_buffer_size", "false", "the same"),
    ("arrow_output_list_view", "false", "the same"),
    ("produce_arrow_string_view", "false", "the same"),
    ("arrow_output_version", "'1.0'", "the same"),
)

# The settings that retl changes after the configuration is locked: those of its own sessions, and those that it resets.
_CHANGEABLE = (*(name for name, _, _ in _SESSION), "file_search_path", "memory_limit", "threads")

# A file's views, macros and triggers are foreign code: deny them access to the machine.
_CLOSED = ("autoinstall_known_extensions", "autoload_known_extensions", "allow_community_extensions")


@cache
def _supported() -> tuple[frozenset[str], frozenset[str]]:
    """The settings that this version of DuckDB has, and those that can be set for one session."""
    with duckdb.connect() as connection:
        known = {name for (name,) in connection.execute("SELECT name FROM duckdb_settings()").fetchall()}
        own = set()
        for name, value, _ in _SESSION:
            try:
                connection.execute(f"SET SESSION {name} = {value}")
            except duckdb.Error:
                continue
            own.add(name)
    return frozenset(known | own), frozenset(own)


def set_session(connection: duckdb.DuckDBPyConnection, options: DuckDB) -> None:
    """The statements for each connection: a cursor inherits nothing."""
    own = _supported()[1]
    statements = [f"SET SESSION {name} = {value}" for name, value, _ in _SESSION if name in own]
    if options.files is not None:
        statements.append(f"SET SESSION file_search_path = {DIALECT.string(options.files)}")
    connection.execute("; ".join(statements))


@cache
def counts_connections() -> bool:
    """Whether this version of DuckDB counts the connections of an instance."""
    with duckdb.connect() as connection:
        found = connection.execute("SELECT 1 FROM duckdb_functions() WHERE function_name = 'duckdb_connection_count'")
        return bool(found.fetchall())


def is_shared(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether somebody else in this process is connected to the same instance."""
    return int(connection.execute("SELECT * FROM system.main.duckdb_connection_count()").fetchall()[0][0]) > 1


def is_open_here(path: str) -> bool:
    """Whether this process has a file open already, for versions that do not count: a second instance fails."""
    with duckdb.connect() as probe:
        try:
            probe.execute(f"ATTACH {DIALECT.string(path)} AS probe (READ_ONLY)")
        except duckdb.Error as error:
            return "already attached" in str(error)
    return False


def set_instance(connection: duckdb.DuckDBPyConnection, options: DuckDB, *, lock: bool) -> None:
    """Limit an instance of our own: its memory and threads, and what its database may do. Once only."""
    known = _supported()[0]
    statements = [f"SET GLOBAL {name} = false" for name in _CLOSED if name in known]
    if options.memory_limit is not None:
        statements.append(f"SET GLOBAL memory_limit = {DIALECT.string(options.memory_limit)}")
    if options.threads is not None:
        statements.append(f"SET GLOBAL threads = {int(options.threads)}")
    if options.path is not None:
        if options.files is not None:
            statements.append(f"SET GLOBAL allowed_directories = [{DIALECT.string(options.files)}]")
        statements.append("SET GLOBAL enable_external_access = false")
    if lock and "allowed_configs" in known:
        names = ", ".join(DIALECT.string(name) for name in _CHANGEABLE if name in known)
        statements += [f"SET GLOBAL allowed_configs = [{names}]", "SET GLOBAL lock_configuration = true"]
    connection.execute("; ".join(statements))


def give_back(connection: duckdb.DuckDBPyConnection, options: DuckDB) -> None:
    """Lift the limits of our instance for a host that has joined it."""
    for name in ("memory_limit", "threads"):
        if getattr(options, name) is not None:
            connection.execute(f"RESET GLOBAL {name}")


_USED = (
    "count", "min", "max", "sum", "hash", "encode", "error", "lower", "translate", "now", "version", "isfinite",
    "regexp_full_match", "json_valid", "to_json", "epoch_us", "epoch_ns", "date_diff", "rank", "row_number",
    "current_database", "current_schema", "duckdb_tables", "duckdb_views", "duckdb_columns", "duckdb_constraints",
    "duckdb_indexes", "duckdb_schemas", "duckdb_triggers", "duckdb_dependencies", "read_csv", "read_json", "read_parquet",
    "parquet_schema", "list", "len", "length", "ltrim", "trim", "regexp_replace", "json_type", "nullif", "bool_and", "concat_ws",
)  # fmt: skip


def shadowed(connection: duckdb.DuckDBPyConnection) -> Sequence[str]:
    """The functions that retl calls and the database replaces by macros."""
    names = ", ".join(DIALECT.string(name) for name in _USED)
    found = connection.execute(
        "SELECT DISTINCT function_name FROM system.main.duckdb_functions() "
        f"WHERE NOT internal AND function_name IN ({names}) ORDER BY function_name"
    )
    return [name for (name,) in found.fetchall()]
