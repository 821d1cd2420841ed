"""What files hold: the bytes of one file to Arrow batches. Blocking code, for worker threads."""

from retl.connectors.files.formats.archive import is_archive, members
from retl.connectors.files.formats.base import LINE, FileUnreadable, Format
from retl.connectors.files.formats.choose import format_for
from retl.connectors.files.formats.compression import decompressed
from retl.connectors.files.formats.options import FormatOptions, parse_options
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
