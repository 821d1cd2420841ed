"""Whom a line trusts by a fingerprint or an authority: servers that show what they please, and what they get to hear."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from retl.connectors import Elasticsearch
from retl.connectors.elasticsearch.connection import Client
from retl.model.errors import ConfigError, ConnectionFailed
from tests.servers.process import free_port

ROOT = {"version": {"number": "8.19.13"}}


class Shown:
    """A server's key, and the certificates that it shows."""

    def __init__(self, key: bytes, *certificates: bytes) -> None:
        self.key = key
        self.certificates = certificates
        # Who asked, by the header that says so.
        self.heard: list[str | None] = []

    @classmethod
    def by(cls, authority: trustme.CA, *names: str, shows: trustme.CA | None = None) -> Shown:
        """A server of some names, certified by an authority. It shows it, or another one as if it were that."""
        certificate = authority.issue_cert(*(names or ("127.0.0.1",)))
        own = [part.bytes() for part in certificate.cert_chain_pems]
        return cls(certificate.private_key_pem.bytes(), *own, (shows or authority).cert_pem.bytes())

    @asynccontextmanager
    async def serve(self, folder: Path) -> AsyncIterator[str]:
        """Answer as Elasticsearch does; the place."""
        pem = folder / "server.pem"
        pem.write_bytes(b"".join((self.key, *self.certificates)))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)

        async def answer(request: web.Request) -> web.Response:
            self.heard.append(request.headers.get("authorization"))
            return web.json_response(ROOT)

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        try:
            yield f"127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


def fingerprint(pem: bytes) -> str:
    """As `openssl x509 -fingerprint -sha256` writes it."""
    digits = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest().upper()
    return ":".join(digits[at : at + 2] for at in range(0, 64, 2))


async def reach(url: str, **words: Any) -> None:
    client = await Client.open(Elasticsearch(url, user="ann", password="s3cret", **words), "source")
    await client.request("GET", "/_count")
    await client.close()


async def test_the_fingerprint_of_the_server_is_enough_whatever_its_name(tmp_path: Path) -> None:
    shown = Shown.by(trustme.CA(), "elsewhere.example")
    async with shown.serve(tmp_path) as place:
        await reach(f"https://{place}", tls_fingerprint=fingerprint(shown.certificates[0]))
    assert len(shown.heard) == 2


async def test_the_fingerprint_of_its_authority_is_that_which_a_server_prints_at_its_first_start(
    tmp_path: Path,
) -> None:
    authority = trustme.CA()
    shown = Shown.by(authority)
    async with shown.serve(tmp_path) as place:
        await reach(f"https://{place}", tls_fingerprint=fingerprint(authority.cert_pem.bytes()))
    assert len(shown.heard) == 2


async def test_another_server_of_the_same_authority_is_not_the_one_that_is_meant(tmp_path: Path) -> None:
    authority = trustme.CA()
    shown = Shown.by(authority, "elsewhere.example")
    async with shown.serve(tmp_path) as place:
        with pytest.raises(ConfigError, match=r"cannot be trusted.*not valid for '127\.0\.0\.1'"):
            await reach(f"https://{place}", tls_fingerprint=fingerprint(authority.cert_pem.bytes()))
    assert shown.heard == []


async def test_whoever_shows_an_authority_has_not_been_certified_by_it(tmp_path: Path) -> None:
    authority = trustme.CA()
    shown = Shown.by(trustme.CA(), shows=authority)
    async with shown.serve(tmp_path) as place:
        with pytest.raises(ConfigError, match=r"cannot be trusted.*verify failed"):
            await reach(f"https://{place}", tls_fingerprint=fingerprint(authority.cert_pem.bytes()))
    assert shown.heard == []


async def test_a_wrong_fingerprint_says_which_is_the_right_one(tmp_path: Path) -> None:
    shown = Shown.by(trustme.CA())
    own = fingerprint(shown.certificates[0]).replace(":", "").lower()
    async with shown.serve(tmp_path) as place:
        with pytest.raises(ConfigError, match=rf"{place} cannot be trusted.*{own}"):
            await reach(f"https://{place}", tls_fingerprint="12" * 32)
    assert shown.heard == []


async def test_a_node_that_is_down_is_passed_over_and_plain_ones_are_not_asked(tmp_path: Path) -> None:
    shown = Shown.by(trustme.CA())
    down, mark = f"https://127.0.0.1:{free_port()}", fingerprint(shown.certificates[0])
    with pytest.raises(ConnectionFailed, match=down[8:]):
        await reach(f"http://127.0.0.1:1,{down}", tls_fingerprint=mark)
    async with shown.serve(tmp_path) as place:
        options = Elasticsearch(f"{down},https://{place}", tls_fingerprint=mark)
        for count in range(1, 9):  # whichever the client asks first
            client = await Client.open(options, "source")
            await client.close()
            assert len(shown.heard) == count


def made_by_certutil() -> tuple[bytes, Shown]:
    """An authority as Elasticsearch made them for years, which does not say what its key is for; and a server of it."""
    now, key = dt.datetime.now(dt.UTC), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Elastic Certificate Tool Autogenerated CA")])

    def signed(name: x509.Name, public: ec.EllipticCurvePublicKey, *, authority: bool) -> bytes:
        made = x509.CertificateBuilder(issuer, name, public, 1, now, now + dt.timedelta(days=1))
        made = made.add_extension(x509.BasicConstraints(authority, None), critical=True)
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        made = made if authority else made.add_extension(names, critical=False)
        return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    own = ec.generate_private_key(ec.SECP256R1())
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    ca = signed(issuer, key.public_key(), authority=True)
    server = signed(x509.Name([]), own.public_key(), authority=False)
    return ca, Shown(own.private_bytes(*plain), server, ca)


@pytest.mark.parametrize("word", ["tls_ca", "tls_fingerprint"])
async def test_an_authority_that_does_not_say_what_its_key_is_for(tmp_path: Path, word: str) -> None:
    ca, shown = made_by_certutil()
    (tmp_path / "ca.pem").write_bytes(ca)
    # Python 3.13 began to refuse such authorities.
    login = Elasticsearch("https://a", tls_ca=str(tmp_path / "ca.pem")).login()
    assert login.tls is not None and not login.tls.verify_flags & ssl.VERIFY_X509_STRICT
    async with shown.serve(tmp_path) as place:
        await reach(f"https://{place}", **{word: str(tmp_path / "ca.pem") if word == "tls_ca" else fingerprint(ca)})
    assert len(shown.heard) == 2


@pytest.mark.parametrize("more", [{}, {"tls_fingerprint": "12" * 32}])
async def test_a_line_that_is_cut_before_anybody_was_trusted_is_tried_again(more: dict[str, str]) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.close()

    async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
        place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(ConnectionFailed, match=place):
            await reach(f"https://{place}", **more)
