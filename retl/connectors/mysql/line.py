"""What the line to a server gives away, and why it could not be made."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from retl.connectors.mysql.wire import TextWire
from retl.model.errors import ConfigError


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


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


UNVERIFIED = _unverified()


def warnings(place: str, password: str, tls: ssl.SSLContext | None, wire: TextWire) -> tuple[str, ...]:
    """A warning where a password goes to another machine, and nobody has made sure which one that is."""
    verified = tls is not None and tls.verify_mode is not ssl.CERT_NONE
    if not password or wire.local or verified:
        return ()
    how = "encrypted, but whoever answers is taken for the server" if wire.secure else "not encrypted"
    return (f'the line to {place} is {how}: the password and all rows may be read on the way; use tls = "verify".',)


def reason(error: OSError) -> str:
    """The system's own words; asyncio puts others in their place."""
    if not error.errno or error.errno < 0 or isinstance(error, ssl.SSLError):
        return str(error.strerror or error)
    return os.strerror(error.errno)


def not_verified(error: ssl.SSLCertVerificationError, place: str) -> ConfigError:
    return ConfigError(
        f"the certificate of {place} cannot be verified: {error.verify_message}.",
        remedy="name the authority that signed it in tls_ca, or see whether the address is right.",
    )
