"""What Parquet, Arrow and ORC share: files that know the types of their columns."""

from __future__ import annotations

import io
import shutil
import struct
import tempfile
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa

from retl.connectors.files.formats.base import Format, unreadable
from retl.connectors.files.formats.rejects import FoundRows, cast_rows
from retl.model.errors import RetlError
from retl.model.schema import is_bytes, is_text, value_type

BATCH_BYTES = 8 * 1024 * 1024
MOST_ROWS = 65_536
_BROKEN = (
    pa.ArrowException,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
)
"""What readers raise for bytes that are not what they seem."""


class Columnar(Format):
    """A format that stores columns with their types, and needs to move in its file."""

    seeks = True

    def schema(self, file: BinaryIO, name: str) -> pa.Schema:
        with _readable(file, name) as movable:
            found = self._schema(movable)
        return pa.schema([self.declared(pa.field(column.name, _usual(column.type))) for column in found])

    def read(self, file: BinaryIO, name: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        line = 1
        with _readable(file, name) as movable:
            for batch in self._batches(movable, schema.names):
                columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                lines = np.arange(line, line + batch.num_rows)
                line += batch.num_rows
                yield cast_rows(FoundRows(columns, lines), schema, self.options)

    @abstractmethod
    def _schema(self, file: BinaryIO) -> pa.Schema:
        """The columns as the file tells them."""

    @abstractmethod
    def _batches(self, file: BinaryIO, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """All rows, with those of the columns that the file has."""


class Watched(io.RawIOBase):
    """A file that remembers its own error: some readers tell only that they could not go on."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:
            self.error = error
            raise

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        try:
            return self._file.seek(offset, whence)
        except Exception as error:
            self.error = error
            raise


@contextmanager
def _readable(file: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """A file that may be moved in; whatever a reader says of its bytes is a ``FileUnreadable``."""
    with seekable(file) as movable:
        watched = Watched(movable)
        try:
            yield cast("BinaryIO", watched)
        except RetlError:
            raise
        except _BROKEN as error:
            raise watched.error or unreadable(name, _reason(error)) from None


@contextmanager
def seekable(file: BinaryIO) -> Iterator[BinaryIO]:
    """The file itself, or a copy on disk of one that can only be read in order."""
    if file.seekable():
        yield file
        return
    with tempfile.TemporaryFile(prefix="retl-") as copy:
        shutil.copyfileobj(file, copy, 1024 * 1024)
        copy.seek(0)
        yield cast("BinaryIO", copy)


def sliced(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """A batch of any size, in batches of bounded size."""
    rows = rows_of(batch.nbytes, batch.num_rows)
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def rows_of(size: int, rows: int) -> int:
    """How many rows make a batch, where so many rows have so many bytes."""
    return max(1, min(MOST_ROWS, BATCH_BYTES * rows // max(size, 1)))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).removesuffix(".")


def _usual(kind: pa.DataType) -> pa.DataType:
    """The type without its layout: dictionaries, views and large offsets are the file's own concern."""
    kind = value_type(kind)
    if is_text(kind):
        return pa.string()
    if is_bytes(kind):
        return pa.binary()
    if pa.types.is_date64(kind):
        return pa.date32()
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return pa.timestamp(kind.unit, "UTC")
    return pa.float32() if pa.types.is_float16(kind) else kind
