"""The settings of retl's sessions: everything that a guarantee depends on, whatever the server's defaults.

``SET x = DEFAULT`` is the *global* value, so each has a value of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from retl.connectors.mysql.login import Login

_IDLE_SECONDS = 28_800
"""Seconds that the session of a source may wait for the target between two slices."""
FENCE_SECONDS = 60
"""Seconds of silence after which the server ends the session of a target, so that a frozen owner blocks nobody."""
SIGN_OF_LIFE = "DO 0"
_TRANSFER_SECONDS = 3600
SESSION_MARK = "@retl_session"
"""Set to 1 in a prepared session: lost if a pooler has reset it, or handed it on."""
_STRICT = (
    "STRICT_ALL_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,"
    "NO_AUTO_VALUE_ON_ZERO"
)
_ALL, _MYSQL, _MARIADB = "", "!80013", "M!100600"


class _Setting(NamedTuple):
    name: str
    value: str | int
    why: str
    where: str = _ALL
    """The servers that have it, as the start of a comment that they execute."""


_BOTH = (
    _Setting("time_zone", "'+00:00'", "a TIMESTAMP is shown and read in it"),
    _Setting("autocommit", 1, "a read holds no snapshot and no lock of an earlier one; a statement alone is committed"),
    _Setting("completion_type", 0, "a COMMIT begins no transaction and ends no session"),
    _Setting("sql_select_limit", 2**64 - 1, "results are whole"),
    _Setting("sql_big_selects", 1, "a large join is allowed"),
    _Setting("sql_safe_updates", 0, "nor is an UPDATE without a key; it limits SELECTs too"),
    _Setting("sql_auto_is_null", 0, "IS NULL finds no row that was inserted last"),
    _Setting("max_execution_time", 0, "a large table is read to its end", _MYSQL),
    _Setting("max_statement_time", 0, "a large table is read to its end", _MARIADB),
    _Setting("net_read_timeout", _TRANSFER_SECONDS, "rows that are sent may come with pauses"),
    _Setting("net_write_timeout", _TRANSFER_SECONDS, "rows that are read are taken as fast as the target takes them"),
    _Setting("idle_transaction_timeout", 0, "a transaction may wait for the source", _MARIADB),
    _Setting("idle_readonly_transaction_timeout", 0, "a transaction may wait for the source", _MARIADB),
    _Setting("idle_write_transaction_timeout", 0, "a transaction may wait for the source", _MARIADB),
    _Setting("lc_messages", "'en_US'", "rows and columns are looked up in the words of warnings and errors"),
    _Setting("lc_time_names", "'en_US'", "an expression gives the same everywhere"),
    _Setting("div_precision_increment", 4, "an expression gives the same everywhere"),
    _Setting("default_week_format", 0, "an expression gives the same everywhere"),
    _Setting("sql_quote_show_create", 1, "names in the answers of SHOW are told from words"),
    _Setting("sort_buffer_size", 4 * 1024 * 1024, "a sort of long texts has room for the fifteen that it must hold"),
    _Setting("parser_max_mem_size", 2**64 - 1, "an INSERT of many rows is parsed", _MYSQL),
    _Setting("use_secondary_engine", "OFF", "rows come from the table, not from a copy that lags", _MYSQL),
    _Setting(
        "system_versioning_asof", "DEFAULT", "rows are those of now; this one DEFAULT is not the global value", _MARIADB
    ),
    _Setting("note_verbosity", "'basic'", "a plan that uses no index warns of nothing", "M!101106"),
    _Setting("old_mode", "'UTF8_IS_UTF8MB3'", "duplicates are warned of", _MARIADB),
)
_OF_SOURCES = (
    _Setting("wait_timeout", _IDLE_SECONDS, "the other side may be slow"),
    _Setting("sql_mode", "'NO_ENGINE_SUBSTITUTION'", "backslashes escape, double quotes are texts"),
    _Setting("sql_buffer_result", 0, "rows come as they are found, not by way of a disk"),
    _Setting("group_concat_max_len", 2**30, "no text is cut in silence"),
    _Setting("transaction_isolation", "'REPEATABLE-READ'", "what is never committed is never read", _MYSQL),
    _Setting("tx_isolation", "'REPEATABLE-READ'", "what is never committed is never read", _MARIADB),
    _Setting("max_recursive_iterations", 2**32 - 1, "a recursive query is not cut in silence", _MARIADB),
)
_OF_TARGETS = (
    _Setting("wait_timeout", FENCE_SECONDS, "a frozen owner gives up the lease, and what it holds"),
    _Setting("sql_mode", f"'{_STRICT}'", "no value is changed in silence, and a key of 0 is a key"),
    _Setting("sql_notes", 1, "a number that is rounded is a note"),
    _Setting("foreign_key_checks", 1, "keys lead somewhere"),
    _Setting("unique_checks", 1, "keys are unique"),
    _Setting("check_constraint_checks", 1, "checks are made", _MARIADB),
    _Setting("transaction_isolation", "'READ-COMMITTED'", "a merge locks the rows that it writes alone", _MYSQL),
    _Setting("tx_isolation", "'READ-COMMITTED'", "a merge locks the rows that it writes alone", _MARIADB),
    _Setting("transaction_read_only", 0, "transactions write", _MYSQL),
    _Setting("tx_read_only", 0, "transactions write", _MARIADB),
    _Setting("explicit_defaults_for_timestamp", 1, "a TIMESTAMP stays what it was written as", _MYSQL),
    _Setting("explicit_defaults_for_timestamp", 1, "a TIMESTAMP stays what it was written as", "M!100802"),
    _Setting("sql_if_exists", 0, "a RENAME without its table is an error", _MARIADB),
    _Setting("alter_algorithm", "'DEFAULT'", "an ALTER may take the way that it needs", _MARIADB),
    _Setting("max_sort_length", 12_288, "texts are ordered by all that a key may hold, not by their beginnings"),
    _Setting("auto_increment_increment", 1, "staged rows are numbered one by one"),
    _Setting("auto_increment_offset", 1, "staged rows are numbered one by one"),
)


CHANGES_NOTHING = f"SET SESSION sql_mode = '{_STRICT}'"
"""Makes the session of a source refuse what it would cut or change, for statements that write."""


def reading(login: Login, lock_timeout: float) -> Login:
    """The login with a session of a source."""
    return _with(login, _OF_SOURCES, lock_timeout)


def writing(login: Login, lock_timeout: float) -> Login:
    """The login with a session of a target: it never silently changes a value, and never waits long for a lock."""
    return _with(login, _OF_TARGETS, lock_timeout)


def _with(login: Login, own: tuple[_Setting, ...], lock_timeout: float) -> Login:
    seconds = max(1, round(lock_timeout))
    locks = (
        _Setting("lock_wait_timeout", seconds, "a server waits for a year for a table that another session has locked"),
        _Setting("innodb_lock_wait_timeout", seconds, "a row's lock is waited for as long"),
    )
    statement = f"SET NAMES utf8mb4, {SESSION_MARK} = 1{''.join(_assignments((*_BOTH, *own, *locks)))}"
    return replace(login, session=(*login.session, statement), proof=f"SELECT {SESSION_MARK}")


def _assignments(settings: tuple[_Setting, ...]) -> Iterator[str]:
    """The assignments; those that only some servers have are in comments that only those servers execute."""
    for name, value, _, where in settings:
        assignment = f", SESSION {name} = {value}"
        yield f" /*{where} {assignment} */" if where else assignment
