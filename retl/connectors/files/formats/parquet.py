"""Parquet: column by column, a part of a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
from pyarrow import parquet

from retl.connectors.files.formats.columnar import Columnar, rows_of

_BUFFER = 1024 * 1024
_SOME_ROWS = 1024


class Parquet(Columnar):
    """Only the columns that are wanted are read."""

    def _schema(self, file: BinaryIO) -> pa.Schema:
        return _open(file).schema_arrow

    def _batches(self, file: BinaryIO, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        opened = _open(file)
        columns = [column for column in opened.schema_arrow.names if column in names]
        given = 0
        for batch in opened.iter_batches(_batch_rows(opened, columns), columns=columns, use_threads=False):
            given += batch.num_rows
            yield batch
        if given != opened.metadata.num_rows:
            raise pa.ArrowInvalid(f"it has {given:,} rows, and says that it has {opened.metadata.num_rows:,}")


def _open(file: BinaryIO) -> parquet.ParquetFile:
    # Without the buffer a whole column of a row group lies in memory.
    return parquet.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)


def _batch_rows(opened: parquet.ParquetFile, columns: Sequence[str]) -> int:
    """How many rows make a batch: by what the file says, and by some rows, for those of a dictionary are larger than that."""
    groups = [opened.metadata.row_group(number) for number in range(opened.metadata.num_row_groups)]
    said = min((rows_of(group.total_byte_size, group.num_rows) for group in groups), default=1)
    some = next(opened.iter_batches(min(said, _SOME_ROWS), columns=columns, use_threads=False), None)
    return said if some is None else min(said, rows_of(some.nbytes, some.num_rows))
