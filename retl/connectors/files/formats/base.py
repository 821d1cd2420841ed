"""The contract of a format: bytes of one file to Arrow batches. Blocking code, for worker threads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa

from retl.connectors.files.formats.options import FormatOptions
from retl.connectors.files.formats.types import given_type
from retl.model.errors import SourceError

if TYPE_CHECKING:
    from retl.connectors.files.formats.joined import Joined

LINE = "retl.line"
"""The name of a column that no file has: the number of the line, or of the row, from which each row was read."""


class FileUnreadable(SourceError):
    """A file cannot be read to its end: it is broken, cut, or not of the format it is taken for."""

    def __init__(self, message: str, *, file: str = "", line: int | None = None, **words: str) -> None:
        super().__init__(message, **words)
        self.file = file
        self.line = line


def unreadable(name: str, reason: str, *, line: int | None = None, remedy: str = "") -> FileUnreadable:
    """The error of one file, which its message names, with the line where there is one."""
    place = name if line is None else f"{name}, line {line}"
    return FileUnreadable(f"{place}: {reason}.", file=name, line=line, remedy=remedy)


class Format(ABC):
    """Reads files of one format, of any number at once: it holds nothing of any of them.

    ``file`` is unpacked already (``decompressed``). A format that does not ``seek`` reads it from its start to its end,
    in order; others may move in it.
    """

    seeks: bool = False

    def __init__(self, options: FormatOptions) -> None:
        self.options = options

    @abstractmethod
    def schema(self, file: BinaryIO, name: str) -> pa.Schema:
        """The columns of this file, inferred from a bounded sample where the format has no types.

        A column without a value in the sample has the type ``null``: see ``merged``. Raises ``FileUnreadable``.
        """

    def names(self, file: BinaryIO, name: str) -> list[str]:
        """The names of this file's columns, as cheaply as the format allows. Raises ``FileUnreadable``."""
        return list(self.schema(file, name).names)

    @abstractmethod
    def read(self, file: BinaryIO, name: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """All rows, in batches of bounded size with exactly the columns of ``schema``, found by their names.

        A column that the file lacks is NULL; a column ``LINE`` of 64-bit integers is filled with the number of each
        row's line. A row that does not fit ``schema`` is a reject (``with_rejects``) with its line and its reason. Raises
        ``FileUnreadable`` for a file that cannot be read to its end, which may be after any number of batches.
        """

    def joined(self, contents: Sequence[bytes]) -> Joined | None:
        """Several whole files as one, whose rows ``LINE`` tells apart; ``None`` where they have to be read one by one."""
        return None

    def declared(self, column: pa.Field) -> pa.Field:
        """The column as the options want it, whatever was found."""
        written = self.options.types.get(column.name)
        if written is not None:
            return given_type(column.name, written)
        if self.options.all_text and not pa.types.is_null(column.type):
            return pa.field(column.name, pa.string())
        return column
