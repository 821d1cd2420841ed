"""CSV files to Arrow: every value exactly, every row that does not fit a reject with its line."""

from __future__ import annotations

import gzip
import io
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from retl.connectors.base import REJECT
from retl.connectors.files.formats import LINE, FileUnreadable, decompressed, format_for, merged
from retl.model.errors import ConfigError


def read(data: bytes, name: str = "a.csv", schema: pa.Schema | None = None, **options: Any) -> list[dict[str, Any]]:
    """The rows of a file in the types that it is inferred to have."""
    found = format_for(options, name)
    schema = schema or merged([found.schema(decompressed(io.BytesIO(data), name, options), name)])
    batches = list(found.read(decompressed(io.BytesIO(data), name, options), name, schema))
    return [row for batch in batches for row in batch.to_pylist()]


def types(data: bytes, name: str = "a.csv", **options: Any) -> dict[str, str]:
    found = format_for(options, name).schema(decompressed(io.BytesIO(data), name, options), name)
    return {column.name: str(column.type) for column in found}


def test_types_are_inferred_without_changing_a_value() -> None:
    text = b"id,zip,price,day,ok,text\n1,007,1.50,2024-02-29,true,a\n-2,12345,20.25,2024-03-01,false,1e400\n"
    assert types(text) == {
        "id": "int64",
        "zip": "string",
        "price": "decimal128(22, 2)",
        "day": "date32[day]",
        "ok": "bool",
        "text": "string",
    }
    assert read(text)[0] == {
        "id": 1,
        "zip": "007",
        "price": Decimal("1.50"),
        "day": date(2024, 2, 29),
        "ok": True,
        "text": "a",
    }


def test_a_ragged_row_is_a_reject_with_its_line() -> None:
    rows = read(b'a,b\n1,2\n\n3\n4,"x\ny"\n5,6,7\n8,9')
    assert [(row["a"], row["b"]) for row in rows if row.get(REJECT) is None] == [(1, "2"), (4, "x\ny"), (8, "9")]
    rejects = [row[REJECT] for row in rows if row.get(REJECT)]
    assert [reject["reason"] for reject in rejects] == [
        "line 4: the row has 1 values where the header has 2",
        "line 7: the row has 3 values where the header has 2",
    ]
    assert rejects[0]["content"] == '{"line":4,"text":"3"}'


def test_a_cell_that_does_not_fit_rejects_its_row_alone() -> None:
    schema = pa.schema([("a", pa.int64()), (LINE, pa.int64())])
    rows = read(b"a\n1\n007\nx\n4\n", schema=schema)
    assert [(row["a"], row[LINE]) for row in rows if not row[REJECT]] == [(1, 2), (4, 5)]
    assert [row[REJECT]["reason"] for row in rows if row[REJECT]] == [
        "line 3: '007' is not of type int64",
        "line 4: 'x' is not of type int64",
    ]


def test_a_quote_that_is_never_closed_makes_a_file_unreadable() -> None:
    with pytest.raises(
        FileUnreadable, match=r"a.csv, line 2: a quote that opens in the row of this line is never closed"
    ):
        read(b'a,b\n1,"2\n3,4\n')


def test_several_gzip_members_are_one_content_and_a_cut_one_is_an_error() -> None:
    packed = gzip.compress(b"a,b\n1,2\n") + gzip.compress(b"3,4\n")
    assert read(packed, "a.csv.gz") == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    with pytest.raises(FileUnreadable, match=r"a.csv.gz: it cannot be unpacked: it ends in the middle"):
        read(packed[:-3], "a.csv.gz")


def test_an_unknown_option_is_refused_with_a_guess() -> None:
    with pytest.raises(ConfigError, match=r"unknown option 'delimitr' of format. What to do: did you mean 'delimiter'"):
        format_for({"delimitr": ";"}, "a.csv")
