"""Who asks, and where: by the driver, which knows every place that credentials and endpoints come from.

What it does reads files and may ask servers of AWS, by coroutines that block: each runs in a worker thread, on an event
loop of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from aiobotocore.credentials import (
    AioAssumeRoleCredentialFetcher,
    AioAssumeRoleWithWebIdentityCredentialFetcher,
    AioDeferredRefreshableCredentials,
)
from aiobotocore.session import AioSession
from botocore.exceptions import NoCredentialsError
from botocore.utils import FileWebIdentityTokenLoader

from retl.connectors.files.stores.objects.options import Location, Login, Role
from retl.connectors.files.stores.objects.signing import Keys
from retl.model.hidden import hide
from retl.model.secret import reveal

T = TypeVar("T")
_ANYWHERE = "us-east-1"


class Credentials:
    """The keys of a login, renewed before they expire. Raises the driver's errors."""

    def __init__(self, session: AioSession, login: Login, region: str) -> None:
        self._session = session
        self._login = login
        self._region = region
        self._lock = anyio.Lock()
        self._found: Any = None
        self._keys: Keys | None = None

    async def keys(self) -> Keys | None:
        """The keys as of now; ``None`` for who asks anonymously."""
        if self._login.anonymous:
            return None
        if self._keys is None or self._is_old():
            async with self._lock:
                if self._keys is None or self._is_old():
                    self._keys = await self._fetched()
        return self._keys

    def _is_old(self) -> bool:
        needed = getattr(self._found, "refresh_needed", None)
        return bool(needed and needed())

    async def _fetched(self) -> Keys:
        if self._found is None:
            self._found = await self._find()
        frozen = await _in_thread(self._found.get_frozen_credentials)
        for secret in filter(None, (frozen.secret_key, frozen.token)):
            hide(secret)
        return Keys(frozen.access_key, frozen.secret_key, frozen.token)

    async def _find(self) -> Any:
        role = self._login.role
        if role is not None and role.web_identity_token_file is not None:
            return _of_role(self._session, role, self._region)
        found = await _in_thread(self._session.get_credentials)
        if found is None:
            raise NoCredentialsError
        return found if role is None else _of_role(self._session, role, self._region, found)


def new_session(login: Login) -> AioSession:
    """A session of the driver. Blocks: it reads the files of profiles."""
    session = AioSession(profile=login.profile)
    if login.profile is not None:
        session.get_scoped_config()  # raises where there is no such profile
    if login.access_key is not None and login.secret_key is not None:
        token = None if login.session_token is None else reveal(login.session_token)
        session.set_credentials(reveal(login.access_key), reveal(login.secret_key), token)
    return session


def region_of(session: AioSession, location: Location) -> str | None:
    """The region to sign with. Another store than Amazon's mostly takes any."""
    region = location.region or session.get_config_variable("region")
    if region is None and location.endpoint is not None:
        return _ANYWHERE
    return None if region is None else str(region)


async def base_url(session: AioSession, location: Location, region: str | None) -> str:
    """The address of the bucket, to which a ``/`` and a key are added."""
    endpoint = location.endpoint or await _endpoint(session, region)
    if location.bucket_in_host:
        return endpoint
    if location.addressing == "virtual" or (location.addressing == "auto" and _is_virtual(endpoint, location.bucket)):
        scheme, _, host = endpoint.partition("://")
        return f"{scheme}://{location.bucket}.{host}"
    return f"{endpoint}/{location.bucket}"


async def _endpoint(session: AioSession, region: str | None) -> str:
    """Where the driver, its environment and its files say that a region is."""
    creator = session.create_client("s3", region_name=region, aws_access_key_id="none", aws_secret_access_key="none")
    client = await _in_thread(creator.__aenter__)
    await _in_thread(partial(creator.__aexit__, None, None, None))
    return str(client.meta.endpoint_url).rstrip("/")


def _is_virtual(endpoint: str, bucket: str) -> bool:
    """Amazon asks for the bucket in the host, where a certificate can cover that; other stores mostly for it in the path."""
    return ".amazonaws.com" in endpoint and "." not in bucket


def _of_role(session: AioSession, role: Role, region: str, source: Any = None) -> AioDeferredRefreshableCredentials:
    creator = partial(session.create_client, region_name=region, endpoint_url=role.endpoint)
    words = {"RoleSessionName": role.session_name}
    if role.external_id is not None:
        words["ExternalId"] = role.external_id
    fetcher = (
        AioAssumeRoleWithWebIdentityCredentialFetcher(
            creator, FileWebIdentityTokenLoader(role.web_identity_token_file), role.arn, extra_args=words
        )
        if source is None
        else AioAssumeRoleCredentialFetcher(creator, source, role.arn, extra_args=words)
    )
    return AioDeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")


async def _in_thread(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    coroutine = work()
    try:
        return await anyio.to_thread.run_sync(asyncio.run, coroutine)
    finally:
        coroutine.close()  # who is cancelled before the thread begins leaves none that nobody awaits
