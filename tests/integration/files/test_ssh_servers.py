"""Servers of the field that misbehave: nothing is lost, doubled or cut by them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from retl.connectors.files.store import FileChanged, FileInfo
from retl.connectors.files.stores.ssh.connection import BLOCK, SAFE_BLOCK
from retl.model.errors import ConfigError, SourceError
from tests.fake_sftp import serving
from tests.integration.files.servers import content, listed, put

SIZE = 1_000_003
DATA = b"".join(number.to_bytes(4, "big") for number in range(SIZE // 4 + 1))[:SIZE]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("longest", [102_400, 32_768, 5_000, 1])
async def test_short_answers_are_filled_up(root: Path, longest: int) -> None:
    data = DATA if longest > 1 else DATA[:300]
    put(root, "a", data)
    async with serving(root, longest=longest) as server:
        store = server.files().store()
        (file,) = await listed(store)
        assert await content(store, file) == data
        await store.aclose()


@pytest.mark.parametrize(("announces", "most"), [(None, SAFE_BLOCK), (0, SAFE_BLOCK), (1 << 40, BLOCK), (1_000, 1_000)])
async def test_no_read_asks_for_more_than_is_safe(root: Path, announces: int | None, most: int) -> None:
    put(root, "a", DATA)
    async with serving(root, announces=announces) as server:
        store = server.files().store()
        assert await content(store, (await listed(store))[0]) == DATA
        assert max(size for _, size in server.reads) == most
        await store.aclose()


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(bytes(SIZE))
    os.utime(other, (2, 2))
    other.rename(path)


@pytest.mark.parametrize(
    "change",
    [grow, replace, lambda path: os.truncate(path, 100), lambda path: os.truncate(path, SIZE - 1), Path.unlink],
    ids=["grows", "is replaced", "shrinks", "loses a byte", "is deleted"],
)
async def test_a_file_that_changes_while_it_is_read_is_never_given_whole(
    root: Path, change: Callable[[Path], object]
) -> None:
    path = put(root, "a", DATA)
    os.utime(path, (1, 1))
    async with serving(root) as server:
        store = server.files().store()
        (file,) = await listed(store)
        server.at_read = lambda offset: change(path) if offset and path.exists() and path.stat().st_mtime == 1 else None
        with pytest.raises(FileChanged, match="'a' changed since it was listed"):
            await content(store, file)
        await store.aclose()


async def test_a_hole_that_a_shrinking_file_leaves_is_not_filled_with_zeros(root: Path) -> None:
    path = put(root, "a", DATA)
    os.utime(path, (1, 1))
    async with serving(root, announces=BLOCK) as server:
        store = server.files().store()
        (file,) = await listed(store)

        def shrink(offset: int) -> None:
            os.truncate(path, BLOCK if offset == BLOCK else SIZE)
            os.utime(path, (1, 1))

        # Cut for one read, and as long and as old as before for all others and at the end.
        server.at_read = shrink
        with pytest.raises(FileChanged, match=f"it ends after {BLOCK:,} of {SIZE:,} bytes"):
            await content(store, file)
        await store.aclose()


async def test_a_server_that_denies_more_files_at_once_is_asked_again(root: Path) -> None:
    for number in range(30):
        put(root, f"{number:02}", bytes([number]) * 100_000)
    async with serving(root, most_open=10) as server:
        store = server.files().store()
        got: dict[str, bytes] = {}

        async def read(file: FileInfo) -> None:
            got[file.name] = await content(store, file)

        found = await listed(store)
        async with anyio.create_task_group() as tasks:
            for file in found:
                tasks.start_soon(read, file)
        assert got == {f"{number:02}": bytes([number]) * 100_000 for number in range(30)}
        assert server.denied
        assert server.opened == 0
        await store.aclose()


async def test_a_server_that_serves_no_file_at_all_is_named_in_the_end(root: Path) -> None:
    put(root, "a")
    async with serving(root, most_open=0) as server:
        store = server.files(answer_timeout="2s").store()
        (file,) = await listed(store)
        with pytest.raises(Exception, match="serves no more at once: it said 'Maximum concurrent transfers exceeded'"):
            await content(store, file)
        await store.aclose()


@pytest.mark.parametrize("drive", [b"", b"/D:"])
@pytest.mark.parametrize("tells_kinds", [True, False])
async def test_paths_of_windows_and_listings_without_kinds_are_walked(
    root: Path, drive: bytes, tells_kinds: bool
) -> None:
    for name in ("a b", "d/e/f", "d.csv", "d/é"):
        put(root, name, name.encode())
    (root / "link").symlink_to("d")
    async with serving(root, drive=drive, tells_kinds=tells_kinds) as server:
        store = server.files().store()
        assert store.root == f"{server.url()}/"
        found = await listed(store)
        assert [file.name for file in found] == ["a b", "d.csv", "d/e/f", "d/é", "link/e/f", "link/é"]
        assert [await content(store, file) for file in found[:4]] == [b"a b", b"d.csv", b"d/e/f", "d/é".encode()]
        await store.aclose()


async def test_links_of_a_server_that_does_not_resolve_them_are_not_followed(root: Path, tmp_path: Path) -> None:
    put(tmp_path, "outside/secret")
    put(root, "d/a")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "in").symlink_to("d")
    async with serving(root, resolves_links=False) as server:
        store = server.files().store()
        assert [file.name for file in await listed(store)] == ["d/a"]
        assert await listed(store, "out/") == []
        await store.aclose()


async def test_a_banner_in_any_encoding_is_passed_over(root: Path) -> None:
    put(root, "a")
    async with serving(root, banner="请注意".encode("gb18030")) as server:
        store = server.files().store()
        assert [file.name for file in await listed(store)] == ["a"]
        await store.aclose()


async def test_a_name_with_a_slash_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fake_sftp import server as module

    put(root, "a")
    scandir = module._Files.scandir

    async def forged(self: module._Files, path: bytes) -> object:
        async for name in scandir(self, path):
            if name.filename == b"a":
                name.filename = b"../a"
            yield name

    monkeypatch.setattr(module._Files, "scandir", forged)
    async with serving(root) as server:
        store = server.files().store()
        with pytest.raises(SourceError, match=r"lists '../a' as a name"):
            await listed(store)
        await store.aclose()


async def test_a_folder_of_many_files_is_listed_in_order_in_bounded_pages(root: Path) -> None:
    many = 1_200
    for number in range(many):
        (root / f"{number * 7919 % many:05}").touch()
    async with serving(root) as server:
        store = server.files().store()
        pages = [page async for page in store.list()]
        assert [len(page) for page in pages] == [1_000, 200]
        assert [file.name for page in pages for file in page] == [f"{number:05}" for number in range(many)]
        await store.aclose()


def test_what_is_no_address_is_refused() -> None:
    from retl.connectors.files.stores.ssh import SSHFiles

    for url in ("etl@host/folder", "http://host/", "ssh:///folder", "ssh://host:99999/", "ssh://etl:pw@host/?a=b"):
        with pytest.raises(ConfigError, match="of ssh") as error:
            SSHFiles(url).store()
        assert "pw" not in str(error.value)
