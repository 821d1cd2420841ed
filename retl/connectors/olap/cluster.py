"""The FEs of one address: ask the first that can be reached."""

from __future__ import annotations

import re
from collections.abc import Sequence

from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.login import Login
from retl.model.errors import ConfigError, ConnectionFailed

_ADDRESS = re.compile(r"(?:\[([^\]]+)\]|([^:\[\],\s]+))(?::(\d{1,5}))?")

_LAST_PORT = 65_535


def addresses(text: str, port: int) -> list[tuple[str, int]]:
    """``fe1:9030,fe2`` as hosts and ports. Raises ``ConfigError`` for anything else."""
    if text.count(":") > 1 and "," not in text and "[" not in text:
        return [(text, port)]  # of IPv6, in the option host
    found = [_ADDRESS.fullmatch(part.strip()) for part in text.split(",")]
    if not all(one and int(one[3] or port) <= _LAST_PORT for one in found):
        raise ConfigError(
            f"{text!r} does not name FEs.", remedy="write fe1:9030,fe2:9030 with a comma between two, and no spaces."
        )
    return [(one[1] or one[2], int(one[3] or port)) for one in found if one]


class Cluster:
    """Asks the FE that answered last, or the next one that can be reached."""

    def __init__(self, logins: Sequence[Login]) -> None:
        self._logins = list(logins)

    @property
    def login(self) -> Login:
        """That of the FE which is asked first."""
        return self._logins[0]

    async def open(self) -> MySQLConnection:
        """A connection to the first FE that accepts it. Raises ``ConnectionFailed`` that names all FEs, if none does."""
        failed: list[ConnectionFailed] = []
        for login in list(self._logins):
            try:
                connection = await MySQLConnection.open(login)
            except ConnectionFailed as error:
                failed.append(error)
                continue
            self._logins.sort(key=lambda one: one.place != login.place)
            return connection
        raise failed[0] if len(failed) == 1 else _unreachable(failed)


def _unreachable(failed: Sequence[ConnectionFailed]) -> ConnectionFailed:
    said = " ".join(error.message for error in failed)
    return ConnectionFailed(
        f"none of {len(failed)} FEs can be reached: {said}", remedy="check addresses, network and servers."
    )
