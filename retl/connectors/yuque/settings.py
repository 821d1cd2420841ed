"""What the options come to: where to and as whom, and what is read."""

from __future__ import annotations

from dataclasses import dataclass, field

MOST_AT_ONCE = 3
"""Requests under way at once; the service asks for no more."""


@dataclass(frozen=True)
class Login:
    """Where to and as whom. Its repr shows no secret."""

    api: str
    """The address of the API, without a ``/`` at its end."""
    site: str
    """The address that people see documents under."""
    timeout: float
    longest_wait: float
    most_bytes: int
    at_once: int
    tls_ca: str | None
    token: str = field(repr=False)


@dataclass(frozen=True)
class Reading:
    """What is read of documents, and how often all of them are listed."""

    kinds: frozenset[str]
    attachments: bool
    reconcile: float
