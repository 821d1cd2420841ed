"""The settings of retl's sessions: everything that a guarantee depends on, whatever server, database and role say.

Each transaction sets them for itself, since a pooler may give every transaction another session.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

FENCE_SECONDS = 60
"""Seconds of silence after which the server ends a target's transaction, so that a frozen owner blocks nobody."""
_TRANSACTION_TIMEOUT = 170_000


class _Setting(NamedTuple):
    name: str
    value: str
    why: str
    since: int = 0
    """The first version that has it."""


_BOTH = (
    _Setting("client_encoding", "UTF8", "text is UTF-8 on the way"),
    _Setting("DateStyle", "ISO, YMD", "times are written and read in one way"),
    _Setting("IntervalStyle", "postgres", "intervals are written and read in one way"),
    _Setting("TimeZone", "UTC", "a timestamptz is shown and read in it"),
    _Setting("extra_float_digits", "1", "floats keep every digit"),
    _Setting("bytea_output", "hex", "bytes are written in one way"),
    _Setting("standard_conforming_strings", "on", "backslashes in literals mean nothing"),
    _Setting("array_nulls", "on", "NULL in an array is no text"),
    _Setting("transform_null_equals", "off", "x = NULL is never true"),
    _Setting("xmloption", "content", "fragments of XML are XML"),
    _Setting("lc_monetary", "C", "money is written in one way"),
    _Setting("transaction_timeout", "0", "a large table is read to its end", _TRANSACTION_TIMEOUT),
)
_OF_SOURCES = (_Setting("idle_in_transaction_session_timeout", "0", "the target may be slow"),)
_OF_TARGETS = (
    _Setting("synchronous_commit", "on", "a commit that was answered survives a crash of the server, or a failover"),
    _Setting(
        "idle_in_transaction_session_timeout",
        str(FENCE_SECONDS * 1000),
        "a frozen owner gives up the lease, and what it holds",
    ),
)


class Session(NamedTuple):
    """The settings of a session, by their names, and since which version each exists."""

    values: Mapping[str, str]
    since: Mapping[str, int]

    def of(self, version: int) -> dict[str, str]:
        """Those that a version has."""
        return {name: value for name, value in self.values.items() if version >= self.since.get(name, 0)}


def reading(search_path: str, lock_timeout: float, statement_timeout: float) -> Session:
    """The session of a source."""
    return _session(_OF_SOURCES, search_path, lock_timeout, statement_timeout)


def writing(search_path: str, lock_timeout: float, statement_timeout: float) -> Session:
    """The session of a target."""
    return _session(_OF_TARGETS, search_path, lock_timeout, statement_timeout)


def _session(own: tuple[_Setting, ...], search_path: str, lock_timeout: float, statement_timeout: float) -> Session:
    every = (*_BOTH, *own)
    limits = {"lock_timeout": lock_timeout, "statement_timeout": statement_timeout}
    return Session(
        {
            **{setting.name: setting.value for setting in every},
            "search_path": search_path,
            **{name: str(round(seconds * 1000)) for name, seconds in limits.items()},
        },
        {setting.name: setting.since for setting in every},
    )
