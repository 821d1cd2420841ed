"""What every store of files must do: inherit ``StoreContract``, or ``RemoteStoreContract`` where a network lies between."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, ClassVar

import anyio
import pytest
from anyio.to_thread import run_sync

from retl.connectors.files.store import FileChanged, FileInfo, FileStore
from retl.model.errors import ConnectionFailed
from tests import tiers
from tests.servers.proxy import How, Proxy

MIB = 1 << 20
BLOCK = 8 * MIB
"""No block of a file is larger."""
NAMES = [
    "-", ".hidden", "A", "a b.csv", "a\"'b.csv", "a%20b+c.csv", "a\nb.csv", "a&b;c=d.csv", "a?b#c.csv", "a\\b", "~",
    "caf\u00e9.csv", "cafe\u0301.csv", "dir/a", "dir/b/c.csv", "dir-1", "dir.csv", "日本/売上.csv", "\U0001f600", "\ue000",
    "$(x)`y`", "*[a]{b}!", "tail ", " lead", "%", "%2F", "<xml>&amp;", "é" * 120,
]  # fmt: skip
"""Names that every store takes. Their order by code points is that of no collation, and not that of UTF-16 either."""


class StoreContract:
    """A suite's object lives for one test; the root of the store is empty when it begins."""

    names: ClassVar[list[str]] = NAMES
    many: ClassVar[int] = 2_500
    """More files than a page has."""

    def new_store(self) -> FileStore:
        """Another object on the one root; the suite closes it."""
        raise NotImplementedError

    def put(self, name: str, content: bytes) -> None:
        """Write a file, or write over it. Blocks."""
        raise NotImplementedError

    def delete(self, name: str) -> None:
        """Blocks."""
        raise NotImplementedError

    def put_many(self, names: list[str]) -> None:
        """Write many files of one byte. Blocks."""
        for name in names:
            self.put(name, b"1")

    @pytest.fixture
    async def store(self) -> AsyncIterator[FileStore]:
        made = self.new_store()
        yield made
        await made.aclose()
        await made.aclose()

    async def test_it_tells_who_it_is(self, store: FileStore) -> None:
        info = await store.ping()
        assert info.product
        assert store.root.endswith("/")

    async def test_an_empty_root_has_no_files(self, store: FileStore) -> None:
        assert [page async for page in store.list()] == []
        assert await store.stat("nothing") is None
        assert await store.stat("no/folder/either") is None

    async def test_files_are_listed_in_the_order_of_their_code_points_and_read_by_their_names(
        self, store: FileStore
    ) -> None:
        for name in self.names:
            await run_sync(self.put, name, name.encode())
        files = await listed(store)
        assert [file.name for file in files] == sorted(self.names)
        for file in files:
            assert await content(store, file) == file.name.encode()
            assert file.size == len(file.name.encode())
            assert await self.identity(store, file.name) == file.identity
            assert not file.archived
            assert file.modified is None or file.modified.utcoffset() is not None

    async def test_a_listing_is_complete_and_in_order_over_many_pages(self, store: FileStore) -> None:
        many = [f"{number * 7919 % self.many:05}/x" for number in range(self.many)]
        await run_sync(self.put_many, many)
        async with aclosing(store.list()) as pages:
            sizes = [len(page) async for page in pages]
        assert max(sizes) <= 1_000
        assert [file.name for file in await listed(store)] == sorted(many)

    async def test_a_prefix_may_end_anywhere_in_a_name(self, store: FileStore) -> None:
        for name in ("s/2024-01/a", "s/2024-02/b", "s/2025/c", "s.csv", "s2/d", "other"):
            await run_sync(self.put, name, b"1")
        assert [file.name for file in await listed(store, "s/2024-")] == ["s/2024-01/a", "s/2024-02/b"]
        assert [file.name for file in await listed(store, "s/2025/c")] == ["s/2025/c"]
        assert [file.name for file in await listed(store, "s")] == [
            "s.csv", "s/2024-01/a", "s/2024-02/b", "s/2025/c", "s2/d",
        ]  # fmt: skip
        assert await listed(store, "none/") == []

    async def test_a_listing_may_be_left_early(self, store: FileStore) -> None:
        await run_sync(self.put_many, [f"{number:05}" for number in range(1_100)])
        async with aclosing(store.list()) as pages:
            async for page in pages:
                assert page
                break
        assert len(await listed(store)) == 1_100

    @pytest.mark.parametrize("size", [0, 1, MIB, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
    async def test_a_file_is_read_to_its_last_byte(self, store: FileStore, size: int) -> None:
        data = some_bytes(size)
        await run_sync(self.put, "file", data)
        (file,) = await listed(store)
        assert file.size == size
        for _ in range(2):
            assert await content(store, file) == data

    async def test_a_large_file_comes_in_bounded_blocks(self, store: FileStore) -> None:
        data = some_bytes(tiers.number(10) * 20 * MIB)
        await run_sync(self.put, "large", data)
        found = hashlib.sha256()
        async with aclosing(store.read((await listed(store))[0])) as blocks:
            async for block in blocks:
                assert 0 < len(block) <= BLOCK
                found.update(block)
        assert found.digest() == hashlib.sha256(data).digest()

    @pytest.mark.parametrize("how", ["overwritten", "grown", "cut", "emptied", "deleted"])
    async def test_a_file_that_has_changed_since_it_was_listed_is_not_read(self, store: FileStore, how: str) -> None:
        await run_sync(self.put, "file", b"before")
        (file,) = await listed(store)
        await run_sync(self.change, "file", how, b"before")
        with pytest.raises(FileChanged, match="'file'"):
            await content(store, file)
        now = await listed(store)
        assert [each.identity == file.identity for each in now] == ([] if how == "deleted" else [False])

    @pytest.mark.parametrize("how", ["overwritten", "grown", "cut", "deleted"])
    async def test_a_file_that_changes_while_it_is_read_is_given_as_it_was_or_not_at_all(
        self, store: FileStore, how: str
    ) -> None:
        data = some_bytes(8 * BLOCK)
        await run_sync(self.put, "file", data)
        (file,) = await listed(store)
        got: list[bytes] = []
        try:
            async with aclosing(store.read(file)) as blocks:
                async for block in blocks:
                    if not got:
                        await run_sync(self.change, "file", how, data)
                    got.append(block)
        except FileChanged:
            pass
        else:
            assert b"".join(got) == data
        assert file.identity not in [each.identity for each in await listed(store)]

    async def test_files_are_read_side_by_side_in_any_order(self, store: FileStore) -> None:
        contents = {f"file {number}": some_bytes(2 * BLOCK + number) for number in range(8)}
        for name, data in contents.items():
            await run_sync(self.put, name, data)
        got: dict[str, list[bytes]] = {name: [] for name in contents}
        streams = {file.name: store.read(file) for file in await listed(store)}
        # One block of each in turn: nobody may wait for what another one holds.
        with anyio.fail_after(60):
            while streams:
                for name, stream in list(streams.items()):
                    block = await anext(stream, None)
                    if block is None:
                        del streams[name]
                    else:
                        got[name].append(block)
        assert {name: b"".join(blocks) for name, blocks in got.items()} == contents

    async def test_a_read_may_be_left_early_or_cancelled(self, store: FileStore) -> None:
        data = some_bytes(5 * BLOCK)
        await run_sync(self.put, "file", data)
        (file,) = await listed(store)
        for _ in range(3):
            async with aclosing(store.read(file)) as blocks:
                assert await anext(blocks)
            with anyio.move_on_after(0.01):
                await content(store, file)
        assert await content(store, file) == data

    async def test_it_can_be_used_again_after_it_was_closed(self, store: FileStore) -> None:
        await run_sync(self.put, "file", b"1")
        await store.ping()
        await store.aclose()
        assert [file.name for file in await listed(store)] == ["file"]

    async def identity(self, store: FileStore, name: str) -> str:
        file = await store.stat(name)
        assert file is not None and file.name == name
        return file.identity

    def change(self, name: str, how: str, content: bytes) -> None:
        """Blocks."""
        changed = {
            "overwritten": bytes([content[0] ^ 1]) + content[1:],
            "grown": content + b"more",
            "cut": content[:-1],
            "emptied": b"",
        }
        if how == "deleted":
            self.delete(name)
        else:
            self.put(name, changed[how])


class RemoteStoreContract(StoreContract):
    """The same over a line that breaks."""

    def address(self) -> tuple[str, int]:
        """Where the server listens."""
        raise NotImplementedError

    def store_at(self, host: str, port: int) -> FileStore:
        """A store that reaches its server there."""
        raise NotImplementedError

    @pytest.fixture
    async def proxy(self) -> AsyncIterator[Proxy]:
        async with Proxy(*self.address()) as proxy:
            yield proxy

    @pytest.fixture
    async def cut(self, proxy: Proxy) -> AsyncIterator[FileStore]:
        """The store by way of the proxy."""
        made = self.store_at(proxy.host, proxy.port)
        yield made
        await made.aclose()

    @pytest.mark.parametrize("how", ["reset", "close"])
    async def test_a_read_goes_on_where_its_line_was_cut(self, cut: FileStore, proxy: Proxy, how: How) -> None:
        data = some_bytes(3 * BLOCK)
        await run_sync(self.put, "file", data)
        (file,) = await listed(cut)
        for after in (0, 10, 300_000, 5 * MIB, 20 * MIB):
            broken = proxy.broken
            proxy.break_after(after, "to_client", how)
            assert await content(cut, file) == data
            assert proxy.broken > broken

    async def test_what_changed_while_a_line_was_cut_is_never_mixed(self, cut: FileStore, proxy: Proxy) -> None:
        data = some_bytes(3 * BLOCK)
        await run_sync(self.put, "file", data)
        (file,) = await listed(cut)
        passed = proxy.passed["to_client"] + 5 * MIB
        proxy.break_after(5 * MIB, "to_client", "stall")
        reading = asyncio.create_task(content(cut, file))
        await proxy.until(lambda: proxy.passed["to_client"] >= passed)
        await run_sync(self.change, "file", "overwritten", data)
        proxy.break_now()
        proxy.resume()
        with anyio.fail_after(60), pytest.raises(FileChanged):
            await reading

    async def test_a_listing_goes_on_where_its_line_was_cut(self, cut: FileStore, proxy: Proxy) -> None:
        names = [f"{number:05}" for number in range(1_100)]
        await run_sync(self.put_many, names)
        for after in (0, 1_000, 100_000):
            proxy.break_after(after, "to_client")
            assert [file.name for file in await listed(cut)] == names

    async def test_a_server_that_is_gone_is_a_failed_connection(
        self, cut: FileStore, proxy: Proxy, impatient: None
    ) -> None:
        await run_sync(self.put, "file", some_bytes(BLOCK))
        (file,) = await listed(cut)
        proxy.refuse()
        proxy.break_now()
        asked: list[Callable[[], Any]] = [lambda: content(cut, file), lambda: listed(cut), cut.ping]
        for ask in asked:
            with pytest.raises(ConnectionFailed):
                await ask()
        await proxy.accept()
        assert len(await content(cut, file)) == BLOCK

    @pytest.fixture
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Pauses between attempts are short."""
        monkeypatch.setattr("retl.connectors.net.retry.random.uniform", lambda least, most: 0.001)


def some_bytes(size: int) -> bytes:
    """So many bytes, of which no two neighbouring blocks are alike."""
    numbers = b"".join(number.to_bytes(8, "big") for number in range(min(size, MIB) // 8 + 1))
    blocks = -(-size // len(numbers))
    return b"".join(number.to_bytes(8, "big") + numbers[8:] for number in range(blocks))[:size]


async def listed(store: FileStore, prefix: str = "") -> list[FileInfo]:
    return [file async for page in store.list(prefix) for file in page]


async def content(store: FileStore, file: FileInfo) -> bytes:
    async with aclosing(store.read(file)) as blocks:
        return b"".join([block async for block in blocks])
