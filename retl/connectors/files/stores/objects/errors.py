"""What a store of objects answers and what its driver raises, as errors of retl: each with what to do."""

from __future__ import annotations

import ssl
from http.client import HTTPException

import aiohttp
from botocore import exceptions as botocore

from retl.connectors.files.stores.objects.answers import Refused
from retl.connectors.files.stores.objects.remedies import REMEDIES, TRANSIENT
from retl.connectors.net import tls
from retl.model.errors import ConfigError, ConnectionFailed, RetlError, SourceError, TransientError

DRIVER = (
    Refused,
    botocore.ClientError,
    botocore.BotoCoreError,
    aiohttp.ClientError,
    HTTPException,
    OSError,
    ValueError,
    RuntimeError,
)
"""What a question may raise: an endpoint that is none is a ValueError, credentials that stay expired are a RuntimeError."""

CHANGED = frozenset(
    {"PreconditionFailed", "412", "NoSuchKey", "NoSuchVersion", "404", "NotFound", "InvalidRange", "416"}
)
ARCHIVED = frozenset({"InvalidObjectState"})
EXPIRED = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "SecurityTokenExpired", "RequestExpired"}
)
_CREDENTIALS = (
    botocore.NoCredentialsError,
    botocore.PartialCredentialsError,
    botocore.CredentialRetrievalError,
    botocore.ProfileNotFound,
    botocore.ConfigNotFound,
    botocore.ConfigParseError,
    botocore.InvalidConfigError,
    botocore.InfiniteLoopConfigError,
    botocore.RefreshWithMFAUnsupportedError,
    botocore.SSOError,
    botocore.ClientError,
    botocore.TokenRetrievalError,
    botocore.UnauthorizedSSOTokenError,
    botocore.NoAuthTokenError,
)
_LINE = (botocore.HTTPClientError, botocore.IncompleteReadError, aiohttp.ClientError, HTTPException, OSError)


def code_of(error: BaseException | None) -> str:
    """The code of the store's answer that an error of retl comes from; empty where there was no answer."""
    cause = error.__cause__ if isinstance(error, RetlError) else error
    return cause.code if isinstance(cause, Refused) else ""


def to_retl(error: Exception, what: str, place: str) -> RetlError:
    """The error for users. ``what`` was tried: ``"listing s3://bucket/a/"``; ``place`` is the address of the endpoint."""
    if isinstance(error, RetlError):
        return error
    if isinstance(error, Refused):
        return _refused(error, what)
    if isinstance(error, (*_CREDENTIALS, RuntimeError)):
        return ConfigError(
            f"there are no credentials for {what}: {_plain(error)}.",
            remedy="give access_key and secret_key, a profile, or a role; or see how this process gets its credentials.",
        )
    if isinstance(error, botocore.NoRegionError):
        return ConfigError(f"{what} needs a region.", remedy='name it: region = "eu-central-1".')
    if isinstance(error, _LINE):
        return _line(error, what, place)
    return ConfigError(f"{what} failed: {_plain(error)}.", remedy="check url, endpoint, region and tls_ca.")


def _line(error: Exception, what: str, place: str) -> RetlError:
    cause = error.kwargs.get("error", error) if isinstance(error, botocore.BotoCoreError) else error
    if isinstance(cause, aiohttp.ClientSSLError):
        cause = cause.os_error
    if isinstance(cause, ssl.SSLError) and not tls.was_cut(cause):
        return ConfigError(
            f"{place} cannot be trusted: {_plain(cause)}.",
            remedy="name the authority in tls_ca; and check https or http in endpoint.",
        )
    return ConnectionFailed(
        f"the line was lost while {what}: {_plain(error)}.",
        remedy="nothing, if it passes: the scan is tried again. Otherwise check endpoint, region, network and server.",
    )


def _refused(error: Refused, what: str) -> RetlError:
    words = ", ".join(word.rstrip(". ") for word in (error.message, error.detail) if word)
    said = f"{what} was refused: {error.code}{f' ({words})' if words else ''}."
    remedy = REMEDIES.get(error.detail) or REMEDIES.get(error.code)
    if remedy is not None:
        return ConfigError(said, remedy=_with_place(remedy, error))
    if error.status >= 500 or error.status == 429 or error.code.startswith(TRANSIENT):
        passing = "nothing, if it passes: the scan is tried again."
        return TransientError(said, remedy=passing, retry_after=error.retry_after)
    if error.status in (401, 403):
        return ConfigError(said, remedy=REMEDIES["AccessDenied"])
    if error.status < 400 or error.right_place:
        return ConfigError(said, remedy=_with_place(REMEDIES["PermanentRedirect"], error))
    return SourceError(said, remedy="look the code up in the documentation of the store.")


def _with_place(remedy: str, error: Refused) -> str:
    return remedy.replace("{region}", f" (the store names {error.right_place})" if error.right_place else "")


def _plain(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
