"""A real OpenSSH server of Debian 12, with host keys and users' keys of the test's own, and SFTP alone."""

from __future__ import annotations

import base64
import getpass
import hashlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import debian
from tests.servers.process import Process, free_port, give, short_folder

START_SECONDS = 30.0


class SSHServer:
    """A server whose only user is the one whom it runs as; it knows him by ``key``."""

    def __init__(self, folder: Path, port: int, process: Process) -> None:
        self.host = "127.0.0.1"
        self.port = port
        self.user = "nobody" if os.geteuid() == 0 else getpass.getuser()
        self.folder = folder
        self.key = folder / "user_key"
        """The private key of the user; ``locked_key`` has the passphrase ``open sesame``."""
        self.locked_key = folder / "locked_key"
        self.certified_key = folder / "certified_key"
        """A key that the server knows by a certificate alone, which lies beside it."""
        self._process = process

    def url(self, path: Path | str, port: int | None = None) -> str:
        """The address of a folder, by another port where the server is reached through one."""
        return f"ssh://{self.user}@{self.host}:{port or self.port}{path}"

    @property
    def fingerprint(self) -> str:
        """Of its host key."""
        blob = base64.b64decode((self.folder / "host_key.pub").read_text().split()[1])
        return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")

    def known_hosts(self, port: int | None = None) -> str:
        """The line that a client has of it."""
        kind, key = (self.folder / "host_key.pub").read_text().split()[:2]
        return f"[{self.host}]:{port or self.port} {kind} {key}\n"

    def start(self) -> None:
        self._process.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if time.monotonic() > deadline or not self._process.running:
                raise RuntimeError(f"sshd does not start:\n{self._process.log()}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=5) as line:
                return line.recv(4) == b"SSH-"
        except OSError:
            return False

    def kill(self) -> None:
        self._process.kill()

    def kill_sessions(self) -> None:
        """End the processes of all sessions."""
        for child in self._process.children():
            child.kill()


def client_tool(name: str) -> list[str]:
    """The command of a tool that comes with the server: ``ssh-keygen``, ``ssh-agent``."""
    root = debian.unpacked("bookworm", "openssh-server", instead="no variable")
    return debian.command(root, f"usr/bin/{name}")


@contextmanager
def started(*settings: str) -> Iterator[SSHServer]:
    """A server with ``settings`` more in its configuration."""
    root = debian.unpacked("bookworm", "openssh-server", instead="no variable")
    with short_folder("sshd") as folder:
        port = free_port()
        for name, passphrase in (("host_key", ""), ("user_key", ""), ("locked_key", "open sesame")):
            _key(root, folder / name, passphrase)
        _certify(root, folder)
        keys = [(folder / f"{name}.pub").read_text() for name in ("user_key", "locked_key")]
        (folder / "authorized_keys").write_text("".join(keys))
        (folder / "conf").write_text(_configuration(folder, port, settings))
        give(folder)
        # As it stands: a program that it started anew would look for the libraries of this machine.
        command = [*debian.command(root, "usr/sbin/sshd"), "-D", "-e", "-r", "-f", str(folder / "conf")]
        server = SSHServer(folder, port, Process(command, folder))
        try:
            server.start()
            yield server
        finally:
            server.kill_sessions()
            server.kill()


def _key(root: Path, path: Path, passphrase: str) -> None:
    command = [*debian.command(root, "usr/bin/ssh-keygen"), "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _certify(root: Path, folder: Path) -> None:
    """A key with a certificate for the user, and the authority that has signed it."""
    for name in ("authority", "certified_key"):
        _key(root, folder / name, "")
    user = "nobody" if os.geteuid() == 0 else getpass.getuser()
    words = ("-q", "-s", str(folder / "authority"), "-I", "retl", "-n", user, str(folder / "certified_key.pub"))
    subprocess.run([*debian.command(root, "usr/bin/ssh-keygen"), *words], check=True, stdin=subprocess.DEVNULL)


def _configuration(folder: Path, port: int, settings: tuple[str, ...]) -> str:
    lines = (
        *settings,
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder}/host_key",
        f"PidFile {folder}/pid",
        f"AuthorizedKeysFile {folder}/authorized_keys",
        f"TrustedUserCAKeys {folder}/authority.pub",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        # Without it an account that has no password counts as locked.
        "UsePAM yes",
        "StrictModes no",
        "MaxStartups 100",
        "Subsystem sftp internal-sftp",
    )
    return "\n".join(lines) + "\n"
