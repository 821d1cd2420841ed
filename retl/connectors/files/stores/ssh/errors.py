"""What went wrong on the way to a server or there, as errors of retl."""

from __future__ import annotations

import re

import asyncssh

from retl.connectors.base import ConfigError, ConnectionFailed, RetlError, TransientError
from retl.model.errors import SourceError

_NOT_THERE = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath, asyncssh.SFTPNotADirectory, asyncssh.SFTPLinkLoop)
_LOST = (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection)
_TOO_MANY = re.compile(r"concurrent|simultaneous|too many|maximum|at once", re.IGNORECASE)


class TooManyAtOnce(TransientError):
    """The server serves fewer at once than it was asked for. Some say so by denying what they would allow alone."""


class NotThere(ConfigError):
    """There is nothing at a path."""


def connecting(error: Exception, place: str, user: str | None) -> RetlError:
    """What an error of connecting and logging in means."""
    if isinstance(error, RetlError):
        return error
    if isinstance(error, asyncssh.PermissionDenied):
        return ConfigError(
            f"{place} refused the login{f' of {user!r}' if user else ''}: {_said(error)}.",
            remedy="check the user, and key, passphrase, password or agent; the server must know the key.",
        )
    if isinstance(error, asyncssh.KeyExchangeFailed | asyncssh.ProtocolNotSupported | asyncssh.IllegalUserName):
        return ConfigError(
            f"{place} and retl do not agree on how to talk: {_said(error)}.",
            remedy="allow newer algorithms at the server, or choose others by a file named in config.",
        )
    if isinstance(error, asyncssh.ChannelOpenError):
        return TooManyAtOnce(
            f"{place} refused a session: {_said(error)}.",
            remedy="lower max_connections, or allow more sessions at the server; and see that SFTP is switched on there.",
        )
    return unreachable(place, "it did not answer in time" if isinstance(error, TimeoutError) else _said(error))


def unreachable(place: str, reason: str) -> ConnectionFailed:
    """The server did not answer, or the connection broke."""
    return ConnectionFailed(
        f"the connection to {place} failed: {reason}.",
        remedy="nothing, if it passes: the scan is tried again. Otherwise check address, port, network and server.",
    )


def asking(error: Exception, place: str, what: str) -> RetlError:
    """What an error of a question about ``what`` means."""
    if isinstance(error, TimeoutError):
        return unreachable(place, f"no answer about {what!r} within answer_timeout")
    if isinstance(error, _LOST) or not isinstance(error, asyncssh.SFTPError):
        return unreachable(place, _said(error))
    if _TOO_MANY.search(error.reason):
        return TooManyAtOnce(
            f"{place} serves no more at once: it said {error.reason!r} about {what!r}.",
            remedy="lower max_connections, or wait until others have ended.",
        )
    if isinstance(error, _NOT_THERE):
        return NotThere(f"{place} has no {what!r}.", remedy="name a folder that exists in url.")
    return _refused(error, place, what)


def _refused(error: asyncssh.SFTPError, place: str, what: str) -> RetlError:
    if isinstance(error, asyncssh.SFTPPermissionDenied):
        return ConfigError(
            f"{what!r} may not be read by the user who logs in at {place}.",
            remedy="give that user the right to read it, or choose a url or a prefix without it: a listing is never partial.",
        )
    if isinstance(error, asyncssh.SFTPOpUnsupported | asyncssh.SFTPBadMessage):
        return SourceError(
            f"{place} answers otherwise than SFTP has it, about {what!r}: {_said(error)}.",
            remedy="check with the command sftp; the server may be no SFTP server, or need an update.",
        )
    return TransientError(
        f"{place} could not read {what!r}: {_said(error)}.",
        remedy="nothing, if it passes: the scan is tried again. Otherwise see the logs of the server.",
    )


def _said(error: Exception) -> str:
    reason = str(getattr(error, "reason", "")) or str(error) or type(error).__name__
    return reason.rstrip(".")
