"""Warnings about the connection to a server, and its errors, mapped."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pymysql.constants import CR
from pymysql.err import InterfaceError, MySQLError

from retl.connectors.mysql.errors import SourceRefused, TargetRefused, rolled_back
from retl.connectors.mysql.login import Login
from retl.connectors.mysql.rows import ProtocolError, TooLarge
from retl.connectors.mysql.wire import TextWire
from retl.connectors.net.tls import not_verified, trusting_all
from retl.model.errors import ConfigError, ConnectionFailed, RetlError, SourceError, TargetError
from retl.model.secret import Secret


def key_in(path: str) -> bytes:
    """A server's public key from a file. Blocks."""
    try:
        key = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the key in {path!r} cannot be read ({error.strerror}).",
            remedy="name the PEM file of the server in server_public_key (public_key.pem in its data folder).",
        ) from None
    if b"-----BEGIN PUBLIC KEY-----" not in key:
        raise ConfigError(f"{path!r} holds no public key.", remedy="name a PEM file: -----BEGIN PUBLIC KEY-----.")
    return key


UNVERIFIED = trusting_all()


def warnings(place: str, password: str | Secret, tls: ssl.SSLContext | None, wire: TextWire) -> tuple[str, ...]:
    """A warning if a password goes to another machine that is not verified."""
    verified = tls is not None and tls.verify_mode is not ssl.CERT_NONE
    if not password or wire.local or verified:
        return ()
    how = "encrypted, but the server is not verified" if wire.secure else "not encrypted"
    return (f'the line to {place} is {how}: the password and all rows may be read on the way; use tls = "verify".',)


def reason(error: OSError) -> str:
    """The system's own message, which asyncio replaces."""
    if not error.errno or error.errno < 0 or isinstance(error, ssl.SSLError):
        return str(error.strerror or error)
    return os.strerror(error.errno)


@contextmanager
def mapped(login: Login) -> Iterator[None]:
    """Map the errors of the driver and the system."""
    try:
        yield
    except MySQLError as error:
        # The driver hides why a connection failed.
        cause = error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise not_verified(cause.verify_message, login.place) from error
        code, text = code_and_text(error)
        if isinstance(cause, OSError) and str(cause):
            text = f"{text}: {reason(cause)}"
        raise explained(login, code, text, getattr(error, "state", "")) from error
    except ssl.SSLCertVerificationError as error:
        raise not_verified(error.verify_message, login.place) from error
    except (OSError, TimeoutError, EOFError) as error:
        raise ConnectionFailed(
            f"the connection to {login.place} failed: {str(error) or 'no answer in time'}.",
            remedy="check address, network and server; the scan is tried again.",
        ) from error
    except ProtocolError as error:
        raise login.explain(CR.CR_MALFORMED_PACKET, str(error), login.role, login.place) from error
    except TooLarge as error:
        kind = SourceError if login.role == "source" else TargetError
        raise kind(
            f"{login.place} answers with more than is taken: {error}.",
            remedy="leave large columns out with exclude; where nothing so large is there, see who answers at that address.",
        ) from error


def explained(login: Login, code: int, text: str, state: str) -> RetlError:
    """Map an error of the server. A SQLSTATE of class 40 means a rollback, whatever the number."""
    found = login.explain(code, text, login.role, login.place)
    if isinstance(found, (SourceRefused, TargetRefused)):
        found.state = state
        return rolled_back(found, login.role) if state.startswith("40") else found
    return found


def is_full(error: BaseException) -> bool:
    """Whether the server did answer: it has too many connections already."""
    cause = error.__cause__
    return isinstance(cause, MySQLError) and code_and_text(cause)[0] in (1040, 1203, 1226)


def code_and_text(error: MySQLError) -> tuple[int, str]:
    if len(error.args) >= 2 and isinstance(error.args[0], int) and error.args[0]:
        return error.args[0], str(error.args[1]).rstrip(".")
    code = CR.CR_SERVER_GONE_ERROR if isinstance(error, InterfaceError) else CR.CR_MALFORMED_PACKET
    return code, str(error).rstrip(".")
