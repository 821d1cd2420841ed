"""TLS contexts: trust authorities, or one certificate by its fingerprint."""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
import sys
from collections.abc import Sequence

from retl.model.errors import ConfigError, ConnectionFailed

_DER = 2  # _ssl.ENCODING_DER


def context(ca: str | None, *, verify: bool = True) -> ssl.SSLContext:
    """A context that trusts the authorities in a PEM file, those of the system, or everybody. Blocks."""
    try:
        made = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the authorities in {ca!r} cannot be read ({error.strerror or error}).",
            remedy="name a PEM file in tls_ca.",
        ) from None
    if ca is not None:
        # Since 3.13 Python refuses an authority without a key usage, such as Elasticsearch used to make.
        made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return made if verify else _unverified(made)


def trusting_all() -> ssl.SSLContext:
    """A context that encrypts, and trusts everybody."""
    return _unverified(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def _unverified(made: ssl.SSLContext) -> ssl.SSLContext:
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


async def pinned(addresses: Sequence[tuple[str, int]], fingerprint: str, timeout: float) -> ssl.SSLContext:
    """A context that trusts the certificate with a SHA-256 fingerprint and no other: the server's own, or an authority's.

    It finds the certificate among those that the first server that answers shows, and then trusts only that: every
    connection proves that its server holds it, or one that it has signed. The fingerprint alone would prove nothing,
    since anybody can show the certificate of an authority.
    """
    failed: ConnectionFailed | None = None
    for host, port in addresses:
        place = f"{host}:{port}"
        try:
            shown = await asyncio.wait_for(_shown(host, port), timeout)
        except TimeoutError:
            failed = unreachable("it did not answer in time", place)
        except OSError as error:
            if isinstance(error, ssl.SSLError) and not was_cut(error):
                raise untrusted(str(error), place) from None
            failed = unreachable(str(error) or type(error).__name__, place)
        else:
            return _only(shown, fingerprint, place)
    assert failed is not None
    raise failed


async def _shown(host: str, port: int) -> list[bytes]:
    """The certificates that a server shows, its own first. Sends nothing to it."""
    _, writer = await asyncio.open_connection(host, port, ssl=trusting_all())
    try:
        connection = writer.get_extra_info("ssl_object")
        if sys.version_info >= (3, 13):
            return list(connection.get_unverified_chain())
        return [one.public_bytes(_DER) for one in connection._sslobj.get_unverified_chain()]
    finally:
        writer.transport.abort()


def _only(shown: Sequence[bytes], fingerprint: str, place: str) -> ssl.SSLContext:
    for certificate in shown:
        if hashlib.sha256(certificate).hexdigest() == fingerprint:
            made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            made.load_verify_locations(cadata=certificate)
            made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            # With its own certificate a server may have any name; with one of an authority its name is checked.
            made.check_hostname = certificate is not shown[0]
            return made
    own = hashlib.sha256(shown[0]).hexdigest()
    raise untrusted(f"its certificate has the fingerprint {own}, and tls_fingerprint is another", place)


def is_here(host: str) -> bool:
    """Whether a host is this machine, so that no network is used."""
    return host in ("localhost", "::1") or re.fullmatch(r"127\.\d+\.\d+\.\d+", host) is not None


def was_cut(error: BaseException) -> bool:
    """Whether a connection ended during the TLS handshake, which says nothing about trust."""
    return isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)


def unreachable(reason: str, place: str) -> ConnectionFailed:
    """The server did not answer, or the connection broke."""
    return ConnectionFailed(
        f"the connection to {place} failed: {reason}.",
        remedy="nothing, if it passes: the scan is tried again. Otherwise check address, http or https, network and server.",
    )


def not_verified(said: str, place: str) -> ConfigError:
    """Nobody that is trusted has signed the certificate of a database server."""
    return ConfigError(
        f"the certificate of {place} cannot be verified: {said}.",
        remedy="name the authority that signed it in tls_ca, or see whether the address is right.",
    )


def untrusted(reason: str, place: str) -> ConfigError:
    """The certificate of the server was not accepted."""
    return ConfigError(
        f"{place} cannot be trusted: {reason}.",
        remedy="name the authority in tls_ca, or the certificate's SHA-256 in tls_fingerprint; and check http or https in url.",
    )
