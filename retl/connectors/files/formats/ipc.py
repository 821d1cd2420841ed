"""Arrow's own files and streams, Feather among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
from pyarrow import ipc

from retl.connectors.files.formats.columnar import Columnar, sliced

_MAGIC = b"ARROW1"
_CONTINUED = b"\xff\xff\xff\xff"
"""Begins each message, but in files of Arrow before 0.15."""
_END_MARK = b"\0\0\0\0"


class ArrowIPC(Columnar):
    """A batch of the file at a time; only the columns that are wanted, where it can be moved in."""

    def _schema(self, file: BinaryIO) -> pa.Schema:
        opened = ipc.open_file(file) if _is_file(file) else ipc.open_stream(file)
        return opened.schema

    def _batches(self, file: BinaryIO, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for batch in _of_file(file, names) if _is_file(file) else _of_stream(file):
            yield from sliced(batch)


def _is_file(file: BinaryIO) -> bool:
    begin = file.read(len(_MAGIC))
    file.seek(0)
    return begin == _MAGIC


def _of_file(file: BinaryIO, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    known = ipc.open_file(file).schema.names
    wanted = [place for place, column in enumerate(known) if column in names]
    opened = ipc.open_file(file, options=ipc.IpcReadOptions(included_fields=wanted or None, use_threads=False))
    for number in range(opened.num_record_batches):
        yield opened.get_batch(number)


def _of_stream(file: BinaryIO) -> Iterator[pa.RecordBatch]:
    yield from ipc.open_stream(file)
    # Arrow takes a stream that was cut between two batches for a whole one.
    file.seek(0)
    mark = _CONTINUED + _END_MARK if file.read(len(_CONTINUED)) == _CONTINUED else _END_MARK
    file.seek(-len(mark), 2)
    if file.read() != mark:
        raise pa.ArrowInvalid("it lacks the mark that ends a stream, so it may have been cut")
