"""What the options of all stores share."""

from __future__ import annotations

from abc import abstractmethod

from retl.connectors.base import Connector, Source
from retl.connectors.files.source import FileSource
from retl.connectors.files.store import FileStore


class FileOptions(Connector, kw_only=True, forbid_unknown_fields=True):
    """A place where files lie."""

    def source(self) -> Source:
        return FileSource(self.store())

    @abstractmethod
    def store(self) -> FileStore:
        """The store, not connected yet."""
