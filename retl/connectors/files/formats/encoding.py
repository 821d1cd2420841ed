"""Text of any encoding as UTF-8: byte order marks, transcoding, and bytes that are no text."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

BLOCK = 1024 * 1024

# The longer marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MARKED = "retl.marked"


def _mark(error: UnicodeError) -> tuple[str, int]:
    """Half a surrogate in place of what is no text: it is no UTF-8 either, so its row is found later."""
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff", error.end


codecs.register_error(_MARKED, _mark)


def utf8_blocks(file: BinaryIO, encoding: str | None) -> Iterator[bytes]:
    """The text of a file as UTF-8, without its byte order mark, in blocks of about 1 MiB.

    Bytes that are no text of the encoding arrive as bytes that are no UTF-8.
    """
    first = read_block(file)
    mark, marked = next(((mark, known) for mark, known in _MARKS if first.startswith(mark)), (b"", None))
    chosen = encoding or marked or "utf-8"
    if marked is not None and _family(chosen) == _family(marked):
        first, chosen = first[len(mark) :], marked
    blocks = _blocks(first, file)
    return blocks if _family(chosen) == "utf8" else _transcoded(blocks, chosen)


def is_family_of_utf8(encoding: str | None) -> bool:
    """Whether a text of this encoding, or of none that is named, is UTF-8 unless a byte order mark says otherwise."""
    return encoding is None or _family(encoding) == "utf8"


def _family(encoding: str) -> str:
    """The encoding without the order of its bytes, for a mark tells that better."""
    name = codecs.lookup(encoding).name.replace("-", "").replace("_", "")
    return name.removesuffix("sig").removesuffix("le").removesuffix("be")


def _blocks(first: bytes, file: BinaryIO) -> Iterator[bytes]:
    block = first
    while block:
        yield block
        block = read_block(file)


def read_block(file: BinaryIO, size: int = BLOCK) -> bytes:
    """The next bytes: as many as asked for, unless the file ends. A file that gives few at a time is asked again."""
    pieces, missing = [], size
    while missing:
        piece = file.read(missing)
        if not piece:
            break
        pieces.append(piece)
        missing -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def is_utf8(text: bytes) -> bool:
    """Whether a text is UTF-8, and so is each of its values."""
    if text.isascii():
        return True
    try:
        pa.array([text], pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def _transcoded(blocks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)(_MARKED)
    for block in blocks:
        yield decoder.decode(block).encode("utf-8", "surrogatepass")
    yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")
