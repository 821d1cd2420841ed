"""Logging in by SSH: host keys, keys, passphrases, passwords, agents, jumps, the user's configuration; and no secret told."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import retl
from retl.connectors import SSHFiles
from retl.model.errors import ConfigError, ConnectionFailed
from tests.fake_sftp import Server, serving
from tests.fake_sftp.server import PASSWORD
from tests.integration.files.servers import files
from tests.servers.process import free_port, short_folder
from tests.servers.sshd import SSHServer, client_tool

OTHER = "SHA256:" + "x" * 43


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path) as server:
        yield server


async def ping(options: SSHFiles) -> str:
    """Who answers."""
    store = options.store()
    try:
        return (await store.ping()).version
    finally:
        await store.aclose()


async def test_a_host_key_that_is_not_known_is_told_with_what_to_do(ssh_server: SSHServer, root: Path) -> None:
    known = root / "known_hosts"
    known.write_text("")
    with pytest.raises(ConfigError) as error:
        await ping(files(ssh_server, root, fingerprint=None, known_hosts=str(known)))
    text = str(error.value)
    assert f"the host key of 127.0.0.1:{ssh_server.port} is not known" in text
    assert f"a key of the kind ssh-ed25519 with the fingerprint {ssh_server.fingerprint}" in text
    assert f'write fingerprint = "{ssh_server.fingerprint}", or add the key to known_hosts' in text
    known.write_text(ssh_server.known_hosts())
    assert (await ping(files(ssh_server, root, fingerprint=None, known_hosts=str(known)))).startswith("OpenSSH")


async def test_another_host_key_than_the_known_one_is_told_as_such(
    ssh_server: SSHServer, root: Path, fake: Server
) -> None:
    known = root / "known_hosts"
    line = ssh_server.known_hosts().replace(str(ssh_server.port), str(fake.port))
    known.write_text(line)
    for options in (
        fake.files(fingerprint=None, known_hosts=str(known)),
        fake.files(fingerprint=ssh_server.fingerprint),
        fake.files(fingerprint=[OTHER, ssh_server.fingerprint]),
    ):
        with pytest.raises(ConfigError, match="is not the one that is trusted") as error:
            await ping(options)
        assert fake.fingerprint in str(error.value)
        assert "somebody else answers in its place" in str(error.value)
    assert await ping(fake.files(fingerprint=[OTHER, f"{fake.fingerprint}="]))


async def test_to_check_no_host_key_is_warned_of_at_each_start(fake: Server, caplog: pytest.LogCaptureFixture) -> None:
    for starts in (1, 2):
        store = fake.files(fingerprint=None, host_key="insecure").store()
        (warning,) = (await store.ping()).warnings
        await store.ping()
        assert "anybody on the way can answer in its place" in warning
        assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [warning] * starts
        await store.aclose()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"host_key": "insecure"}, "contradicts"),
        ({"fingerprint": "MD5:00:11"}, "is not the fingerprint of a host key"),
        ({"fingerprint": None, "known_hosts": "/none/such"}, "cannot be read: No such file"),
        ({"passphrase": "open sesame", "key": None}, "without key"),
        ({"key": "/none/such"}, "the key '/none/such' cannot be read: No such file"),
        ({"key": "/etc/passwd"}, "the key '/etc/passwd' cannot be read: it is not a private key"),
        ({"jump": "host"}, "is not one of ssh"),
    ],
)
async def test_options_that_cannot_be_are_told(fake: Server, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        await ping(fake.files(**options))


async def test_a_key_may_have_a_passphrase_and_come_as_text(
    ssh_server: SSHServer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: dict[str, Any] = {"key": str(ssh_server.locked_key)}
    assert await ping(files(ssh_server, root, **locked, passphrase="open sesame"))
    for wrong in (None, "close sesame"):
        with pytest.raises(ConfigError, match=r"locked_key' cannot be read: .*passphrase") as error:
            await ping(files(ssh_server, root, **locked, passphrase=wrong))
        assert "sesame" not in str(error.value)
    monkeypatch.setenv("SSH_KEY", ssh_server.key.read_text())
    assert await ping(files(ssh_server, root, key=retl.env("SSH_KEY")))
    monkeypatch.setenv("SSH_KEY", ssh_server.locked_key.read_text())
    with pytest.raises(ConfigError, match="the key cannot be read"):
        await ping(files(ssh_server, root, key=retl.env("SSH_KEY")))


async def test_a_login_by_password_tells_it_to_nobody(fake: Server) -> None:
    assert await ping(fake.files())
    assert PASSWORD not in repr(fake.files())
    for wrong in ({"password": "some other secret"}, {"key": str(_other_key(fake.root)), "password": None}):
        with pytest.raises(ConfigError, match="refused the login of 'etl'") as error:
            await ping(fake.files(**wrong))
        assert "secret" not in str(error.value)
    url = fake.url().replace("etl@", f"etl:{PASSWORD.replace(' ', '%20')}@")
    options = SSHFiles(url, fingerprint=fake.fingerprint)
    assert await ping(options)
    for text in (repr(options), options.store().root):
        assert PASSWORD not in text and PASSWORD.replace(" ", "%20") not in text


def _other_key(folder: Path) -> Path:
    path = folder / "other"
    if not path.exists():
        subprocess.run([*client_tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@pytest.fixture
def agent(ssh_server: SSHServer, tmp_path: Path) -> Iterator[str]:
    """The socket of an agent that knows the user's key."""
    with short_folder("agent") as folder:
        socket = str(folder / "s")
        agent = [*client_tool("ssh-agent"), "-s", "-a", socket]
        told = subprocess.run(agent, check=True, capture_output=True, text=True).stdout
        number = int(told.split("SSH_AGENT_PID=")[1].split(";")[0])
        try:
            key = tmp_path / "key"
            key.write_bytes(ssh_server.key.read_bytes())
            key.chmod(0o600)
            add = [*client_tool("ssh-add"), "-q", str(key)]
            subprocess.run(add, check=True, env={**os.environ, "SSH_AUTH_SOCK": socket})
            yield socket
        finally:
            os.kill(number, signal.SIGTERM)


async def test_an_agent_is_asked_where_it_may(
    ssh_server: SSHServer, root: Path, agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(root))
    monkeypatch.setenv("SSH_AUTH_SOCK", agent)
    assert await ping(files(ssh_server, root, key=None))
    with pytest.raises(ConfigError, match="refused the login"):
        await ping(files(ssh_server, root, key=None, agent=False))
    monkeypatch.delenv("SSH_AUTH_SOCK")
    assert await ping(files(ssh_server, root, key=None, agent=agent))
    assert await ping(files(ssh_server, root, key=None, password="no use", agent=agent))


async def test_a_host_is_reached_through_another_one(ssh_server: SSHServer, root: Path, fake: Server) -> None:
    key = root / "key"
    fake.key.write_private_key(key)
    gate: dict[str, Any] = {"jump": f"ssh://etl@127.0.0.1:{fake.port}", "jump_fingerprint": fake.fingerprint}
    with pytest.raises(ConfigError, match=f"127.0.0.1:{fake.port} refused the login of 'etl'"):
        await ping(files(ssh_server, root, **gate))
    # One key for both.
    both = ssh_server.folder / "authorized_keys"
    both.write_text(both.read_text() + fake.key.export_public_key().decode())
    options = files(ssh_server, root, **gate | {"key": str(key)})
    assert (await ping(options)).startswith("OpenSSH")
    with pytest.raises(ConfigError, match=f"the host key of 127.0.0.1:{fake.port} is not the one"):
        await ping(files(ssh_server, root, **gate | {"jump_fingerprint": OTHER}))
    await ping(options)


async def test_the_configuration_of_the_user_names_hosts_and_keys(ssh_server: SSHServer, root: Path) -> None:
    config = root / "config"
    config.write_text(
        f"Host exports\n  HostName 127.0.0.1\n  Port {ssh_server.port}\n  User {ssh_server.user}\n"
        f"  IdentityFile {ssh_server.key}\n  UserKnownHostsFile none\n"
    )
    options = SSHFiles(f"ssh://exports{root}", config=str(config), fingerprint=ssh_server.fingerprint)
    assert (await ping(options)).startswith("OpenSSH")
    # It never switches the check of the host key off.
    known = root / "known_hosts"
    known.write_text("")
    with pytest.raises(ConfigError, match="is not known"):
        await ping(SSHFiles(f"ssh://exports{root}", config=str(config), known_hosts=str(known)))


async def test_a_key_may_have_a_certificate_beside_it(ssh_server: SSHServer, root: Path) -> None:
    certified = ssh_server.certified_key
    assert (await ping(files(ssh_server, root, key=str(certified)))).startswith("OpenSSH")
    alone = root / "alone"
    alone.write_text(certified.read_text())
    with pytest.raises(ConfigError, match="refused the login"):
        await ping(files(ssh_server, root, key=str(alone)))


async def test_a_jump_of_the_configuration_is_taken_and_checked(ssh_server: SSHServer, root: Path) -> None:
    known, config = root / "known_hosts", root / "config"
    known.write_text(ssh_server.known_hosts())
    here = (
        f"  HostName 127.0.0.1\n  Port {ssh_server.port}\n  User {ssh_server.user}\n  IdentityFile {ssh_server.key}\n"
    )
    gate = f"{here}  UserKnownHostsFile {known}\n"
    config.write_text(f"Host gate\n{gate}Host inner\n{here}  ProxyJump gate\n")
    options = SSHFiles(f"ssh://inner{root}", config=str(config), fingerprint=ssh_server.fingerprint)
    assert (await ping(options)).startswith("OpenSSH")
    known.write_text("")
    with pytest.raises(ConfigError, match="host key"):
        await ping(options)


@pytest.mark.parametrize("asks", [("Password: ",), ("Verification code: ",)])
async def test_a_server_that_asks_for_the_password_by_itself_gets_it(tmp_path: Path, asks: tuple[str, ...]) -> None:
    async with serving(tmp_path, asks=asks) as server:
        if "code" in asks[0]:
            with pytest.raises(ConfigError, match="refused the login"):
                await ping(server.files())
        else:
            assert await ping(server.files())
        with pytest.raises(ConfigError, match="refused the login"):
            await ping(server.files(password="another"))


async def test_a_server_that_is_not_there_is_a_failed_connection(fake: Server) -> None:
    for url in (f"ssh://etl@127.0.0.1:{free_port()}/", "ssh://etl@no-such-host.invalid/"):
        with pytest.raises(ConnectionFailed, match=r"the connection to .* failed"):
            await ping(SSHFiles(url, password="a", fingerprint=OTHER, connect_timeout=5))
