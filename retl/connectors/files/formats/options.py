"""What users write under ``format = {...}``, and what the name of a file says where they write nothing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

import msgspec

from retl.connectors.files.formats.cast import TextStyle
from retl.connectors.files.formats.types import given_type
from retl.model.errors import ConfigError

FormatName = Literal["csv", "tsv", "jsonl", "json", "parquet", "arrow", "orc", "avro", "excel", "documents"]
Compression = Literal["none", "gzip", "zstd", "bzip2", "xz", "lz4"]

_MIB = 1024 * 1024
_ENDINGS: dict[str, FormatName] = {
    "csv": "csv",
    "tsv": "tsv",
    "tab": "tsv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "json",
    "parquet": "parquet",
    "pq": "parquet",
    "arrow": "arrow",
    "arrows": "arrow",
    "ipc": "arrow",
    "feather": "arrow",
    "orc": "orc",
    "avro": "avro",
    "xlsx": "excel",
    "xlsm": "excel",
    "xlsb": "excel",
    "xls": "excel",
    "ods": "excel",
}
_COMPRESSED: dict[str, Compression] = {
    "gz": "gzip",
    "gzip": "gzip",
    "zst": "zstd",
    "zstd": "zstd",
    "bz2": "bzip2",
    "xz": "xz",
    "lz4": "lz4",
}


class FormatOptions(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How the files of a table are read. What is not said is taken from the name of each file."""

    type: Annotated[
        FormatName | None, msgspec.Meta(description="The format; unset: by the ending of the name, `sales.csv.gz`.")
    ] = None
    compression: Annotated[
        Compression | None,
        msgspec.Meta(description="What to unpack; unset: by the ending of the name, which `none` ignores."),
    ] = None
    types: Annotated[
        Mapping[str, str],
        msgspec.Meta(
            description="Types of columns by name, in place of those inferred: `text`, `integer`, `decimal(12,2)`, "
            "`double`, `boolean`, `date`, `time`, `timestamp`, `timestamptz`, `json`."
        ),
    ] = {}
    all_text: Annotated[
        bool, msgspec.Meta(description="Keep every column as text, as it is written, but for those in `types`.")
    ] = False
    encoding: Annotated[
        str | None,
        msgspec.Meta(
            description="Of text: `utf-8`, `utf-16`, `gb18030`, `shift_jis`, `latin-1` ...; unset: by the byte order mark, else UTF-8."
        ),
    ] = None
    delimiter: Annotated[
        str | None, msgspec.Meta(description="CSV: one character between two values; `,` when unset, a tab for `tsv`.")
    ] = None
    quote: Annotated[str, msgspec.Meta(description="CSV: the quote around values; empty: there is none.")] = '"'
    double_quote: Annotated[bool, msgspec.Meta(description="CSV: whether two quotes within a value are one.")] = True
    escape: Annotated[str, msgspec.Meta(description="CSV: the character that takes the next one as it is.")] = ""
    header: Annotated[bool, msgspec.Meta(description="CSV, Excel: whether the first row names the columns.")] = True
    columns: Annotated[
        Sequence[str] | None,
        msgspec.Meta(description="CSV, Excel: the names of the columns, in place of those of the header."),
    ] = None
    skip_lines: Annotated[
        int, msgspec.Meta(description="CSV, Excel: lines before the header that are left out.", ge=0)
    ] = 0
    comment: Annotated[str, msgspec.Meta(description="CSV: lines that begin with this are left out.")] = ""
    null: Annotated[
        Sequence[str], msgspec.Meta(description="CSV, Excel: words that are NULL, where they are not in quotes.")
    ] = ("",)
    quoted_null: Annotated[bool, msgspec.Meta(description="CSV: whether they are NULL in quotes too.")] = False
    decimal: Annotated[
        Literal[".", ","], msgspec.Meta(description="CSV: the sign before the fraction of a number.")
    ] = "."
    thousands: Annotated[
        Literal["", ".", ",", " ", "'", "_"],
        msgspec.Meta(description="CSV: the sign between groups of three digits."),
    ] = ""
    date_formats: Annotated[
        Sequence[str],
        msgspec.Meta(
            description="CSV, JSON: patterns of dates and times besides ISO 8601, such as `%d.%m.%Y`, tried in this order."
        ),
    ] = ()
    ragged: Annotated[
        Literal["reject", "fill"],
        msgspec.Meta(description="CSV: rows with too few values are rejects, or end in NULLs."),
    ] = "reject"
    sheet: Annotated[
        str | int | None,
        msgspec.Meta(description="Excel: the sheet by name, or by number from 1; the first when unset."),
    ] = None
    range: Annotated[str | None, msgspec.Meta(description="Excel: the cells to read, such as `B3:F200`.")] = None
    max_row_bytes: Annotated[
        int, msgspec.Meta(description="CSV, JSON: a longer row makes its file unreadable.", ge=1024)
    ] = 16 * _MIB
    max_unpacked_bytes: Annotated[
        int, msgspec.Meta(description="What a compressed file may unpack to, at most.", ge=1)
    ] = 1024 * 1024 * _MIB
    max_ratio: Annotated[
        int,
        msgspec.Meta(description="How many times larger than packed a file may get, beyond the first 64 MiB.", ge=1),
    ] = 1000
    max_seconds: Annotated[
        float, msgspec.Meta(description="Documents: how long the text of one file may take to be found.", gt=0)
    ] = 60.0
    max_memory_bytes: Annotated[
        int, msgspec.Meta(description="Documents: how much memory that may take.", ge=16 * _MIB)
    ] = 1024 * _MIB
    max_text_bytes: Annotated[
        int, msgspec.Meta(description="Documents: how long the text of one file may be.", ge=1)
    ] = 32 * _MIB

    def __post_init__(self) -> None:
        for word in ("delimiter", "quote", "escape"):
            _check_sign(word, getattr(self, word))
        for column, written in self.types.items():
            given_type(column, written)
        if self.encoding is not None:
            _check_encoding(self.encoding)
        for pattern in self.date_formats:
            _check_pattern(pattern)
        if self.thousands == self.decimal:
            raise ConfigError("decimal and thousands of the format are the same sign.", remedy="set the other one too.")

    def style(self, column: str) -> TextStyle:
        """How the values of a column are written."""
        return TextStyle(column in self.types, self.decimal, self.thousands, self.date_formats)


def parse_options(words: Mapping[str, Any] | FormatOptions) -> FormatOptions:
    """The options that some words mean. Raises ``ConfigError`` for unknown ones, with a guess of what is meant."""
    if isinstance(words, FormatOptions):
        return words
    known = [item.encode_name for item in msgspec.structs.fields(FormatOptions)]
    for word in words:
        if word not in known:
            raise ConfigError(f"unknown option {word!r} of format.", remedy=_hint(word, known))
    try:
        return msgspec.convert(dict(words), FormatOptions, str_keys=True)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        raise ConfigError(f"format: {error}.", remedy=_names_of_type(words)) from None


def packing(options: FormatOptions, name: str) -> Compression:
    """How a file is packed."""
    return options.compression or _COMPRESSED.get(_endings(name)[-1], "none")


def unpacked_name(name: str) -> str:
    """The name without the ending that tells how the file is packed."""
    ending = _endings(name)[-1]
    return name[: -len(ending) - 1] if ending in _COMPRESSED and "." in name else name


def format_name(options: FormatOptions, name: str) -> FormatName:
    """The format of a file. Raises ``ConfigError`` where neither the options nor its name tell."""
    if options.type is not None:
        return options.type
    endings = _endings(name)
    ending = endings[-2] if endings[-1] in _COMPRESSED and len(endings) > 1 else endings[-1]
    found = _ENDINGS.get(ending)
    if found is None:
        raise ConfigError(
            f"the name {name!r} does not tell the format of the file.",
            remedy=f'say it: format = {{ type = "csv" }}; there are {", ".join(get_args(FormatName))}.',
        )
    return found


def _endings(name: str) -> list[str]:
    return name.rpartition("/")[2].lower().split(".")


def _hint(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}."


def _names_of_type(words: Mapping[str, Any]) -> str:
    written = words.get("type")
    names = get_args(FormatName)
    return (
        _hint(str(written), names) if written is not None and written not in names else "see the reference of formats."
    )


def _check_sign(word: str, sign: str | None) -> None:
    if sign and (len(sign) > 1 or not sign.isascii() or sign in "\r\n"):
        raise ConfigError(f"{word} of the format is {sign!r}.", remedy="give one ASCII character.")
    if word == "delimiter" and sign == "":
        raise ConfigError("delimiter of the format is empty.", remedy="give one ASCII character.")


def _check_pattern(pattern: str) -> None:
    if not re.search("%[YyDF]", pattern):
        raise ConfigError(
            f"date_formats of the format has {pattern!r}, which has no year.", remedy="write it with %Y or %y."
        )
    if re.search("%[zZs]", pattern):
        raise ConfigError(
            f"date_formats of the format has {pattern!r}, with a zone.", remedy="zones are read in ISO 8601 only."
        )


def _check_encoding(encoding: str) -> None:
    try:
        "".encode(encoding)
    except (LookupError, ValueError):
        raise ConfigError(
            f"unknown encoding {encoding!r}.", remedy="give one of Python's, such as utf-8, utf-16, gb18030 or latin-1."
        ) from None
    if not re.fullmatch(r"[\w.:-]+", encoding):
        raise ConfigError(f"unknown encoding {encoding!r}.", remedy="write it without spaces.")
