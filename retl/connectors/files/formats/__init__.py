"""What files hold: the bytes of one file to Arrow batches. Blocking code, for worker threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from retl.connectors.files.formats.archive import is_archive, members
from retl.connectors.files.formats.avro import Avro
from retl.connectors.files.formats.base import LINE, FileUnreadable, Format
from retl.connectors.files.formats.compression import decompressed
from retl.connectors.files.formats.csv import CSV
from retl.connectors.files.formats.excel import Excel
from retl.connectors.files.formats.ipc import ArrowIPC
from retl.connectors.files.formats.json import JSON, json_lines
from retl.connectors.files.formats.options import FormatName, FormatOptions, format_name, parse_options
from retl.connectors.files.formats.orc import ORC
from retl.connectors.files.formats.parquet import Parquet
from retl.connectors.files.formats.types import merged

__all__ = [
    "LINE",
    "FileUnreadable",
    "Format",
    "FormatOptions",
    "decompressed",
    "format_for",
    "is_archive",
    "members",
    "merged",
    "parse_options",
]

_FORMATS: dict[FormatName, Callable[[FormatOptions], Format]] = {
    "csv": CSV,
    "tsv": lambda options: CSV(options, "\t"),
    "json": JSON,
    "jsonl": json_lines,
    "parquet": Parquet,
    "arrow": ArrowIPC,
    "orc": ORC,
    "avro": Avro,
    "excel": Excel,
}


def format_for(options: Mapping[str, Any] | FormatOptions, name: str) -> Format:
    """What reads a file of this name. Raises ``ConfigError`` for options or a name that tell no format."""
    parsed = parse_options(options)
    return _FORMATS[format_name(parsed, name)](parsed)
