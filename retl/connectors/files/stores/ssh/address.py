"""Addresses of SSH: ``ssh://user:password@host:port/folder``."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, unquote_to_bytes, urlsplit

from retl.connectors.base import ConfigError
from retl.connectors.files.names import to_name
from retl.model.secret import without_password

_SCHEMES = ("ssh", "sftp")
_HOW = "write ssh://user@host:22/folder; signs such as @ and ? in a name as %40 and %3F."


@dataclass(frozen=True)
class Address:
    """Where a server listens, who logs in, and which folder is meant."""

    host: str
    port: int | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    folder: bytes = b"."
    """As the server is asked for it: from ``/``, or from the user's home."""

    @classmethod
    def read(cls, url: str) -> Address:
        """Raises ``ConfigError`` for what is no address of SSH."""
        split, port = _split(url)
        password = None if split.password is None else unquote(split.password)
        user = None if not split.username else unquote(split.username)
        return cls(split.hostname or "", port, user, password, _folder(unquote_to_bytes(split.path)))

    @property
    def place(self) -> str:
        """Host and port, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def text(self) -> str:
        """The whole address without its password, ending in ``/``."""
        user = "" if self.user is None else f"{self.user}@"
        folder = to_name(self.folder)
        if not folder.startswith("/"):
            folder = "/~/" if folder == "." else f"/~/{folder}"
        return f"ssh://{user}{self.place}{folder.rstrip('/')}/"


def _split(url: str) -> tuple[SplitResult, int | None]:
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError:
        raise ConfigError("the url of ssh is not an address.", remedy=_HOW) from None
    if split.scheme not in _SCHEMES or not split.hostname or split.query or split.fragment:
        raise ConfigError(f"the url {without_password(url)!r} is not one of ssh.", remedy=_HOW)
    return split, port


def _folder(path: bytes) -> bytes:
    if path == b"/~" or path.startswith(b"/~/"):
        return path[3:].strip(b"/") or b"."
    return path.rstrip(b"/") or b"/"
