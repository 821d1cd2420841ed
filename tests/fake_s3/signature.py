"""Sees that a request is signed as AWS asks for, by the driver's own code."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from aiohttp import web
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

_HEADER = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?SignedHeaders=([^,]+), ?Signature=(\w{64})"
)
_SKEW = timedelta(minutes=15)


class BadSignature(Exception):
    """The code of the refusal, and what else stands in it."""

    def __init__(self, code: str, **more: str) -> None:
        super().__init__(code)
        self.code = code
        self.more = more


def check(request: web.Request, secrets: dict[str, str], region: str | None, now: datetime) -> str | None:
    """The access key of who asks; ``None`` for nobody. Raises ``BadSignature``. Any region does where none is named."""
    given = request.headers.get("Authorization")
    if given is None:
        return None
    found = _HEADER.fullmatch(given)
    if found is None:
        raise BadSignature("InvalidArgument")
    access_key, _day, signed_region, names, signature = found.groups()
    if access_key not in secrets:
        raise BadSignature("InvalidAccessKeyId")
    if region is not None and signed_region != region:
        raise BadSignature("AuthorizationHeaderMalformed", Region=region)
    moment = datetime.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if abs(moment - now) > _SKEW:
        raise BadSignature("RequestTimeTooSkewed")
    if _signature(request, Credentials(access_key, secrets[access_key]), signed_region, names) != signature:
        raise BadSignature("SignatureDoesNotMatch")
    return access_key


def _signature(request: web.Request, keys: Credentials, region: str, names: str) -> str:
    auth = S3SigV4Auth(keys, "s3", region)
    headers = {name: request.headers[name] for name in names.split(";")}
    raw = AWSRequest(request.method, f"{request.scheme}://{request.headers['Host']}{request.raw_path}", headers)
    raw.context["timestamp"] = request.headers["x-amz-date"]
    raw.context["payload_signing_enabled"] = True
    return str(auth.signature(auth.string_to_sign(raw, _canonical(auth, raw, names)), raw))


def _canonical(auth: S3SigV4Auth, raw: AWSRequest, names: str) -> str:
    path, _, query = raw.url.split("://", 1)[1].partition("/")[2].partition("?")
    headers = "".join(f"{name}:{' '.join(raw.headers[name].split())}\n" for name in names.split(";"))
    return "\n".join((raw.method, f"/{path}", query, headers, names, raw.headers["x-amz-content-sha256"]))
