"""Packed files and archives: never a short read, never more than is allowed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from retl.connectors.files.formats import FileUnreadable, decompressed, members
from tests.formats import read

TEXT = b"a,b\n" + b"".join(b"%d,%x\n" % (n, n * n) for n in range(20_000))


def by_arrow(codec: str) -> Callable[[bytes], bytes]:
    def pack(data: bytes) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "packed")
            with pa.CompressedOutputStream(str(path), codec) as sink:
                sink.write(data)
            return path.read_bytes()

    return pack


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "zst": by_arrow("zstd"),
    "lz4": by_arrow("lz4"),
}


def unpack(data: bytes, ending: str, **options: int) -> bytes:
    return decompressed(io.BytesIO(data), f"a.csv.{ending}", options).read()


@pytest.mark.parametrize("ending", PACKERS)
def test_several_members_are_one_content(ending: str) -> None:
    pack = PACKERS[ending]
    assert unpack(pack(TEXT), ending) == TEXT
    assert unpack(pack(TEXT) + pack(b"") + pack(b"x" * 1000), ending) == TEXT + b"x" * 1000
    assert unpack(pack(b""), ending) == b""


@pytest.mark.parametrize("ending", PACKERS)
def test_a_cut_or_broken_stream_is_unreadable(ending: str) -> None:
    packed = PACKERS[ending](TEXT)
    second = packed + packed
    for broken in (b"", packed[:10], packed[:-1], packed[: len(packed) // 2], second[:-3], packed + b"junk" * 9):
        with pytest.raises(FileUnreadable, match=rf"^a.csv.{ending}: it cannot be unpacked"):
            unpack(broken, ending)


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz"])
def test_a_changed_byte_is_noticed_by_the_checksum(ending: str) -> None:
    packed = bytearray(PACKERS[ending](TEXT))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(FileUnreadable):
        unpack(bytes(packed), ending)


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_file_that_grows_too_much_is_stopped(ending: str) -> None:
    packed = PACKERS[ending](bytes(70 * 1024 * 1024))
    with pytest.raises(FileUnreadable, match=r"it unpacks to more than 100 times its size"):
        unpack(packed, ending, max_ratio=100)


@pytest.mark.parametrize("ending", PACKERS)
def test_a_file_that_unpacks_to_more_than_is_allowed_is_stopped(ending: str) -> None:
    packed = PACKERS[ending](TEXT)
    assert unpack(packed, ending, max_unpacked_bytes=len(TEXT)) == TEXT
    with pytest.raises(FileUnreadable, match=r"it unpacks to more than 100,000 bytes"):
        unpack(packed, ending, max_unpacked_bytes=100_000)


def test_zeros_after_the_last_member_are_no_error() -> None:
    assert unpack(gzip.compress(TEXT) + bytes(512), "gz") == TEXT


def test_packed_parquet_is_read() -> None:
    sink = io.BytesIO()
    table = pa.table({"a": [1, 2]})
    pa.parquet.write_table(table, sink)
    assert read(gzip.compress(sink.getvalue()), "a.parquet.gz") == [{"a": 1}, {"a": 2}]


def test_the_ending_is_believed_unless_the_options_say_otherwise() -> None:
    assert read(b"a\n1\n", "a.csv.gz", compression="none", type="csv") == [{"a": 1}]
    assert read(gzip.compress(b"a\n1\n"), "export", compression="gzip", type="csv") == [{"a": 1}]


def zipped(**files: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("folder")
        for name, data in files.items():
            archive.writestr(f"folder/{name}.csv", data)
    return sink.getvalue()


def taped(mode: str, **files: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as archive:  # type: ignore[call-overload]
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, data in files.items():
            info = tarfile.TarInfo(f"folder/{name}.csv")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def contents(data: bytes, name: str, **options: int) -> dict[str, bytes]:
    return {member: file.read() for member, file in members(io.BytesIO(data), name, options)}


def test_archives_are_folders_of_their_members() -> None:
    expected = {"folder/one.csv": TEXT, "folder/two.csv": b"x"}
    assert contents(zipped(one=TEXT, two=b"x"), "a.zip") == expected
    assert contents(taped("w", one=TEXT, two=b"x"), "a.tar") == expected
    assert contents(taped("w:gz", one=TEXT, two=b"x"), "a.tgz") == expected
    assert contents(PACKERS["zst"](taped("w", one=TEXT, two=b"x")), "a.tar.zst") == expected


def test_broken_archives_are_unreadable() -> None:
    packed, tape = zipped(one=TEXT), taped("w:gz", one=TEXT)
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    for broken, name in (
        (b"", "a.zip"),
        (packed[:-30], "a.zip"),
        (bytes(damaged), "a.zip"),
        (b"", "a.tar.gz"),
        (tape[: len(tape) // 2], "a.tar.gz"),
        (b"x" * 1000, "a.tar"),
        (taped("w", one=TEXT)[:2000], "a.tar"),
    ):
        with pytest.raises(FileUnreadable):
            contents(broken, name)


def test_a_bomb_in_an_archive_is_stopped() -> None:
    with pytest.raises(FileUnreadable, match=r"a.zip/folder/one.csv: it unpacks to more than 100 times its size"):
        contents(zipped(one=bytes(70 * 1024 * 1024)), "a.zip", max_ratio=100)
