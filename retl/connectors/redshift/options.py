"""The options of Redshift that are tables of their own."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

import msgspec

from retl.connectors.net.options import Tls
from retl.connectors.postgres.options import ServerOptions
from retl.model.errors import ConfigError
from retl.model.secret import Secret

_BUCKET = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([^'\\]*))?")
_ROLE = re.compile(r"default|arn:[\w:/+=,.@-]+(?:,arn:[\w:/+=,.@-]+)*")
_WORD = re.compile(r"[\w:/-]+")


class ClusterOptions(ServerOptions, kw_only=True, forbid_unknown_fields=True):
    """Address and login of a cluster; its certificate is verified unless told otherwise."""

    schemes: ClassVar[tuple[str, ...]] = ("redshift", "postgresql", "postgres")
    default_port: ClassVar[int] = 5439

    tls: Annotated[
        Tls,
        msgspec.Meta(
            description="`verify` checks the server's certificate and name (verify-full), `insecure` encrypts only, `off` does not."
        ),
    ] = "verify"

    def _check_parameters(self, query: dict[str, str]) -> None:
        """TLS and the like are options: what a URL says of them for other drivers is not understood."""
        for name in query:
            raise ConfigError(
                f"the url of redshift asks for {name!r}, which is not understood there.",
                remedy="leave out what stands behind the ?; TLS, time limits and the like are options of their own.",
            )


class IAM(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Where AWS gives a user and a password: for a cluster, or for a serverless workgroup."""

    cluster: Annotated[str | None, msgspec.Meta(description="The identifier of the cluster.")] = None
    workgroup: Annotated[str | None, msgspec.Meta(description="The name of the serverless workgroup.")] = None
    region: Annotated[str | None, msgspec.Meta(description="Its region; that of the environment when unset.")] = None
    profile: Annotated[str | None, msgspec.Meta(description="A profile of the shared AWS configuration.")] = None

    def __post_init__(self) -> None:
        if (self.cluster is None) == (self.workgroup is None):
            raise ConfigError("iam needs either cluster or workgroup.", remedy='write iam = { cluster = "name" }.')


class Unload(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """The bucket through which large results are read, and how both sides reach it."""

    url: Annotated[
        str,
        msgspec.Meta(description="`s3://bucket/prefix`; each scan has a folder of its own below it, and removes it."),
    ]
    iam_role: Annotated[
        str, msgspec.Meta(description="The role with which the cluster writes: `default`, or its ARN.")
    ] = "default"
    region: Annotated[str | None, msgspec.Meta(description="The bucket's region, where it is not the cluster's.")] = (
        None
    )
    kms_key_id: Annotated[str | None, msgspec.Meta(description="Encrypt the files with this key.")] = None
    max_file_mb: Annotated[int, msgspec.Meta(description="How large one file may be.", ge=5, le=6_200)] = 64
    readers: Annotated[int, msgspec.Meta(description="How many files are read side by side.", ge=1, le=16)] = 2
    access_key: Annotated[
        Secret | str | None,
        msgspec.Meta(description="With which retl reads and deletes; unset: what the environment gives."),
    ] = None
    secret_key: Annotated[Secret | str | None, msgspec.Meta(description="Belongs to `access_key`.")] = None
    endpoint: Annotated[str | None, msgspec.Meta(description="`http://host:port` of another S3 than Amazon's.")] = None

    def __post_init__(self) -> None:
        if _BUCKET.fullmatch(self.url) is None:
            raise ConfigError(f"{self.url!r} is not the address of a bucket.", remedy="write s3://bucket/prefix.")
        if _ROLE.fullmatch(self.iam_role) is None:
            raise ConfigError(
                f"iam_role is {self.iam_role!r}, which is not a role.",
                remedy='write "default" or arn:aws:iam::123456789012:role/name.',
            )
        for word in ("region", "kms_key_id"):
            value = getattr(self, word)
            if value is not None and _WORD.fullmatch(value) is None:
                raise ConfigError(f"{word} cannot be {value!r}.", remedy="write it as AWS does.")

    @property
    def bucket_name(self) -> str:
        """The bucket's name."""
        return self._parts()[0]

    @property
    def prefix(self) -> str:
        """What all keys begin with: empty, or with a slash at its end."""
        prefix = self._parts()[1].strip("/")
        return f"{prefix}/" if prefix else ""

    def _parts(self) -> tuple[str, str]:
        found = _BUCKET.fullmatch(self.url)
        assert found is not None
        return found[1], found[2] or ""
