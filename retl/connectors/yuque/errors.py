"""What the service answers and what its line does, as errors of retl: each with what to do."""

from __future__ import annotations

import ssl

import aiohttp

from retl.connectors.net import tls
from retl.model.errors import ConfigError, RetlError, SourceError, TransientError

PASSES = frozenset({502, 503, 504})
"""What is asked for again, since it only reads."""


class NotThere(SourceError):
    """There is no such group, book or document, or none that this token sees; ``forever``: it will not come back."""

    forever: bool = False


class NotReadable(SourceError):
    """One thing cannot be read, whatever becomes of the others."""


class QuotaSpent(TransientError):
    """The service answers no more requests for now: ``retry_after`` says for how long, if it did."""


class QuotaUsedUp(SourceError):
    """The quota is used up for longer than a scan waits."""


class UnknownParameter(SourceError):
    """The service does not know what it is asked: an older installation has no such filter."""


def refused(status: int, message: str, what: str, pause: float | None) -> RetlError:
    """The error of an answer that is not the one asked for. ``what`` was tried: ``"the book 'team/handbook'"``."""
    said = f"{what}: the service answers {status}{f' ({message})' if message else ''}."
    if status in (404, 410):
        error = NotThere(said, remedy="check the name, and that the token's account may see it.")
        error.forever = status == 410
        return error
    if status == 429:
        return QuotaSpent(said, remedy="nothing: it goes on when the quota is there again.", retry_after=pause)
    if status == 401:
        return ConfigError(
            said,
            remedy="make a new token that may read groups, books and documents: this one is wrong, or has expired.",
        )
    if status == 403:
        return NotReadable(said, remedy="let the token's account read it, or leave it out.")
    if status in (400, 422):
        return UnknownParameter(
            said, remedy="check the name; if it is right, the installation is older than its API says."
        )
    if status in PASSES:
        return TransientError(said, remedy="nothing, if it passes: it is tried again.", retry_after=pause)
    if status >= 500:
        return NotReadable(said, remedy="open it in the browser; if that works, try again later.")
    if status >= 300:
        return ConfigError(said, remedy="write the address in url as the browser shows it.")
    return SourceError(said, remedy="check url: is it that of Yuque?")


def moved(location: str, what: str) -> ConfigError:
    """The service names another address. The token is not sent there."""
    return ConfigError(
        f"{what}: the service names another address, {location[:200]!r}.",
        remedy="write that host in url, if it is yours; the token goes nowhere else.",
    )


def too_large(what: str, most: int) -> NotReadable:
    """The answer is longer than the options allow."""
    return NotReadable(
        f"{what}: the answer is longer than {most:,} bytes.", remedy="raise max_bytes, or leave the document out."
    )


def no_json(what: str) -> SourceError:
    """The answer is not JSON, as that of another site would be."""
    return SourceError(
        f"{what}: the answer is not the JSON of the API.",
        remedy="check url; and that no proxy or login page is in between.",
    )


def lost_line(error: Exception, what: str, place: str) -> RetlError:
    """The error of a line that broke, or of a server that is not trusted."""
    if isinstance(error, TimeoutError):
        return tls.unreachable(f"{what}: it did not answer in time", place)
    cause = getattr(error, "os_error", error) if isinstance(error, aiohttp.ClientSSLError) else error
    if isinstance(cause, ssl.SSLError) and not tls.was_cut(cause):
        return ConfigError(
            f"{place} cannot be trusted: {cause}.",
            remedy="name its authority in tls_ca; and check http or https in url.",
        )
    return tls.unreachable(f"{what}: {' '.join(str(error).split()).rstrip('.') or type(error).__name__}", place)
