"""Values that must never be printed."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Hashable
from pathlib import Path

import anyio.to_thread

from retl.model.errors import ConfigError
from retl.model.hidden import hide

_MOST_BYTES = 64 * 1024
_USER = re.compile(r"\w+://[^:]*")


class Secret:
    """A value that is looked up when it is needed and never shown.

    ``repr`` and ``str`` tell only where it comes from. Made by ``retl.env`` and
    ``retl.secret_file``, and by ``${NAME}`` and ``${file:...}`` in a job file.
    """

    __slots__ = ("_origin", "_read", "identity")

    def __init__(self, read: Callable[[], str], origin: str, *, identity: Hashable = None) -> None:
        """``read`` is called for each use. ``identity``: equal for secrets that are the same; that is ``read`` if unset."""
        self._read = read
        self._origin = origin
        self.identity: Hashable = read if identity is None else identity

    def reveal(self) -> str:
        """The value itself. Raises ``ConfigError`` if it cannot be read."""
        value = self._read()
        hide(value)
        return value

    def __repr__(self) -> str:
        return f"<secret from {self._origin}>"

    __str__ = __repr__


def env(name: str) -> Secret:
    """A secret from the environment variable ``name``, read when it is first needed."""

    def read() -> str:
        try:
            return os.environ[name]
        except KeyError:
            raise ConfigError(
                f"the environment variable {name} is not set.", remedy=f"set {name} before starting."
            ) from None

    return Secret(read, f"environment variable {name}", identity=("env", name))


def secret_file(path: str | Path) -> Secret:
    """A secret from a file of at most 64 KiB (one trailing newline is cut off), read when it is first needed."""

    def read() -> str:
        try:
            return _read_small(Path(path)).removesuffix("\n")
        except (OSError, ValueError) as error:  # a ValueError: the text is not UTF-8, or the path is impossible
            reason = error.strerror or str(error) if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigError(
                f"the secret file {str(path)!r} cannot be read: {reason}.",
                remedy="check the path and the permissions of the file.",
            ) from None

    return Secret(read, f"file {path}", identity=("file", str(path)))


def _read_small(path: Path) -> str:
    """The text of a small file, with its line ends as ``\\n``. A device such as /dev/zero never ends, so it is refused."""
    kind = path.stat().st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind) or stat.S_ISDIR(kind)):
        raise OSError("it is a device, not a file")
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise OSError(f"it has more than {_MOST_BYTES // 1024} KiB, which no secret has")
    return content.decode("utf-8").replace("\r\n", "\n")


def reveal(value: str | Secret) -> str:
    """The text of a setting that may be plain or a secret; all messages hide it from now on."""
    if isinstance(value, Secret):
        return value.reveal()
    hide(value)
    return value


async def revealed(value: str | Secret) -> str:
    """The same in an event loop: a file or a vault is asked in a worker thread."""
    return await anyio.to_thread.run_sync(value.reveal) if isinstance(value, Secret) else reveal(value)


def without_password(url: str) -> str:
    """A URL without its password, which may hold any character, even one that should be escaped.

    Without a correct scheme nothing tells user and password apart, so neither is shown.
    """
    login, at, place = url.rpartition("@")
    if not at:
        return url
    user = _USER.match(login)
    if user is None:
        return f"***@{place}"
    return url if user[0] == login else f"{user[0]}:***@{place}"
