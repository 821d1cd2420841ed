"""What an error of the server, or of the line to it, means to whoever runs a pipeline."""

from __future__ import annotations

from typing import Literal

from retl.model.errors import ConfigError, ConnectionFailed, RetlError, SourceError, TargetBusy, TargetError

Role = Literal["source", "target"]

_LOST = frozenset(
    {
        1040,
        1053,
        1077,
        1129,
        1135,
        1152,
        1153,
        1158,
        1159,
        1160,
        1161,
        1184,
        1203,
        1226,
        1317,
        1927,
        2002,
        2003,
        2006,
        2013,
        2055,
        3169,
        4031,
    }
)
_LOCKED = frozenset({1205, 1206, 1213, 1614, 3572})
_READ_ONLY = frozenset({1290, 1792, 1836, 3989})
_DENIED = frozenset(
    {1044, 1045, 1130, 1142, 1143, 1227, 1251, 1370, 1410, 1698, 1820, 1862, 2026, 2059, 2061, 3118, 4151}
)
_UNUSUAL = frozenset({2000, 2007, 2012, 2014, 2027})
_FULL = frozenset({1021, 1030, 1041, 1114, 3, 28})
_FIRST_OF_SQL = 1000
"""Lower numbers are those of system calls that failed at the server."""


class SourceRefused(SourceError):
    """A statement that the source refused. ``code`` is the server's number, such as 1146."""

    code: int = 0


class TargetRefused(TargetError):
    """A statement that the target refused. ``code`` is the server's number, such as 1062."""

    code: int = 0


def server_error(code: int, message: str, role: Role, place: str) -> RetlError:
    """The error of ours for a number and text of the server (or of the client library, from 2000 on).

    ``place`` is host and port. The numbers: https://dev.mysql.com/doc/mysql-errors/9.0/en/server-error-reference.html
    and https://mariadb.com/kb/en/mariadb-error-code-reference/.
    """
    said = f"{message} (error {code})"
    if code in _LOST:
        return ConnectionFailed(
            f"the connection to {place} failed: {said}.",
            remedy="nothing, if it passes: the scan is tried again. Otherwise check address, network and server.",
        )
    if code in _LOCKED:
        kind = TargetBusy if role == "target" else ConnectionFailed
        return kind(
            f"a lock at {place} was not released in time: {said}.",
            remedy="end the session that holds it (see SHOW PROCESSLIST); the scan is tried again.",
        )
    if code in _READ_ONLY:
        return ConnectionFailed(
            f"the server at {place} does not allow writing now: {said}.",
            remedy="connect to the server that is writable, or end its read-only mode; the scan is tried again.",
        )
    if code == 1049:
        return ConfigError(f"{place}: {said}.", remedy="create the database, or name another one in url.")
    if code in _DENIED:
        return ConfigError(
            f"the {role} at {place} refused the login or a right: {said}.",
            remedy="check user, password, TLS and the rights of the user.",
        )
    if code in _FULL:
        return ConnectionFailed(
            f"the server at {place} has no room or memory left: {said}.", remedy="make room; the scan is tried again."
        )
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
    refused: SourceRefused | TargetRefused
    refused = (
        SourceRefused(f"the source refused a statement: {said}.")
        if role == "source"
        else TargetRefused(f"the target refused a statement: {said}.")
    )
    refused.code = code
    return refused
