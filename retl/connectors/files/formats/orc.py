"""ORC: a stripe at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
from pyarrow import orc

from retl.connectors.files.formats.columnar import Columnar, sliced


class ORC(Columnar):
    """Only the columns that are wanted are read."""

    def _schema(self, file: BinaryIO) -> pa.Schema:
        return orc.ORCFile(file).schema

    def _batches(self, file: BinaryIO, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        opened = orc.ORCFile(file)
        columns = [column for column in opened.schema.names if column in names] or None
        for number in range(opened.nstripes):
            yield from sliced(opened.read_stripe(number, columns=columns))
