"""Which format reads a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from retl.connectors.files.formats.base import Format
from retl.connectors.files.formats.csv import CSV
from retl.connectors.files.formats.options import FormatOptions, format_name, parse_options
from retl.model.errors import UnsupportedError

_FORMATS: dict[str, Callable[[FormatOptions], Format]] = {
    "csv": CSV,
    "tsv": lambda options: CSV(options, "\t"),
}


def format_for(options: Mapping[str, Any] | FormatOptions, name: str) -> Format:
    """What reads a file of this name. Raises ``ConfigError`` for options or a name that tell no format."""
    parsed = parse_options(options)
    chosen = format_name(parsed, name)
    made = _FORMATS.get(chosen)
    if made is None:
        raise UnsupportedError(f"files of the format {chosen} cannot be read yet.", remedy="convert them to CSV.")
    return made(parsed)
