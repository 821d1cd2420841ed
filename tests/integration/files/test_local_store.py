"""The local disk as a store: names, links, files that change, and folders that cannot be read."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from retl.connectors.files.store import FileChanged, FileInfo
from retl.connectors.files.stores import local
from retl.connectors.files.stores.local import LocalFiles, LocalStore
from retl.model.errors import ConfigError
from tests.integration.files.servers import LEFT_OUT, content, link, listed, put

NAMES = [
    "a b.csv", "a\"'b.csv", "a%20b+c.csv", "a\nb.csv", "a&b;c.csv", "日本/売上.csv", "caf\u00e9", "cafe\u0301", "\\x41",
    "\\", "-", ".hidden", "~", "x/y/z/deep", "x.csv", "x-1", "x/a", "x", "Ünï/ß", "\U0001f600", "\ue000",
]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


async def names(store: LocalStore, prefix: str = "") -> list[str]:
    return [file.name for file in await listed(store, prefix)]


async def found(store: LocalStore, name: str) -> FileInfo:
    file = await store.stat(name)
    assert file is not None
    return file


async def test_a_walk_gives_full_paths_in_the_order_of_their_code_points(root: Path) -> None:
    made = [name for name in NAMES if name != "x"]
    for name in made:
        put(root, name, name.encode())
    store = LocalStore(root)
    files = await listed(store)
    assert [file.name for file in files] == sorted(name.replace("\\x41", "\\x5cx41") for name in made)
    for file in files:
        assert await store.stat(file.name) == file
        assert await content(store, file) == file.name.replace("\\x5cx41", "\\x41").encode()


async def test_a_name_that_is_not_utf8_is_written_with_escapes_and_read_by_them(root: Path) -> None:
    raws = [b"caf\xe9.csv", b"\xff/\xfe", b"\\xe9\xe9", b"\\xff/a", b"ok\xed\xa0\x80"]
    for raw in raws:
        put(root, raw, raw)
    store = LocalStore(root)
    files = await listed(store)
    expected = ["\\x5cxe9\\xe9", "\\x5cxff/a", "\\xff/\\xfe", "caf\\xe9.csv", "ok\\xed\\xa0\\x80"]
    assert [file.name for file in files] == expected
    assert sorted([await content(store, file) for file in files]) == sorted(raws)
    assert all([await store.stat(file.name) == file for file in files])


async def test_a_prefix_may_end_anywhere_in_a_name(root: Path) -> None:
    for name in ("sales/2024-01/a", "sales/2024-02/b", "sales/2025/c", "sales.csv", "sales2/d", "other"):
        put(root, name)
    store = LocalStore(root)
    assert await names(store, "sales/2024-") == ["sales/2024-01/a", "sales/2024-02/b"]
    assert await names(store, "sales/") == ["sales/2024-01/a", "sales/2024-02/b", "sales/2025/c"]
    assert await names(store, "sales") == [
        "sales.csv", "sales/2024-01/a", "sales/2024-02/b", "sales/2025/c", "sales2/d",
    ]  # fmt: skip
    assert await names(store, "sales/2025/c") == ["sales/2025/c"]
    for nowhere in ("none/", "other/", "../", "sales/../", "/", "sales//", "./"):
        assert await names(store, nowhere) == []


async def test_links_out_of_the_root_and_circles_are_not_followed(root: Path, tmp_path: Path) -> None:
    put(tmp_path, "outside/secret")
    put(tmp_path, "root2/secret")
    put(root, "data/a")
    (root / "sibling").symlink_to(tmp_path / "root2")
    link(root, tmp_path / "outside")
    store = LocalStore(root)
    assert await names(store) == ["data/a", "inside/a", "inside_file"]
    left_out: list[str] = []
    await listed(store, left_out=left_out)
    assert sorted(left_out) == sorted(["sibling", *LEFT_OUT])
    assert await names(store, "out/") == []
    for name in ("out/secret", "out_file", "../outside/secret", "dangling", "self", "data", "", "data/"):
        assert await store.stat(name) is None
    file = await found(store, "data/a")
    (root / "data" / "a").unlink()
    (root / "data" / "a").symlink_to(tmp_path / "outside" / "secret")
    with pytest.raises(FileChanged):
        await content(store, file)


async def test_a_root_that_is_a_link_is_followed(root: Path, tmp_path: Path) -> None:
    put(root, "d/a", b"x")
    (tmp_path / "link").symlink_to(root)
    store = LocalStore(tmp_path / "link")
    assert await names(store) == ["d/a"]
    assert await content(store, await found(store, "d/a")) == b"x"


async def test_sockets_and_pipes_are_no_files(root: Path) -> None:
    put(root, "a")
    os.mkfifo(root / "pipe")
    (root / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(root / "s"))
    store = LocalStore(root)
    assert await names(store) == ["a"]
    assert await store.stat("pipe") is None
    file = await found(store, "a")
    (root / "a").unlink()
    os.mkfifo(root / "a")
    with anyio.fail_after(5), pytest.raises(FileChanged):
        await content(store, file)


async def test_an_identity_changes_with_size_time_and_file(root: Path) -> None:
    path = put(root, "a", b"one")
    store = LocalStore(root)
    first = await found(store, "a")
    assert first.size == 3
    assert first.modified is not None
    assert abs(first.modified - datetime.now(UTC)).total_seconds() < 60
    kept = path.stat()
    put(root, "b", b"two").rename(path)
    os.utime(path, ns=(kept.st_mtime_ns, kept.st_mtime_ns))
    assert (await found(store, "a")).identity != first.identity
    for change in (lambda: path.write_bytes(b"four"), lambda: os.utime(path, ns=(1, 1))):
        before = await found(store, "a")
        change()
        with pytest.raises(FileChanged, match="changed since it was listed"):
            await content(store, before)
    path.unlink()
    with pytest.raises(FileChanged, match="it is gone"):
        await content(store, first)


@pytest.mark.parametrize("how", ["grows", "shrinks", "is replaced", "is deleted", "is written over"])
async def test_a_file_that_changes_while_it_is_read_is_never_given_whole(root: Path, how: str) -> None:
    path = put(root, "a", bytes(3 * local.BLOCK))
    store = LocalStore(root)
    file = await found(store, "a")
    os.utime(path, ns=(1, 1))
    file = await found(store, "a")
    with pytest.raises(FileChanged):
        async with aclosing(store.read(file)) as blocks:
            async for _ in blocks:
                change(path, how)


def change(path: Path, how: str) -> None:
    if how == "grows":
        with path.open("ab") as file:
            file.write(b"more")
    elif how == "shrinks":
        os.truncate(path, local.BLOCK + 1)
    elif how == "is deleted":
        path.unlink(missing_ok=True)
    elif how == "is replaced":
        other = path.with_name("other")
        other.write_bytes(bytes(3 * local.BLOCK))
        os.utime(other, ns=(1, 1))
        other.rename(path)
    else:
        with path.open("r+b") as file:
            file.seek(2 * local.BLOCK)
            file.write(b"x")


async def test_an_empty_file_has_no_block_and_one_that_is_closed_early_leaves_nothing(root: Path) -> None:
    put(root, "empty", b"")
    put(root, "large", bytes(2 * local.BLOCK))
    store = LocalStore(root)
    assert await content(store, await found(store, "empty")) == b""
    async with aclosing(store.read(await found(store, "large"))) as blocks:
        async for _ in blocks:
            break
    async with aclosing(store.list()) as pages:
        async for _ in pages:
            break


async def test_a_folder_that_may_not_be_read_fails_the_listing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1", "b/2", "c/3"):
        put(root, name)
    scandir = os.scandir

    def denied(path: Any) -> Any:
        if os.fsencode(path).rstrip(b"/").endswith(b"/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    store = LocalStore(root)
    with pytest.raises(ConfigError, match=r"b/' may not be read by the user of this process") as error:
        await names(store)
    assert "a listing is never partial" in str(error.value)
    assert await names(store, "a/") == ["a/1"]


async def test_a_root_that_is_not_there_or_no_folder_is_named(root: Path) -> None:
    put(root, "file")
    for path in (root / "none", root / "file"):
        store = LocalFiles(str(path)).store()
        for ask in (store.ping(), names(store), names(store, "a/")):
            with pytest.raises(ConfigError, match=f"there is no folder '{path}'"):
                await ask
    assert (await LocalFiles(str(root)).store().ping()).detail == f"{root}/"


async def test_a_folder_of_many_files_never_holds_the_event_loop_up(root: Path) -> None:
    many = 20_000
    for number in range(many):
        (root / f"{number * 7919 % many:06}").touch()
    store = LocalStore(root)
    count, last, longest = 0, time.thread_time(), 0.0

    async def beat() -> None:
        """How much the loop's own thread works between two turns: a busy machine does not count."""
        nonlocal last, longest
        while True:
            await anyio.sleep(0.001)
            now = time.thread_time()
            last, longest = now, max(longest, now - last)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beat)
        pages: AsyncGenerator[list[FileInfo], None] = store.list()
        async for page in pages:
            assert [file.name for file in page] == [f"{count + number:06}" for number in range(len(page))]
            assert len(page) <= local.PAGE
            count += len(page)
        tasks.cancel_scope.cancel()
    assert count == many
    assert longest < 0.05
