"""Where files lie: the contract of a store, and what it says of one file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import msgspec

from retl.connectors.base import SystemInfo
from retl.model.errors import SourceError, TransientError


class FileChanged(TransientError):
    """A file is no longer what it was when it was listed: it was overwritten, cut, appended to or deleted."""


class FileArchived(SourceError):
    """A file is there, and cannot be read before somebody restores it."""


def changed(file: FileInfo, how: str) -> FileChanged:
    """The error of a file that is another one by now."""
    return FileChanged(
        f"the file {file.name!r} changed since it was listed: {how}.",
        remedy="nothing: it is taken as it is then by the next scan. Where files grow for longer, set `quiet` or `min_age`.",
    )


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(nanoseconds: int) -> datetime | None:
    """A time since 1970 as a store has it; ``None`` where no calendar reaches it."""
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1_000)
    except OverflowError:
        return None


class FileInfo(msgspec.Struct, frozen=True, gc=False):
    """One file as a listing shows it. The collector of cyclic garbage does not count it: there may be a million."""

    name: str
    """Its path below the root of the store, with ``/`` between folders; never empty. The key of an object
    may be anything: with ``//`` in it, or a ``/`` in front."""
    size: int
    """In bytes, as stored: compressed where it is compressed."""
    modified: datetime | None
    """When it was last written, in UTC, as precisely as the store knows; ``None`` where it does not."""
    identity: str
    """What changes when the content does: an ETag and a size; a size and a time."""
    archived: bool = False
    """Whether it is there, but cannot be read before somebody restores it."""


LeftOut = Callable[[str], None]
"""Called with the name of each link that is not followed, maybe in another thread."""


class FileStore(ABC):
    """A bucket, a server's folder or a local one. May be used by any number of scans at once; holds nothing of any.

    Errors are those of ``retl.model.errors``: ``ConnectionFailed`` or another ``TransientError`` for what may pass,
    ``ConfigError`` for what the user must correct (a wrong key, a denied prefix, a bucket that does not exist).
    """

    system: ClassVar[str]

    @property
    @abstractmethod
    def root(self) -> str:
        """The address of the root, without secrets, ending in ``/``: ``s3://bucket/exports/``."""

    @abstractmethod
    async def ping(self) -> SystemInfo:
        """Reach the store and see that its root may be listed."""

    @abstractmethod
    def list(self, prefix: str = "", left_out: LeftOut | None = None) -> AsyncGenerator[list[FileInfo], None]:
        """All files whose names begin with ``prefix``, page by page, ordered by the code points of their names.

        Never a part of them without an error: a listing that is cut short raises. Markers of folders are left out, and
        links that lead out of the root, in a circle or nowhere: these are told to ``left_out``.
        """

    @abstractmethod
    async def stat(self, name: str) -> FileInfo | None:
        """One file as of now; ``None`` where it does not exist."""

    @abstractmethod
    def read(self, file: FileInfo) -> AsyncGenerator[bytes, None]:
        """The content of the file under the identity it was listed with, in blocks of bounded size.

        Exactly ``file.size`` bytes, of one content. Raises ``FileChanged`` where the file is another one by now, however
        far it has been read: whatever was given before the error must then be dropped. May be closed at any time.
        """

    def whole_reader(self) -> Callable[[FileInfo], bytes] | None:
        """What gives the whole content of a small file by blocking, as ``read`` does, where that takes no waiting."""
        return None

    def path(self, file: FileInfo) -> Path | None:
        """Where the file lies on the local disk, if it does: then it need not be copied."""
        return None

    @abstractmethod
    async def aclose(self) -> None:
        """Close every connection. May be called at any time, and more than once."""
