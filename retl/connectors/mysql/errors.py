"""Map errors of the server, and of the connection to it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from retl.model.errors import ConfigError, ConnectionFailed, RetlError, SourceError, TargetBusy, TargetError

Role = Literal["source", "target"]

_AGAIN = "the scan is tried again."
_READ_ONLY = frozenset({1290, 1792, 1836, 3989})
"""A target may be writable again soon; a source that is asked to write is a replica for good."""
_FIRST_OF_SQL = 1000
"""Lower numbers are those of failed system calls at the server."""


class _Meaning(NamedTuple):
    codes: tuple[int, ...]
    kind: type[RetlError]
    what: str
    """With the places ``{place}``, ``{role}`` and ``{said}``."""
    remedy: str


_MEANINGS = (
    _Meaning(
        (1040, 1203, 1226),
        ConnectionFailed,
        "the server at {place} allows no more connections: {said}",
        "raise max_connections, or the user's max_user_connections, at the server, or run fewer pipelines at a time. "
        f"The option max_connections of a pipeline's source and target limits theirs; {_AGAIN}",
    ),
    _Meaning(
        (
            *(1053, 1077, 1129, 1135, 1152, 1153, 1158, 1159, 1160, 1161, 1184, 1317, 1927),
            *(2002, 2003, 2006, 2013, 2055, 3169, 4031),
        ),
        ConnectionFailed,
        "the connection to {place} failed: {said}",
        "nothing, if it passes: the scan is tried again. Otherwise check address, network and server.",
    ),
    _Meaning(
        (1205, 1206, 1213, 1614, 3572),
        TargetBusy,
        "a lock at {place} was not released in time: {said}",
        f"end the session that holds it (see SHOW PROCESSLIST); {_AGAIN}",
    ),
    _Meaning(
        (1020, 3100, 3101, 3797),
        TargetBusy,
        "the server at {place} rolled a transaction back, since another one was in its way: {said}",
        f"nothing, if it passes: {_AGAIN} With several writable members of a group, write to one of them.",
    ),
    _Meaning(
        (1969, 3024),
        ConnectionFailed,
        "the server at {place} ended a statement that took longer than it allows: {said}",
        "sessions of retl set max_execution_time and max_statement_time to none: see what else ends statements there, "
        f"such as a pooler or a watchdog; {_AGAIN}",
    ),
    _Meaning(
        tuple(_READ_ONLY),
        ConnectionFailed,
        "the server at {place} does not allow writing now: {said}",
        f"connect to the server that is writable, or end its read-only mode; {_AGAIN}",
    ),
    _Meaning((1049,), ConfigError, "{place}: {said}", "create the database, or name another one in url."),
    _Meaning(
        (1665,),
        ConfigError,
        "the server at {place} writes its binary log as statements, which cannot repeat what is written here: {said}",
        "SET GLOBAL binlog_format = 'ROW' (or 'MIXED') at the server.",
    ),
    _Meaning(
        (3159,),
        ConfigError,
        "the server at {place} lets nobody in without TLS: {said}",
        'use tls = "verify", with the authority of its certificate in tls_ca, or tls = "insecure".',
    ),
    _Meaning(
        (1044, 1142, 1143, 1227, 1370, 1410, 3118, 4151),
        ConfigError,
        "the {role} at {place} refused a right: {said}",
        "GRANT the user what is missing; what retl needs stands in its documentation, under MySQL: Rights.",
    ),
    _Meaning(
        (1045, 1130, 1251, 1698, 1820, 1862, 2026, 2059, 2061),
        ConfigError,
        "the {role} at {place} refused the login or a right: {said}",
        "check user, password, TLS and the rights of the user.",
    ),
    _Meaning(
        (1021, 1030, 1041, 1114, 3, 28),
        ConnectionFailed,
        "the server at {place} has no room or memory left: {said}",
        f"make room; {_AGAIN}",
    ),
    _Meaning(
        (3750,),
        ConfigError,
        "the server at {place} demands a primary key of every table: {said}",
        "give the table a key, or SET GLOBAL sql_require_primary_key = OFF at the server.",
    ),
)
_BY_CODE = {code: meaning for meaning in _MEANINGS for code in meaning.codes}
_UNUSUAL = frozenset({2000, 2007, 2012, 2014, 2027})

_ROW_STATES = ("22", "23", "45")
"""SQLSTATE classes of errors that a value (22), a constraint (23) or a trigger's SIGNAL (45) causes."""
_NO_ROW_STATES = frozenset({1052})
"""23000 too, but about the statement: a column is ambiguous."""
_OF_ROWS = frozenset(
    {
        *(1022, 1048, 1062, 1169, 1216, 1217, 1451, 1452, 1557, 1586, 1761, 1762, 1859, 4025),  # 23: constraints
        *(1263, 1264, 1292, 1365, 1367, 1406, 1416, 1441, 1690, 1918, 3037, 3140, 3141, 3156),  # 22: values
        *(1261, 1262, 1265),  # 01: too few or too many fields, a value that was cut; errors in a strict session
        *(1300, 1364, 1366, 1411),  # HY000: no such text, no default, no such number, no such time
        *(1526, 1591, 1748),  # HY000: no partition for the value
        1118,  # 42000: a row too large for a page, which the server finds out row by row
        *(1369, 3819),  # HY000, 44000: a CHECK
        1644,  # a trigger's SIGNAL
        *(3616, 3617, 3618, 3643, 3903, 3904, 3906, 3907),  # spatial values, functional indexes
        *(6136, 6137, 6138),  # vectors
    }
)
"""Numbers of errors and warnings that a single row may cause."""


class SourceRefused(SourceError):
    """A statement that the source refused. ``code`` is the server's number, such as 1146, ``state`` its SQLSTATE.

    ``text`` is what the server says, ``place`` its address.
    """

    code: int = 0
    state: str = ""
    text: str = ""
    place: str = ""


class TargetRefused(TargetError):
    """A statement that the target refused. ``code`` is the server's number, such as 1062, ``state`` its SQLSTATE."""

    code: int = 0
    state: str = ""


def of_rows(code: int, state: str = "") -> bool:
    """Whether a row may have caused it. Any other error is about the statement, and ends the scan."""
    return code in _OF_ROWS or (state[:2] in _ROW_STATES and code not in _NO_ROW_STATES)


def server_error(code: int, message: str, role: Role, place: str) -> RetlError:
    """The retl error for a number and text of the server (or of the client library, from 2000 on).

    ``place`` is host and port. The numbers: https://dev.mysql.com/doc/mysql-errors/9.0/en/server-error-reference.html
    and https://mariadb.com/kb/en/mariadb-error-code-reference/.
    """
    said = f"{message} (error {code})"
    meaning = _BY_CODE.get(code)
    if code == 1047 and "wsrep" in message.lower():
        # Other servers say 1047 for an unknown statement; a Galera node says it while it is cut off from its cluster.
        meaning = _BY_CODE[1053]
    if meaning is not None and not (role == "source" and code in _READ_ONLY):
        kind = ConnectionFailed if meaning.kind is TargetBusy and role == "source" else meaning.kind
        return kind(f"{meaning.what.format(place=place, role=role, said=said)}.", remedy=meaning.remedy)
    if 0 < code < _FIRST_OF_SQL:
        return ConnectionFailed(
            f"the server at {place} has trouble with its files: {said}.",
            remedy="see the server's log, its disk and the folder of its temporary files; the scan is tried again.",
        )
    if code in _UNUSUAL:
        return ConnectionFailed(
            f"{place} does not speak MySQL's protocol as expected: {message}.",
            remedy="check that the address is that of the server's SQL port.",
        )
    if role == "target":
        target = TargetRefused(f"the target refused a statement: {said}.")
        target.code = code
        return target
    source = SourceRefused(f"the source refused a statement: {said}.")
    source.code, source.text, source.place = code, message, place
    return source


def rolled_back(refused: RetlError, role: Role) -> RetlError:
    """The error for a SQLSTATE of class 40: the transaction is gone, and can be repeated."""
    kind = TargetBusy if role == "target" else ConnectionFailed
    return kind(refused.message, remedy=f"nothing, if it passes: {_AGAIN}")
