"""Files in a bucket of S3, or of a store that is compatible with it."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

import msgspec

from retl.connectors.files.store import FileStore
from retl.connectors.files.stores.objects.opening import open_store
from retl.connectors.files.stores.objects.options import Addressing, Location, Login, ObjectOptions, Role
from retl.model.errors import ConfigError


class S3Files(ObjectOptions, kw_only=False, forbid_unknown_fields=True):
    """Files below a prefix of a bucket, as a source."""

    type_name: ClassVar[str] = "s3"
    summary: ClassVar[str] = "Files in a bucket of Amazon S3, or of any store that is compatible with it."
    example: ClassVar[str] = 'source = { type = "s3", url = "s3://exports/daily/", region = "eu-central-1" }'
    schemes: ClassVar[tuple[str, ...]] = ("s3", "s3a")

    url: Annotated[str, msgspec.Meta(description="`s3://bucket/folder/`; the key as it is, nothing escaped.")]
    profile: Annotated[
        str | None, msgspec.Meta(description="A profile of the shared AWS configuration, with all that it says.")
    ] = None
    role: Annotated[Role | None, msgspec.Meta(description="A role to assume.")] = None
    anonymous: Annotated[bool, msgspec.Meta(description="Ask without credentials, as public buckets allow.")] = False
    requester_pays: Annotated[bool, msgspec.Meta(description="Agree to pay for what is read.")] = False
    addressing: Annotated[
        Addressing,
        msgspec.Meta(
            description="Whether the bucket stands in the host (`virtual`) or in the `path`; `auto`: as the driver does."
        ),
    ] = "auto"

    def location(self) -> Location:
        return dataclasses.replace(super().location(), addressing=self.addressing)

    def store(self) -> FileStore:
        self._check()
        login = Login(self.access_key, self.secret_key, self.session_token, self.profile, self.role, self.anonymous)
        return open_store(self, self.location(), login, requester_pays=self.requester_pays)

    def _check(self) -> None:
        self.check_keys()
        if self.anonymous and (self.access_key or self.profile or self.role):
            raise ConfigError(
                "anonymous contradicts access_key, profile and role.", remedy="leave out the one or the others."
            )
