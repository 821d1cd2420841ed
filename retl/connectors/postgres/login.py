"""Where a server is, as whom to log in, and what each of its transactions needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from retl.connectors.postgres.errors import Role, server_error
from retl.model.errors import RetlError


class Settings(Protocol):
    """The settings that every transaction needs."""

    def of(self, version: int) -> Mapping[str, str]:
        """Those that a version of the server has, by their names."""


@dataclass(frozen=True)
class Login:
    """Address and user. ``parameters`` are those of ``asyncpg.connect``."""

    parameters: Mapping[str, Any] = field(repr=False)
    place: str
    settings: Settings
    warnings: tuple[str, ...] = ()
    connect_timeout: float = 10.0
    statement_timeout: float = 86_400.0
    role: Role = "source"
    system: str = "postgres"
    explain: Callable[[str, str, Role, str], RetlError] = server_error
    """Maps an error of this server: SQLSTATE, text, role, place."""
