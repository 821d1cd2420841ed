"""What users write to reach a bucket, and what it comes to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import msgspec

from retl.connectors.files.source import FileOptions
from retl.connectors.files.store import FileStore
from retl.model.duration import parse_duration
from retl.model.errors import ConfigError
from retl.model.secret import Secret

Addressing = Literal["auto", "virtual", "path"]

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_ENDPOINT = re.compile(r"https?://[^/\s@]+(/[^\s]*)?")


class Role(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A role of AWS that is assumed with the other credentials, or with the token of a web identity."""

    arn: Annotated[str, msgspec.Meta(description="`arn:aws:iam::123456789012:role/name`.")]
    external_id: Annotated[str | None, msgspec.Meta(description="What the role's owner asks for.")] = None
    session_name: Annotated[str, msgspec.Meta(description="Under which the session stands in logs of AWS.")] = "retl"
    web_identity_token_file: Annotated[
        str | None,
        msgspec.Meta(description="A file with a token of OpenID Connect, read again each time.", extra={"path": True}),
    ] = None
    endpoint: Annotated[str | None, msgspec.Meta(description="The address of another STS than Amazon's.")] = None


@dataclass(frozen=True)
class Location:
    """A bucket, and the place in it below which files are read."""

    bucket: str
    prefix: str
    """Empty, or with a ``/`` at its end."""
    root: str
    """The address of both, ending in ``/``."""
    endpoint: str | None
    region: str | None
    addressing: Addressing = "auto"
    bucket_in_host: bool = False
    """Whether the endpoint's host is that of the bucket itself, so that no request names the bucket."""


@dataclass(frozen=True)
class Login:
    """Who asks. Without any word of it, the environment is asked as every tool of AWS does."""

    access_key: Secret | str | None = None
    secret_key: Secret | str | None = None
    session_token: Secret | str | None = None
    profile: str | None = None
    role: Role | None = None
    anonymous: bool = False


@dataclass(frozen=True)
class Limits:
    """How long, and how much at once."""

    connect_seconds: float
    idle_seconds: float
    connections: int
    parallel_parts: int
    tls_ca: str | None = None


class ObjectOptions(FileOptions, kw_only=True, forbid_unknown_fields=True):
    """How a bucket is reached. Each system declares ``url`` itself, so that it may be given without its name."""

    schemes: ClassVar[tuple[str, ...]] = ()

    access_key: Annotated[Secret | str | None, msgspec.Meta(description="Unset: what the environment gives.")] = None
    secret_key: Annotated[Secret | str | None, msgspec.Meta(description="Belongs to `access_key`.")] = None
    session_token: Annotated[
        Secret | str | None, msgspec.Meta(description="Of credentials that are valid for a time.")
    ] = None
    endpoint: Annotated[
        str | None, msgspec.Meta(description="`https://host[:port]`; that of the region when unset.")
    ] = None
    region: Annotated[str | None, msgspec.Meta(description="Where the bucket is.")] = None
    tls_ca: Annotated[
        str | None,
        msgspec.Meta(
            description="A PEM file with the authorities to trust; the usual ones when unset.", extra={"path": True}
        ),
    ] = None
    connect_timeout: Annotated[float | str, msgspec.Meta(description="How long connecting may take.")] = 10
    idle_timeout: Annotated[
        float | str, msgspec.Meta(description="How long an answer may be silent before it is asked for again.")
    ] = 60
    max_connections: Annotated[
        int, msgspec.Meta(description="How many connections all scans together may have.", ge=1)
    ] = 16
    parallel_parts: Annotated[
        int, msgspec.Meta(description="How many parts of 8 MiB of one file are under way at once.", ge=1, le=32)
    ] = 4

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address()!r})"

    def address(self) -> str:
        """The URL as it was given."""
        return str(getattr(self, "url", ""))

    def location(self) -> Location:
        """The bucket. Raises ``ConfigError`` for an address that is not one."""
        scheme, separator, rest = self.address().partition("://")
        bucket, _, prefix = rest.partition("/")
        if not separator or scheme.lower() not in self.schemes or _BUCKET.fullmatch(bucket) is None:
            raise ConfigError(
                f"{self.address()!r} is not the address of a bucket.",
                remedy=f"write {self.schemes[0]}://bucket/folder/; keys and the endpoint are options of their own.",
            )
        prefix = f"{prefix.removesuffix('/')}/" if prefix else ""
        return Location(bucket, prefix, f"{self.schemes[0]}://{bucket}/{prefix}", self._endpoint(), self.region)

    def _endpoint(self) -> str | None:
        if self.endpoint is None:
            return None
        if _ENDPOINT.fullmatch(self.endpoint) is None:
            raise ConfigError(
                f"endpoint is {self.endpoint!r}, which is not an address.",
                remedy="write https://host or https://host:port.",
            )
        return self.endpoint.rstrip("/")

    def limits(self) -> Limits:
        """The numbers, read. Raises ``ConfigError`` for a length of time that is not one."""
        return Limits(
            parse_duration(self.connect_timeout, what="connect_timeout").total_seconds(),
            parse_duration(self.idle_timeout, what="idle_timeout").total_seconds(),
            self.max_connections,
            self.parallel_parts,
            self.tls_ca,
        )

    def check_keys(self) -> None:
        """Raises ``ConfigError`` for half a pair of keys."""
        if (self.access_key is None) != (self.secret_key is None) or (self.session_token and self.access_key is None):
            raise ConfigError(
                "access_key, secret_key and session_token belong together, and one of them is missing.",
                remedy="give access_key and secret_key, with session_token where they are valid for a time.",
            )

    def store(self) -> FileStore:
        raise NotImplementedError
