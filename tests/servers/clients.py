"""The command-line clients of MySQL and MariaDB, from Debian."""

from __future__ import annotations

from pathlib import Path

from tests.servers import debian

_PACKAGES = {
    "mysql": ("sid", "mysql-client-core", ["--ssl-mode=DISABLED", "--enable-cleartext-plugin"]),
    "mariadb": ("bookworm", "mariadb-client-core", ["--skip-ssl"]),
}


def unpack(client: str) -> Path:
    """The folder that it lies in. The test is skipped where it can't be had."""
    suite, package, _ = _PACKAGES[client]
    return debian.unpacked(suite, package, instead="the Python clients")


def command(client: str) -> list[str]:
    """How it is called, over an open line."""
    flags = ["--no-defaults", "--protocol=TCP", "--default-character-set=utf8mb4", *_PACKAGES[client][2]]
    return [*debian.command(unpack(client), f"usr/bin/{client}"), *flags]
