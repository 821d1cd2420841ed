"""Files in a bucket of Alibaba Cloud's OSS, by its endpoint that is compatible with S3."""

from __future__ import annotations

import dataclasses
import os
from typing import Annotated, ClassVar, Literal

import msgspec

from retl.connectors.files.store import FileStore
from retl.connectors.files.stores.objects.opening import open_store
from retl.connectors.files.stores.objects.options import Location, Login, ObjectOptions
from retl.model.errors import ConfigError
from retl.model.secret import env

Network = Literal["public", "internal", "accelerate", "accelerate-overseas"]

_HOSTS: dict[Network, str] = {
    "public": "s3.oss-{region}.aliyuncs.com",
    "internal": "s3.oss-{region}-internal.aliyuncs.com",
    "accelerate": "s3.oss-accelerate.aliyuncs.com",
    "accelerate-overseas": "s3.oss-accelerate-overseas.aliyuncs.com",
}
_KEY, _SECRET, _TOKEN = "OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN"


class OSSFiles(ObjectOptions, kw_only=False, forbid_unknown_fields=True):
    """Files below a prefix of a bucket of OSS, as a source."""

    type_name: ClassVar[str] = "oss"
    summary: ClassVar[str] = "Files in a bucket of Alibaba Cloud OSS."
    example: ClassVar[str] = 'source = { type = "oss", url = "oss://exports/daily/", region = "cn-hangzhou" }'
    schemes: ClassVar[tuple[str, ...]] = ("oss",)

    url: Annotated[str, msgspec.Meta(description="`oss://bucket/folder/`; the key as it is, nothing escaped.")]
    network: Annotated[
        Network,
        msgspec.Meta(
            description="Which endpoint of the region: `public`, `internal` (from within it), or one of transfer acceleration."
        ),
    ] = "public"
    bucket_in_host: Annotated[
        bool,
        msgspec.Meta(
            description="Whether `endpoint` is a domain that is bound to the bucket (CNAME), and so names it."
        ),
    ] = False

    def location(self) -> Location:
        region = self._signing_region()
        if self.bucket_in_host and self.endpoint is None:
            raise ConfigError(
                "bucket_in_host needs the domain that is bound to the bucket.",
                remedy='name it: endpoint = "https://files.example.com".',
            )
        return dataclasses.replace(
            super().location(),
            region=region,
            endpoint=self._endpoint() or f"https://{_HOSTS[self.network].format(region=region)}",
            # OSS refuses a bucket in the path.
            addressing="virtual",
            bucket_in_host=self.bucket_in_host,
        )

    def _signing_region(self) -> str:
        """OSS signs with ``cn-hangzhou``, and calls the same region ``oss-cn-hangzhou`` in addresses."""
        if not self.region:
            raise ConfigError("oss needs the region of the bucket.", remedy='name it: region = "cn-hangzhou".')
        return self.region.removeprefix("oss-")

    def store(self) -> FileStore:
        self.check_keys()
        return open_store(self, self.location(), self._login(), product="OSS")

    def _login(self) -> Login:
        """The keys that are given, or those of the environment under the names that OSS's own tools use."""
        if self.access_key is not None:
            return Login(self.access_key, self.secret_key, self.session_token)
        if _KEY not in os.environ:
            raise ConfigError(
                "oss needs credentials.",
                remedy=f"give access_key and secret_key, or set {_KEY} and {_SECRET} (and {_TOKEN}).",
            )
        return Login(env(_KEY), env(_SECRET), env(_TOKEN) if _TOKEN in os.environ else None)
