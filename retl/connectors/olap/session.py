"""The settings of a session, and their reasons. No I/O.

``SET GLOBAL`` and a user's own properties change what a new session begins with, so nothing that a guarantee rests on is
left to that. StarRocks: ``SessionVariable.java``; Doris: ``SessionVariable.java`` and its reference of variables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_DAY = 86_400
_LONGEST_GROUP = 2**31 - 1

BOTH: Mapping[str, str] = {
    # Times with a zone are shown in it, and functions of time look at it.
    "time_zone": "'+00:00'",
    # Whole results.
    "sql_select_limit": str(2**63 - 1),
    # Backslashes escape (Doris' NO_BACKSLASH_ESCAPES), || means what it does by default, failing casts give NULL.
    "sql_mode": "'ONLY_FULL_GROUP_BY'",
}
"""The settings of every version, besides ``query_timeout``."""

WHERE_KNOWN: Mapping[str, Mapping[str, str]] = {
    "both": {
        # A connection may wait for the target for a long time.
        "wait_timeout": str(_DAY),
        "net_write_timeout": str(_DAY),
        # A materialised view may be older than its table: a row below the watermark that it lacks would never be read.
        "enable_materialized_view_rewrite": "false",
        # A user's expression would be silently cut off.
        "group_concat_max_len": str(_LONGEST_GROUP),
    },
    "starrocks": {
        "sql_dialect": "'StarRocks'",
    },
    "doris": {
        "sql_dialect": "'doris'",
        # How arrays, maps and structs are written.
        "serde_dialect": "'doris'",
        # Deleted and replaced rows would come back.
        "skip_delete_sign": "false",
        "skip_delete_predicate": "false",
        "skip_delete_bitmap": "false",
        "skip_storage_engine_merge": "false",
        # A bad or late replica would be read as if nothing were missing.
        "skip_missing_version": "false",
        "skip_bad_tablet": "false",
        # Rows that are committed already would be left out for a while.
        "query_freshness_tolerance_ms": "-1",
        "enable_prefer_cached_rowset": "false",
        # SELECT * within a query of the user's.
        "show_hidden_columns": "false",
        # A limit for every ORDER BY that has none.
        "default_order_by_limit": "-1",
        # The number of rows instead of the rows.
        "dry_run_query": "false",
        # Sketches would be bytes, where a NULL is told from a refusal by the type alone.
        "return_object_data_as_binary": "false",
    },
}
"""The settings of some versions, used if the server lists them."""


def settings(system: str, query_timeout: int, known: Iterable[str] = ()) -> str:
    """The one statement that makes a session ready, for a server that lists the variables ``known``."""
    listed = {name.lower() for name in known}
    some = {**WHERE_KNOWN["both"], **WHERE_KNOWN[system]}
    chosen = {**BOTH, **{name: value for name, value in some.items() if name in listed}}
    return ", ".join([f"SET query_timeout = {query_timeout}", *(f"{name} = {value}" for name, value in chosen.items())])
