"""Map errors of the server, and of the connection to it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from retl.model.errors import ConfigError, ConnectionFailed, RetlError, SourceError, TargetBusy, TargetError

Role = Literal["source", "target"]

_AGAIN = "the scan is tried again."
_READ_ONLY = "25006"
"""A target may be writable again soon; a source that is asked to write is a replica for good."""


class _Meaning(NamedTuple):
    states: tuple[str, ...]
    """SQLSTATEs, or classes of them: their first two characters."""
    kind: type[RetlError]
    what: str
    """With the places ``{place}``, ``{role}`` and ``{said}``."""
    remedy: str


_MEANINGS = (
    _Meaning(
        ("53300", "53400"),
        ConnectionFailed,
        "the server at {place} allows no more connections: {said}",
        "raise max_connections at the server, put a pooler before it, or run fewer pipelines at a time. The option "
        f"max_connections of a pipeline's source and target limits theirs; {_AGAIN}",
    ),
    _Meaning(
        ("08", "57P01", "57P02", "57P03", "57P05", "25P03", "25P04"),
        ConnectionFailed,
        "the connection to {place} failed: {said}",
        "nothing, if it passes: the scan is tried again. Otherwise check address, network and server.",
    ),
    _Meaning(
        ("55P03", "55006"),
        TargetBusy,
        "a lock at {place} was not released in time: {said}",
        f"end the session that holds it (see pg_locks and pg_stat_activity); {_AGAIN}",
    ),
    _Meaning(
        ("40", "72000"),
        TargetBusy,
        "the server at {place} rolled a transaction back, since another one was in its way: {said}",
        f"nothing, if it passes: {_AGAIN}",
    ),
    _Meaning(
        ("57014",),
        ConnectionFailed,
        "the server at {place} ended a statement: {said}",
        "raise the option statement_timeout, or see what else ends statements there, such as a pooler or a watchdog; "
        f"{_AGAIN}",
    ),
    _Meaning(
        (_READ_ONLY,),
        ConnectionFailed,
        "the server at {place} does not allow writing now: {said}",
        'connect to the server that is writable (several hosts with target_session_attrs = "read-write"), or end its '
        f"read-only mode; {_AGAIN}",
    ),
    _Meaning(("3D000",), ConfigError, "{place}: {said}", "create the database, or name another one in url."),
    _Meaning(
        ("28",),
        ConfigError,
        "the {role} at {place} refused the login: {said}",
        "check user, password and TLS, and the lines of pg_hba.conf.",
    ),
    _Meaning(
        ("42501",),
        ConfigError,
        "the {role} at {place} refused a right: {said}",
        "GRANT the user what is missing; what retl needs stands in its documentation, under PostgreSQL: Rights.",
    ),
    _Meaning(
        ("53", "58"),
        ConnectionFailed,
        "the server at {place} has trouble with its disk or memory: {said}",
        f"see the server's log, and make room; {_AGAIN}",
    ),
    _Meaning(
        ("22021", "22P05"),
        SourceError,
        "{place} holds text that cannot be UTF-8: {said}",
        "read such a column as bytes by expressions: convert_to(name, 'SQL_ASCII'); or leave it out with exclude, or such "
        "rows with where.",
    ),
    _Meaning(
        ("26000", "42P05"),
        ConfigError,
        "a pooler at {place} has mixed up the statements of two clients: {said}",
        "have the pooler keep a server for the length of a transaction at least (pool_mode = transaction or session).",
    ),
)
_BY_STATE = {state: meaning for meaning in _MEANINGS for state in meaning.states}

_ROW_CLASSES = ("22", "23", "44")
"""SQLSTATE classes of errors that a value (22), a constraint (23) or the CHECK of a view (44) causes."""
_ROW_STATES = frozenset({"P0001", "P0004", "54000"})
"""A trigger's RAISE and ASSERT; a row too large for an index or a page."""
_POLICY = "row-level security policy"


class SourceRefused(SourceError):
    """A statement that the source refused. ``state`` is its SQLSTATE, such as 42P01."""

    state: str = ""
    reason: str = ""
    """What the server says."""


class TargetRefused(TargetError):
    """A statement that the target refused. ``state`` is its SQLSTATE, such as 23505."""

    state: str = ""
    reason: str = ""
    """What the server says."""


def of_rows(state: str, text: str = "") -> bool:
    """Whether a row may have caused an error. Any other error is about the statement, and ends the scan."""
    return state[:2] in _ROW_CLASSES or state in _ROW_STATES or (state == "42501" and _POLICY in text)


def server_error(state: str, text: str, role: Role, place: str) -> RetlError:
    """The retl error for a SQLSTATE and a text of the server; ``place`` is host and port.

    The SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html.
    """
    said = f"{text} (SQLSTATE {state})"
    meaning = _BY_STATE.get(state) or _BY_STATE.get(state[:2])
    if role == "source" and state == _READ_ONLY:
        meaning = None
    if meaning is not None and not (role == "target" and of_rows(state, text)):
        kind = ConnectionFailed if meaning.kind is TargetBusy and role == "source" else meaning.kind
        return kind(f"{meaning.what.format(place=place, role=role, said=said)}.", remedy=meaning.remedy)
    refused = SourceRefused if role == "source" else TargetRefused
    error = refused(f"the {role} refused a statement: {said}.")
    error.state, error.reason = state, text
    return error
