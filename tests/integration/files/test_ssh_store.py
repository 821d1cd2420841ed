"""Files of a real OpenSSH server: the contract of stores, links, folders, and lines that are cut."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from retl.connectors.files.store import FileChanged
from retl.connectors.files.stores.ssh import store as ssh_store
from retl.connectors.files.stores.ssh.login import read_login
from retl.connectors.files.stores.ssh.store import SSHStore
from retl.model.errors import ConfigError, ConnectionFailed
from tests.integration.files.servers import LEFT_OUT, content, files, link, listed, put
from tests.servers.process import short_folder
from tests.servers.proxy import DIRECTIONS, Direction, How, Proxy
from tests.servers.sshd import SSHServer


@pytest.fixture
async def store(ssh_server: SSHServer, root: Path) -> AsyncIterator[SSHStore]:
    made = files(ssh_server, root).store()
    yield made
    await made.aclose()


async def test_names_that_are_not_utf8_are_read_by_their_escapes(store: SSHStore, root: Path) -> None:
    raws = [b"caf\xe9.csv", b"\xff/\xfe", b"\\xe9\xe9", b"\\xff/a", b"ok"]
    for raw in raws:
        put(root, raw, raw)
    found = await listed(store)
    assert [file.name for file in found] == ["\\x5cxe9\\xe9", "\\x5cxff/a", "\\xff/\\xfe", "caf\\xe9.csv", "ok"]
    assert sorted([await content(store, file) for file in found]) == sorted(raws)
    assert all([await store.stat(file.name) == file for file in found])


async def test_links_out_of_the_root_and_circles_are_not_followed(store: SSHStore, root: Path) -> None:
    with short_folder("outside") as outside:
        outside.chmod(0o755)
        put(outside, "secret")
        put(root, "data/a")
        link(root, outside)
        left_out: list[str] = []
        found = await listed(store, left_out=left_out)
        assert [file.name for file in found] == ["data/a", "inside/a", "inside_file"]
        assert sorted(left_out) == LEFT_OUT
        assert await listed(store, "out/") == []
        assert [file.name for file in await listed(store, "inside/")] == ["inside/a"]
        assert await listed(store, "data/up/data/") == []
        for name in ("out/secret", "out_file", f"../{outside.name}/secret", "dangling", "self", "data", "", "data/"):
            assert await store.stat(name) is None
        file = await store.stat("data/a")
        assert file is not None
        (root / "data" / "a").unlink()
        (root / "data" / "a").symlink_to(outside / "secret")
        with pytest.raises(FileChanged):
            await content(store, file)


async def test_pipes_and_sockets_are_no_files(store: SSHStore, root: Path) -> None:
    put(root, "a")
    os.mkfifo(root / "pipe")
    (root / "device").symlink_to("/dev/zero")
    assert [file.name for file in await listed(store)] == ["a"]
    file = await store.stat("a")
    assert file is not None
    (root / "a").unlink()
    os.mkfifo(root / "a")
    with anyio.fail_after(5), pytest.raises(FileChanged):
        await content(store, file)


async def test_a_folder_that_may_not_be_read_fails_the_listing(store: SSHStore, root: Path) -> None:
    for name in ("a/1", "b/2", "c/3"):
        put(root, name)
    (root / "b").chmod(0o700)
    if os.geteuid():
        (root / "b").chmod(0)
    try:
        with pytest.raises(ConfigError, match=r"/b/?' may not be read by the user who logs in") as error:
            await listed(store)
        assert "a listing is never partial" in str(error.value)
        assert [file.name for file in await listed(store, "a/")] == ["a/1"]
    finally:
        (root / "b").chmod(0o755)


async def test_a_file_that_may_not_be_read_is_named(store: SSHStore, root: Path) -> None:
    put(root, "a").chmod(0)
    (file,) = await listed(store)
    with pytest.raises(ConfigError, match=r"/a' may not be read"):
        await content(store, file)


async def test_a_root_that_is_not_there_or_no_folder_is_named(ssh_server: SSHServer, root: Path) -> None:
    put(root, "file")
    for path in (root / "none", root / "file"):
        store = files(ssh_server, path).store()
        for ask in (store.ping(), listed(store), listed(store, "a/")):
            with pytest.raises(ConfigError, match=f"'{path}' is no folder of the server"):
                await ask
        await store.aclose()


async def test_a_root_in_the_home_of_the_user_is_found(ssh_server: SSHServer) -> None:
    store = files(ssh_server, Path("/~")).store()
    assert store.root == f"ssh://{ssh_server.user}@127.0.0.1:{ssh_server.port}/~/"
    await store.ping()
    await store.aclose()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_login_that_is_cut_anywhere_is_a_failed_connection_or_tried_again(
    ssh_server: SSHServer, root: Path, direction: Direction, how: How
) -> None:
    put(root, "a", b"content")
    async with Proxy(ssh_server.host, ssh_server.port) as proxy:
        for after in (0, 5, 100, 1_000, 2_000, 3_000, 4_000):
            store = files(ssh_server, root, proxy.port).store()
            proxy.break_after(after, direction, how)
            with suppress(ConnectionFailed):
                assert [file.name for file in await listed(store)] == ["a"]
            proxy.mend()
            await store.aclose()


async def test_a_server_that_does_not_answer_is_given_up(
    ssh_server: SSHServer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root, "a", bytes(1 << 20))
    async with Proxy(ssh_server.host, ssh_server.port) as proxy:
        store = files(ssh_server, root, proxy.port, answer_timeout="2s").store()
        (file,) = await listed(store)
        proxy.stall()
        monkeypatch.setattr(ssh_store, "read_login", lambda *given: replace(read_login(*given), connect_seconds=0.1))
        with pytest.raises(ConnectionFailed, match=r"did not answer in time|no answer about"):
            await content(store, file)
        with pytest.raises(ConnectionFailed, match="did not answer in time"):
            await store.ping()
        proxy.resume()
        monkeypatch.undo()
        assert await content(store, file) == bytes(1 << 20)
        await store.aclose()


async def test_sessions_that_the_server_ends_are_begun_again(ssh_server: SSHServer, root: Path) -> None:
    put(root, "a", b"content")
    store = files(ssh_server, root).store()
    (file,) = await listed(store)
    await anyio.to_thread.run_sync(ssh_server.kill_sessions)
    assert await content(store, file) == b"content"
    await store.aclose()


async def test_the_driver_writes_nothing_into_the_log_of_the_host(
    ssh_server: SSHServer, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    put(root, "a", b"content")
    store = files(ssh_server, root).store()
    (file,) = await listed(store)
    async with aclosing(store.read(file)) as blocks:
        assert await anext(blocks) == b"content"
    await store.aclose()
    bad = files(ssh_server, root, key=None, password="none of yours").store()
    with pytest.raises(ConfigError):
        await bad.ping()
    await asyncio.sleep(0)
    assert [record for record in caplog.records if record.name.startswith("asyncssh")] == []
    logging.getLogger("asyncssh").warning("of the host itself")
    assert [record.message for record in caplog.records if record.name == "asyncssh"] == ["of the host itself"]


async def test_many_connections_that_the_server_refuses_leave_those_that_it_serves(root: Path) -> None:
    from tests.servers import sshd

    for number in range(6):
        put(root, f"{number}", bytes([number]) * 3_000_000)
    with sshd.started("MaxSessions 1", "MaxStartups 1:100:1") as server:
        store = files(server, root, max_connections=10).store()
        found = await listed(store)
        streams = [store.read(file) for file in found]
        got = [await anext(stream) for stream in streams]
        for number, stream in enumerate(streams):
            whole = got[number] + b"".join([block async for block in stream])
            assert whole == bytes([number]) * 3_000_000
        await store.aclose()


async def test_a_large_folder_never_holds_the_event_loop_up(store: SSHStore, root: Path) -> None:
    many = 5_000
    for number in range(many):
        (root / f"{number * 7919 % many:05}").touch()
    turns, between = 0, []

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count_turns)
        found = []
        async for page in store.list():
            between.append(turns)
            found += [file.name for file in page]
        tasks.cancel_scope.cancel()
    assert found == [f"{number:05}" for number in range(many)]
    assert len(between) == 5 and sorted(set(between)) == between
