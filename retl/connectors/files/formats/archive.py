"""Zip and tar as folders: their members, one after the other."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, cast

from retl.connectors.files.formats.base import unreadable
from retl.connectors.files.formats.compression import BROKEN, decompressed, limited
from retl.connectors.files.formats.options import FormatOptions, parse_options

_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4")
_SHORT = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}


def is_archive(name: str) -> bool:
    """Whether a file is a folder of others, as its name says."""
    return name.lower().endswith((".zip", *_TAR))


def members(
    file: BinaryIO, name: str, options: Mapping[str, Any] | FormatOptions | None = None
) -> Iterator[tuple[str, BinaryIO]]:
    """The files in a zip or tar, in the order in which they stand there, each as a stream that ends with the next step.

    A member may be packed itself: see ``decompressed``. Folders, links and devices are left out. Raises
    ``FileUnreadable`` for an archive that is broken, cut or encrypted, and for one that unpacks beyond the bounds of the
    options.
    """
    options = parse_options(options or {})
    found = _zipped(file, name, options) if name.lower().endswith(".zip") else _taped(file, name, options)
    try:
        yield from found
    except BROKEN as error:
        raise unreadable(name, f"it cannot be unpacked: {error}") from None


def _zipped(file: BinaryIO, name: str, options: FormatOptions) -> Iterator[tuple[str, BinaryIO]]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            with archive.open(info) as member:
                inner = f"{name}/{info.filename}"
                yield info.filename, limited(cast("BinaryIO", member), inner, info.compress_size, options)


def _taped(file: BinaryIO, name: str, options: FormatOptions) -> Iterator[tuple[str, BinaryIO]]:
    short = next((ending for ending in _SHORT if name.lower().endswith(ending)), None)
    unpacked = decompressed(file, name if short is None else name[: -len(short)] + _SHORT[short], options)
    with tarfile.open(fileobj=unpacked, mode="r|") as archive:
        for info in archive:
            member = archive.extractfile(info) if info.isreg() else None
            if member is not None:
                yield info.name, limited(cast("BinaryIO", member), f"{name}/{info.name}", info.size, options)
