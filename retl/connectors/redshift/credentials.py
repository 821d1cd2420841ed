"""Users and passwords that AWS gives for a short time, by ``boto3``, fetched anew for each connection."""

from __future__ import annotations

import dataclasses
from typing import Any

import anyio.to_thread

from retl.connectors.postgres.login import Login
from retl.connectors.redshift.options import IAM
from retl.model.errors import ConfigError, ConnectionFailed
from retl.model.hidden import hide


async def with_credentials(login: Login, iam: IAM, user: str | None, database: str) -> Login:
    """The login with a user and a password of AWS. Raises ``ConfigError`` or ``ConnectionFailed``."""
    name, password = await anyio.to_thread.run_sync(_fetch, iam, user, database)
    hide(password)
    return dataclasses.replace(login, parameters={**login.parameters, "user": name, "password": password})


def _fetch(iam: IAM, user: str | None, database: str) -> tuple[str, str]:
    boto3 = _library()
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        session = boto3.Session(profile_name=iam.profile, region_name=iam.region)
        return _asked(session, iam, user, database)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        kind = (
            ConnectionFailed
            if code.startswith(("Throttl", "RequestLimit", "ServiceUnavailable", "Internal"))
            else ConfigError
        )
        raise kind(
            f"AWS gives no credentials: {error}.", remedy="check the names in iam, and what the role may do."
        ) from error
    except BotoCoreError as error:
        raise ConfigError(
            f"AWS cannot be asked for credentials: {error}.",
            remedy="see how this process gets its AWS credentials and region.",
        ) from error


def _asked(session: Any, iam: IAM, user: str | None, database: str) -> tuple[str, str]:
    if iam.workgroup is not None:
        found = session.client("redshift-serverless").get_credentials(workgroupName=iam.workgroup, dbName=database)
        return str(found["dbUser"]), str(found["dbPassword"])
    client = session.client("redshift")
    if user is None:
        found = client.get_cluster_credentials_with_iam(ClusterIdentifier=iam.cluster, DbName=database)
    else:
        found = client.get_cluster_credentials(
            ClusterIdentifier=iam.cluster, DbName=database, DbUser=user, AutoCreate=False
        )
    return str(found["DbUser"]), str(found["DbPassword"])


def _library() -> Any:
    try:
        import boto3
    except ImportError as error:
        raise ConfigError(
            "iam needs the Python package 'boto3', which is not installed.", remedy="pip install 'retl[redshift-iam]'"
        ) from error
    return boto3
