"""The next large file, fetched while the rows of the one before are written: source and target work at the same time."""

from __future__ import annotations

from retl.connectors.files.reading import SMALL_BYTES, Content, FileReader
from retl.connectors.files.store import FileInfo
from retl.threads import shielded

_MOST_BYTES = 1024 * 1024 * 1024
"""A file that is larger is fetched when its turn has come: until then it would only fill the disk."""


class Ahead:
    """At most one file that is fetched before it is read."""

    def __init__(self, reader: FileReader) -> None:
        self._reader = reader
        self._file: FileInfo | None = None
        self._content: Content | None = None

    async def fetch(self, file: FileInfo) -> None:
        """Begin to fetch a file, unless another one is fetched ahead. What fails is raised when it is read."""
        if self._content is not None or not SMALL_BYTES < file.size <= _MOST_BYTES:
            return
        content = self._reader.content(file)
        if not content.is_local:
            self._file, self._content = file, content
            await content.begin()

    def take(self, file: FileInfo) -> Content:
        """The content of a file whose turn has come. The caller closes it."""
        if self._content is None or file != self._file:
            return self._reader.content(file)
        content, self._content, self._file = self._content, None, None
        return content

    async def close(self) -> None:
        """Stop fetching."""
        content, self._content = self._content, None
        if content is not None:
            await shielded(content.close())
