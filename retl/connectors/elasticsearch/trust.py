"""Whom a line to a cluster trusts, where the user names a certificate by its fingerprint.

The certificate is looked for among those that the server shows, and then becomes all that is trusted: every
connection proves by itself that its server holds the certificate, or one that it has signed. To find a
fingerprint among what is shown would prove nothing: anybody can show the certificate of an authority.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import sys
from collections.abc import Sequence

from retl.connectors.elasticsearch.errors import unreachable, untrusted, was_cut
from retl.connectors.elasticsearch.options import Node
from retl.model.errors import ConnectionFailed

_DER = 2  # _ssl.ENCODING_DER


async def trusting(nodes: Sequence[Node], fingerprint: str, timeout: float) -> ssl.SSLContext:
    """A context that trusts the certificate with a SHA-256 fingerprint and no other: the server's own, or an authority's.

    Raises ``ConfigError`` where the first node that answers does not show it, ``ConnectionFailed`` where none answers.
    """
    failed: ConnectionFailed | None = None
    for node in nodes:
        try:
            shown = await asyncio.wait_for(_shown(node), timeout)
        except TimeoutError:
            failed = unreachable("it did not answer in time", node.place)
        except OSError as error:
            if isinstance(error, ssl.SSLError) and not was_cut(error):
                raise untrusted(str(error), node.place) from None
            failed = unreachable(str(error) or type(error).__name__, node.place)
        else:
            return _only(shown, fingerprint, node.place)
    assert failed is not None
    raise failed


async def _shown(node: Node) -> list[bytes]:
    """The certificates that a server shows, its own first. Nothing is sent to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _, writer = await asyncio.open_connection(node.host, node.port, ssl=context)
    try:
        line = writer.get_extra_info("ssl_object")
        if sys.version_info >= (3, 13):
            return list(line.get_unverified_chain())
        return [one.public_bytes(_DER) for one in line._sslobj.get_unverified_chain()]
    finally:
        writer.transport.abort()


def _only(shown: Sequence[bytes], fingerprint: str, place: str) -> ssl.SSLContext:
    for certificate in shown:
        if hashlib.sha256(certificate).hexdigest() == fingerprint:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=certificate)
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            # The server that is meant may have any name; of the servers of an authority only one is meant.
            context.check_hostname = certificate is not shown[0]
            return context
    own = hashlib.sha256(shown[0]).hexdigest()
    raise untrusted(f"its certificate has the fingerprint {own}, and tls_fingerprint is another", place)
