"""One connection to Redshift: PostgreSQL's protocol, with what Redshift lacks of it left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

import asyncpg

from retl.connectors.postgres.connection import PostgresConnection
from retl.connectors.postgres.errors import SourceRefused
from retl.model.errors import ConfigError

FETCH_ROWS = 1_000
"""More at once is refused where there is one node."""
_SNAPSHOT = "BEGIN"
_VERSION = re.compile(r"Redshift ([\d.]+)")


class Session(NamedTuple):
    """The settings of a session, which are set once and asked back; nobody pools sessions of Redshift by transaction."""

    values: Mapping[str, str]

    def of(self, version: int) -> Mapping[str, str]:
        """Those of any version."""
        return self.values


def session(search_path: str, statement_timeout: float, query_group: str | None) -> Session:
    """What guarantees depend on, whatever user and cluster say."""
    values = {
        # A TIMESTAMPTZ is shown in it, and the clock is.
        "timezone": "UTC",
        # Times are written and read in one way.
        "datestyle": "ISO, YMD",
        "statement_timeout": str(round(statement_timeout * 1000)),
        # Names of a user's own query and expressions.
        "search_path": search_path,
    }
    return Session({**values, "query_group": query_group} if query_group else values)


class RedshiftConnection(PostgresConnection):
    """An open connection. Used by one task at a time; ``abort`` may be called by any."""

    version: str = ""
    """Of Redshift: 1.0.117891."""
    case_sensitive: bool = False
    """Whether quoted names keep their case."""
    nodes: int = 1
    """How many nodes the cluster has, as far as it tells."""

    async def query(self, sql: str) -> list[tuple[object, ...]]:
        """The rows of a small result, in the open transaction or in none."""
        async with self._guarded():
            return [tuple(row) for row in await self._driver.fetch(self._sendable(sql))]

    async def begin(self, mode: str = "") -> None:
        """Begin a transaction. Its snapshot is taken by the first statement that touches a user's table."""
        await self.execute(_SNAPSHOT)

    async def declare(self, sql: str) -> None:
        """Declare the one cursor that a session may have. The cluster runs the query when it is first fetched from."""
        await self.execute(f"DECLARE retl_rows CURSOR FOR {sql}")

    async def fetch(self) -> list[asyncpg.Record]:
        """The cursor's next rows."""
        async with self._guarded():
            found: list[asyncpg.Record] = await self._driver.fetch(f"FETCH FORWARD {FETCH_ROWS} FROM retl_rows")
            return found

    async def records(self, sql: str) -> list[asyncpg.Record]:
        """All rows of a result that fits into memory."""
        async with self._guarded():
            found: list[asyncpg.Record] = await self._driver.fetch(self._sendable(sql))
            return found

    async def _prepare(self) -> None:
        """See what the server is, and that it keeps the settings."""
        if not hasattr(self._driver.get_settings(), "padb_revision"):
            raise ConfigError(
                f"the server at {self.place} is no Redshift.", remedy='name its own type, such as type = "postgres".'
            )
        wanted = self._login.settings.of(0)
        for name, value in wanted.items():
            await self.execute(f"SET {name} TO {value if name == 'search_path' else _text(value)}")
        ((said,),) = await self.query("SELECT version()")
        found = _VERSION.search(str(said))
        self.version = found[1] if found else str(said)
        self.case_sensitive = await self._shown("enable_case_sensitive_identifier") in ("on", "true")
        for name in ("timezone", "datestyle", "statement_timeout"):
            await self._check(name, wanted[name])
        self.nodes = await self._count_nodes()

    async def _shown(self, name: str) -> str:
        ((value,),) = await self.query(f"SHOW {name}")
        return str(value)

    async def _check(self, name: str, value: str) -> None:
        found = await self._shown(name)
        if _plain(found) != _plain(value):
            raise ConfigError(
                f"the server at {self.place} keeps {name} at {found!r}, though it was told to use {value!r}.",
                remedy="see what stands between: a proxy that ignores SET, or another product than Redshift.",
            )

    async def _count_nodes(self) -> int:
        """How many nodes it has; one where it does not tell."""
        with suppress(SourceRefused, ConfigError):
            ((nodes,),) = await self.query("SELECT COUNT(DISTINCT node) FROM stv_slices")
            return max(1, int(str(nodes)))
        return 1


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


_UNITS = {"d": 86_400_000, "h": 3_600_000, "min": 60_000, "s": 1_000, "ms": 1}


def _plain(value: str) -> str:
    """A setting as it is compared: a length of time in milliseconds."""
    found = re.fullmatch(r"(\d+)(d|h|min|s|ms)", value.strip())
    return str(int(found[1]) * _UNITS[found[2]]) if found else value.replace(" ", "").lower()
