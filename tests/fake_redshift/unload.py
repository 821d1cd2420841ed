"""UNLOAD: a query's rows as files of Parquet in a bucket, and the manifest that names them.

Faithful to: the names of the files (``PREFIX0000_part_00.parquet``), the manifest with ``VERBOSE`` (address, length and rows
of each file, columns, totals), VARBYTE, GEOMETRY and HLLSKETCH that Parquet does not take, TIMESTAMPTZ without its mark, SUPER
as JSON text, an outer LIMIT and a prefix in use that are refused. Source: the guide's page of UNLOAD.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fake_redshift.wire import Message, Refusal

if TYPE_CHECKING:
    from tests.fake_redshift.server import FakeRedshift
    from tests.fake_redshift.sql import Statement

_OPTIONS = re.compile(
    r"^to '(?P<to>s3://[^']+)' iam_role (?P<role>default|'arn:[^']+') format (?:as )?parquet manifest verbose"
    r"(?: maxfilesize (?:as )?(?P<size>\d+) (?P<unit>mb|gb))?(?: region (?:as )?'(?P<region>[\w-]+)')?"
    r"(?: kms_key_id '(?P<key>[^']+)' encrypted)?$",
    re.IGNORECASE,
)
_REFUSED_TYPES = {"varbyte", "geometry", "geography", "hllsketch"}
_SMALLEST_MB = 5


class Refused(Exception):
    """The error of a statement that the stand-in has sent on its own."""

    def __init__(self, message: Message) -> None:
        super().__init__(message.body.decode(errors="replace"))
        self.message = message


@dataclass(frozen=True)
class Asked:
    """What an UNLOAD asks for."""

    query: str
    bucket: str
    prefix: str


def parse(statement: Statement) -> Asked:
    """Take an UNLOAD apart. Raises ``Refused`` for what a cluster or the stand-in does not take."""
    words = statement.words
    if len(words) < 5 or words[1].text != "(" or words[2].kind != "string":
        raise _refused('syntax error at or near "unload"')
    query = re.sub(r"\\(.)", r"\1", words[2].text[1:-1].replace("''", "'"))
    options = " ".join(token.text for token in words[4:])
    found = _OPTIONS.match(options)
    if found is None:
        raise _refused(f"syntax error in the options of UNLOAD: {options}")
    if found["size"] and int(found["size"]) < _SMALLEST_MB:
        raise _refused("MAXFILESIZE must be between 5 MB and 6.2 GB", "22023")
    if re.search(r"\blimit\s+\d+\s*$", query, re.IGNORECASE):
        raise _refused("Limit clause is not supported in the outer SELECT of UNLOAD", "0A000")
    bucket, _, prefix = found["to"].removeprefix("s3://").partition("/")
    return Asked(query, bucket, prefix)


def _refused(message: str, code: str = "42601") -> Refused:
    return Refused(Refusal(message, code).as_message())


def write(
    server: FakeRedshift,
    asked: Asked,
    described: Sequence[tuple[str, int, int]],
    rows: Sequence[Sequence[bytes | None]],
) -> None:
    """Write the files and the manifest. Blocks."""
    bucket, names = server.bucket, server.type_names
    if bucket is None or bucket.name != asked.bucket:
        raise _refused(f"S3ServiceException:The specified bucket does not exist,Status 404,{asked.bucket}", "XX000")
    if bucket.names(asked.prefix):
        raise _refused(f"Specified unload destination on S3 is not empty: s3://{asked.bucket}/{asked.prefix}", "XX000")
    table = _table(described, rows, names)
    entries = []
    step = server.unload_rows or max(1, table.num_rows)
    for number, start in enumerate(range(0, max(1, table.num_rows), step)):
        part = table.slice(start, step)
        name = f"{asked.prefix}{number % 4:04d}_part_{number // 4:02d}.parquet"
        data = io.BytesIO()
        pq.write_table(part, data)
        if number not in server.left_out:
            bucket.put(name, data.getvalue())
        meta = {"content_length": data.tell(), "record_count": part.num_rows}
        entries.append({"url": f"s3://{asked.bucket}/{name}", "meta": meta})
    totals = {key: sum(entry["meta"][key] for entry in entries) for key in ("content_length", "record_count")}  # type: ignore[index]
    elements = [{"name": name, "type": {"base": names.get(oid, str(oid))}} for name, oid, _ in described]
    author = {"name": "Amazon Redshift", "version": "1.0.0"}
    manifest = {"entries": entries, "schema": {"elements": elements}, "meta": totals, "author": author}
    bucket.put(f"{asked.prefix}manifest", json.dumps(server.tampered(manifest)).encode())


def _table(
    described: Sequence[tuple[str, int, int]], rows: Sequence[Sequence[bytes | None]], names: Mapping[int, str]
) -> pa.Table:
    arrays, labels = [], []
    for number, (label, oid, modifier) in enumerate(described):
        native = names.get(oid, "varchar")
        if native in _REFUSED_TYPES:
            raise _refused(f"Unsupported data type {native} for unload as PARQUET, column {label}", "0A000")
        kind, convert = _kind(native, modifier)
        values = [None if row[number] is None else convert(row[number].decode()) for row in rows]  # type: ignore[union-attr]
        arrays.append(pa.array(values, kind))
        labels.append(label)
    return pa.table(arrays, names=labels)


def _kind(native: str, modifier: int) -> tuple[pa.DataType, Callable[[str], Any]]:
    """What a type is in Parquet, and how its text is read."""
    match native:
        case "bool":
            return pa.bool_(), lambda text: text == "t"
        case "int2" | "int4" | "int8":
            return {"int2": pa.int16(), "int4": pa.int32(), "int8": pa.int64()}[native], int
        case "float4" | "float8":
            return {"float4": pa.float32(), "float8": pa.float64()}[native], float
        case "numeric":
            typed = modifier >= 4
            digits = (
                pa.decimal128(((modifier - 4) >> 16) & 65535, (modifier - 4) & 65535) if typed else pa.decimal128(38, 4)
            )
            return digits, Decimal
        case "date":
            return pa.date32(), date.fromisoformat
        case "timestamp":
            return pa.timestamp("us"), datetime.fromisoformat
        case "timestamptz":
            return pa.timestamp("us"), lambda text: datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None)
    return pa.string(), str
