"""The options that name a cluster, and the login that they make."""

from __future__ import annotations

import base64
import re
import ssl
from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from retl.connectors.base import Connector
from retl.connectors.net import tls
from retl.connectors.net.pool import KEEP_IDLE
from retl.connectors.net.tls import is_here
from retl.model.duration import parse_duration
from retl.model.errors import ConfigError
from retl.model.hidden import hide
from retl.model.secret import Secret, reveal, without_password

Tls = Literal["verify", "insecure"]
MAX_CONNECTIONS = 32
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BETWEEN = re.compile(r",\s*(?=\w+://)")
_PORTS = {"http": 80, "https": 443}
_HOW = "write https://host:9200, with commas between several; signs such as @ and / in a name as %40 and %2F."


def _hidden(url: str) -> str:
    """URLs without their passwords."""
    return ",".join(without_password(part) for part in _BETWEEN.split(url))


@dataclass(frozen=True)
class Node:
    """One address of the cluster."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @property
    def place(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Login:
    """Where to and as whom. Its repr shows no secret."""

    nodes: tuple[Node, ...]
    cloud_id: str | None
    timeout: float
    max_connections: int = MAX_CONNECTIONS
    keep_idle: float = KEEP_IDLE
    fingerprint: str | None = None
    tls: ssl.SSLContext | None = None
    """Which certificates to trust; ``None`` with a fingerprint, and without https."""
    encrypted: bool = False
    unchecked: bool = False
    """Whether a server on another machine need not prove who it is."""
    names_trust: bool = False
    """Whether the user has named what to trust."""
    basic: tuple[str, str] | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)

    @property
    def authorization(self) -> str | None:
        """The value of the ``Authorization`` header."""
        if self.api_key is not None:
            # Servers show it in two forms: as it is sent, and as id and key.
            return f"ApiKey {_encoded(self.api_key) if ':' in self.api_key else self.api_key}"
        return None if self.basic is None else f"Basic {_encoded(':'.join(self.basic))}"

    @property
    def place(self) -> str:
        return ",".join(node.place for node in self.nodes)

    def warnings(self) -> tuple[str, ...]:
        """What others may read or forge on the way to another machine."""
        plain = [node.place for node in self.nodes if node.scheme == "http" and not is_here(node.host)]
        found = []
        if plain and self.authorization is not None:
            found.append(
                f"the login goes to {', '.join(plain)} without TLS, so anybody on the way can read it; write https:// in url."
            )
        if self.unchecked and self.authorization is not None:
            found.append(
                'the login goes to a server that proves nothing (tls = "insecure"), so anybody on the way can take it; '
                "name its authority in tls_ca, or its certificate in tls_fingerprint."
            )
        if self.names_trust and not self.encrypted:
            found.append("tls_ca, tls_fingerprint and tls mean nothing with http://; write https:// in url.")
        return tuple(found)


class ServerOptions(Connector, kw_only=True, forbid_unknown_fields=True):
    """Address and login; single options override what ``url`` says."""

    # ``url`` is declared by the connector itself, so that it may be given without its name.
    cloud_id: Annotated[
        str | None, msgspec.Meta(description="Of a deployment in Elastic Cloud, in place of `url`.")
    ] = None
    api_key: Annotated[
        Secret | str | None,
        msgspec.Meta(description="In its encoded form, in place of user and password: `${NAME}` or `retl.env(...)`."),
    ] = None
    user: Annotated[str | None, msgspec.Meta(description="In place of the URL's.")] = None
    password: Annotated[
        Secret | str | None, msgspec.Meta(description="Better than in the URL: `${NAME}` or `retl.env(...)`.")
    ] = None
    tls: Annotated[
        Tls,
        msgspec.Meta(description="With https: `verify` checks the server's certificate, `insecure` encrypts only."),
    ] = "verify"
    tls_ca: Annotated[
        str | None,
        msgspec.Meta(
            description="A PEM file with the authorities to trust; those of the system when unset.",
            extra={"path": True},
        ),
    ] = None
    tls_fingerprint: Annotated[
        str | None,
        msgspec.Meta(
            description="The SHA-256 of the server's certificate, or of its authority's where it shows that: no other is trusted."
        ),
    ] = None
    request_timeout: Annotated[float | str, msgspec.Meta(description="How long one answer of the server may take.")] = (
        60
    )
    max_connections: Annotated[
        int, msgspec.Meta(description="How many connections to each node all scans together may have.", ge=1)
    ] = MAX_CONNECTIONS
    keep_idle: Annotated[
        float | str,
        msgspec.Meta(description="How long an idle connection is kept for the next scan; 0 closes it at once."),
    ] = KEEP_IDLE

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_hidden(self.cloud_id or self._url())!r})"

    def login(self) -> Login:
        """Where to and as whom. Raises ``ConfigError`` for what is missing or makes no sense."""
        url = self._url()
        if bool(url) == bool(self.cloud_id):
            raise ConfigError(
                "elasticsearch needs a url or a cloud_id, and one of them only.",
                remedy='name the cluster: url = "https://host:9200".',
                system=self.type_name,
            )
        parts = [part.strip() for part in _BETWEEN.split(url)] if url else []
        users = [_user(part) for part in parts]
        basic = self._basic(next((user for user in users if user), None))
        if basic and self.api_key is not None:
            raise ConfigError("elasticsearch has an api_key and a user.", remedy="keep one of them.")
        api_key = None if self.api_key is None else _key(reveal(self.api_key))
        fingerprint = None
        if self.tls_fingerprint is not None:
            fingerprint = self.tls_fingerprint.replace(":", "").strip().lower()
            if not re.fullmatch(r"[0-9a-f]{64}", fingerprint):
                raise ConfigError(
                    "tls_fingerprint is not a SHA-256 fingerprint.",
                    remedy="it has 64 hexadecimal digits: openssl x509 -fingerprint -sha256 -noout -in http_ca.crt.",
                )
        nodes = tuple(_node(part) for part in parts)
        for secret in (
            *([api_key, _encoded(api_key)] if api_key else ()),
            *([basic[1], _encoded(":".join(basic))] if basic else ()),
        ):
            hide(secret)  # a server may echo what it was sent
        encrypted = self.cloud_id is not None or any(node.scheme == "https" for node in nodes)
        return Login(
            nodes=nodes,
            cloud_id=self.cloud_id,
            timeout=parse_duration(self.request_timeout, what="request_timeout").total_seconds(),
            max_connections=self.max_connections,
            keep_idle=parse_duration(self.keep_idle, what="keep_idle").total_seconds(),
            fingerprint=fingerprint,
            tls=tls.context(self.tls_ca, verify=self.tls == "verify") if encrypted and fingerprint is None else None,
            encrypted=encrypted,
            unchecked=encrypted
            and fingerprint is None
            and self.tls == "insecure"
            and not (nodes and all(is_here(node.host) for node in nodes)),
            names_trust=self.tls_ca is not None or self.tls_fingerprint is not None,
            basic=basic,
            api_key=api_key,
        )

    def _url(self) -> str:
        return str(getattr(self, "url", None) or "")

    def _basic(self, in_url: tuple[str, str] | None) -> tuple[str, str] | None:
        user = self.user or (in_url[0] if in_url else None)
        if user is None:
            if self.password is not None:
                raise ConfigError("elasticsearch has a password and no user.", remedy='name it: user = "...".')
            return None
        password = reveal(self.password) if self.password is not None else (in_url[1] if in_url else "")
        if _CONTROL.search(user + password):
            raise ConfigError(
                "user or password of elasticsearch holds a line break, or another sign that no login may hold.",
                remedy="take it out; a file of secrets may end in an empty line.",
            )
        return user, password


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _key(given: str) -> str:
    """An API key, without the white space of its file."""
    key = given.strip()
    if not key or _CONTROL.search(key):
        raise ConfigError(
            "api_key is empty, or holds a line break or another sign that cannot be sent.",
            remedy="copy it as the server shows it: encoded, or id:key.",
        )
    return key


def _node(address: str) -> Node:
    try:
        url = urlsplit(address)
        port = url.port
    except ValueError:
        raise ConfigError("the url of elasticsearch is not an address.", remedy=_HOW) from None
    # An @ behind the first / ends a login: a part of the login would be taken for the host.
    if url.scheme not in _PORTS or not url.hostname or url.query or url.fragment or "@" in url.path:
        raise ConfigError(f"the url {_hidden(address)!r} is not one of elasticsearch.", remedy=_HOW)
    return Node(url.scheme, url.hostname, port or _PORTS[url.scheme], url.path.rstrip("/"))


def _user(address: str) -> tuple[str, str] | None:
    try:
        url = urlsplit(address)
    except ValueError:
        return None  # _node raises it
    return (unquote(url.username), unquote(url.password or "")) if url.username else None
