"""Post notices to an address, which is a secret: no message names more of it than its host."""

from __future__ import annotations

from urllib.parse import urlsplit

import aiohttp
import anyio.to_thread

from retl.model.alerts import Alert, Notice, body_of
from retl.model.errors import ConfigError, PermanentError, TransientError
from retl.model.secret import Secret, reveal

_PASSING = frozenset({408, 425, 429})
"""Answers below 500 after which the same request may succeed."""


class Webhook:
    """The address of one alert."""

    def __init__(self, alert: Alert) -> None:
        self._alert = alert

    async def post(self, notice: Notice) -> None:
        """Deliver a notice. Raises ``TransientError`` where another attempt may help, else a ``PermanentError``."""
        url, headers = await anyio.to_thread.run_sync(self._revealed)
        host = _host(url)
        body = body_of(self._alert, notice)
        kind = "text/plain; charset=utf-8" if isinstance(body, str) else "application/json"
        try:
            # What stands in the answer, which may be endless, is not read; a redirect could lead anywhere.
            async with (
                aiohttp.ClientSession(headers={"Content-Type": kind, "User-Agent": "retl", **headers}) as session,
                session.post(url, data=body, allow_redirects=False) as answer,
            ):
                status = answer.status
        except (aiohttp.ClientError, OSError, ValueError) as error:  # its text may hold the address
            raise TransientError(f"the webhook at {host} cannot be reached ({_reason(error)}).") from None
        if status >= 500 or status in _PASSING:
            raise TransientError(f"the webhook at {host} answered {status}.")
        if status >= 300:
            raise PermanentError(f"the webhook at {host} answered {status}.", remedy="check its address and template.")

    def _revealed(self) -> tuple[str, dict[str, str]]:
        """The address and the headers; they may stand in files."""
        assert self._alert.webhook is not None
        headers = {name: _plain(value) for name, value in self._alert.headers.items()}
        return _plain(self._alert.webhook), headers


def _plain(value: Secret | str) -> str:
    return reveal(value).strip()


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return parts.hostname
    except ValueError:
        pass
    raise ConfigError("the webhook of an alert is no address.", remedy="give one that begins with https://.")


def _reason(error: Exception) -> str:
    system = getattr(error, "os_error", error)
    said = system.strerror if isinstance(system, OSError) else None
    return said or type(error).__name__
