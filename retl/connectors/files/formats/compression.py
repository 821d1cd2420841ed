"""Packed files, unpacked as a stream: a cut or broken one is an error, and so is one that grows beyond all bounds."""

from __future__ import annotations

import bz2
import io
import lzma
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, cast

import pyarrow as pa

from retl.connectors.files.formats.base import unreadable
from retl.connectors.files.formats.options import FormatOptions, packing, parse_options

_BLOCK = 256 * 1024
_HARMLESS = 64 * 1024 * 1024
"""Bytes that may come of any file, however small it is."""
BROKEN = (
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    zlib.error,
    lzma.LZMAError,
    pa.ArrowException,
    zipfile.BadZipFile,
    tarfile.TarError,
)
"""What unpacking raises for bytes that are broken or cut."""


def decompressed(file: BinaryIO, name: str, options: Mapping[str, Any] | FormatOptions) -> BinaryIO:
    """The content of a file: itself where it is not packed, else a stream, read from its start to its end.

    Reading raises ``FileUnreadable`` for a stream that is broken or cut, and for one that unpacks to more than
    ``max_unpacked_bytes`` or ``max_ratio`` of the options allow. Several members or frames are one content.
    """
    options = parse_options(options)
    packed = packing(options, name)
    if packed == "none":
        return file
    counted = _Counted(file)
    return cast("BinaryIO", io.BufferedReader(_Unpacked(_DECODERS[packed](counted), counted, name, options), _BLOCK))


def limited(file: BinaryIO, name: str, packed_bytes: int, options: FormatOptions) -> BinaryIO:
    """A stream that something else unpacks, within the same bounds."""
    counted = _Counted(file, packed_bytes)
    return cast("BinaryIO", io.BufferedReader(_Unpacked(_Plain(file), counted, name, options), _BLOCK))


class _Counted(io.RawIOBase):
    """Knows how many packed bytes have been read."""

    def __init__(self, file: BinaryIO, count: int = 0) -> None:
        super().__init__()
        self.file = file
        self.count = count

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        found = self.file.read(size)
        self.count += len(found)
        return found


class _Decoder(ABC):
    @abstractmethod
    def read(self, size: int) -> bytes:
        """At most so many unpacked bytes; none at the end. Raises one of ``BROKEN`` for a stream that is broken or cut."""


class _Plain(_Decoder):
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        return self._file.read(size)


class _Members(_Decoder):
    """Streams of the standard library, of which a file may hold several, one after the other."""

    def __init__(self, file: _Counted, begin: Callable[[], Any]) -> None:
        self._file = file
        self._begin = begin
        self._stream = begin()
        self._input = b""

    def read(self, size: int) -> bytes:
        while True:
            if self._stream.eof and not self._next_member():
                return b""
            found = self._decode(size)
            if found:
                return found
            if not self._stream.eof and not self._input:
                self._fill()

    @abstractmethod
    def _decode(self, size: int) -> bytes: ...

    def _next_member(self) -> bool:
        """Whether another member follows. Zeros behind the last one only fill a block of a tape."""
        self._input = self._stream.unused_data or self._input
        while not self._input.lstrip(b"\0"):
            self._input = self._file.read(_BLOCK)
            if not self._input:
                return False
        self._input = self._input.lstrip(b"\0")
        self._stream = self._begin()
        return True

    def _fill(self) -> None:
        self._input = self._file.read(_BLOCK)
        if not self._input:
            raise EOFError("it ends in the middle")


class _Gzip(_Members):
    def __init__(self, file: _Counted) -> None:
        super().__init__(file, lambda: zlib.decompressobj(wbits=31))

    def _decode(self, size: int) -> bytes:
        found: bytes = self._stream.decompress(self._input, size)
        self._input = self._stream.unconsumed_tail
        return found


class _Standard(_Members):
    """bzip2 and xz, which keep what they have not taken."""

    def _decode(self, size: int) -> bytes:
        found: bytes = self._stream.decompress(self._input, size)
        self._input = b""
        return found

    def _fill(self) -> None:
        if self._stream.needs_input:
            super()._fill()


class _Arrow(_Decoder):
    """zstd and lz4, of several frames."""

    def __init__(self, file: _Counted, codec: str) -> None:
        self._file = file
        self._stream = pa.CompressedInputStream(pa.PythonFile(file, "r"), codec)

    def read(self, size: int) -> bytes:
        found: bytes = self._stream.read(size)
        if not self._file.count:
            raise EOFError("it is empty")
        return found


_DECODERS: dict[str, Callable[[_Counted], _Decoder]] = {
    "gzip": _Gzip,
    "bzip2": lambda file: _Standard(file, bz2.BZ2Decompressor),
    "xz": lambda file: _Standard(file, lzma.LZMADecompressor),
    "zstd": lambda file: _Arrow(file, "zstd"),
    "lz4": lambda file: _Arrow(file, "lz4"),
}


class _Unpacked(io.RawIOBase):
    """The unpacked content, within its bounds."""

    def __init__(self, decoder: _Decoder, counted: _Counted, name: str, options: FormatOptions) -> None:
        super().__init__()
        self._decoder = decoder
        self._counted = counted
        self._name = name
        self._options = options
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)
        found = self._read(len(view))
        view[: len(found)] = found
        self._given += len(found)
        self._check()
        return len(found)

    def _read(self, size: int) -> bytes:
        try:
            return self._decoder.read(size)
        except BROKEN as error:
            raise unreadable(self._name, f"it cannot be unpacked: {error}") from None

    def _check(self) -> None:
        most = self._options.max_unpacked_bytes
        if self._given > most:
            raise unreadable(
                self._name, f"it unpacks to more than {most:,} bytes", remedy="raise max_unpacked_bytes of the format."
            )
        if self._given > max(_HARMLESS, self._counted.count * self._options.max_ratio):
            raise unreadable(
                self._name,
                f"it unpacks to more than {self._options.max_ratio} times its size",
                remedy="raise max_ratio of the format if that is right.",
            )
