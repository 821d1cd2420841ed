"""Which host keys are trusted, and what is said of one that is not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from retl.connectors.base import ConfigError

_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_USUAL = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")


@dataclass(frozen=True)
class HostKeys:
    """The keys to trust: those with a fingerprint, or else those of known_hosts; ``None`` trusts everybody."""

    known: asyncssh.SSHKnownHosts | None
    fingerprints: tuple[str, ...] = ()
    files: str = ""
    """Where ``known`` comes from, for messages."""

    def client(self) -> HostKeyCheck:
        """Hears of the key that a server shows."""
        return HostKeyCheck(self.fingerprints)


def pinned(fingerprint: str | Sequence[str], option: str = "fingerprint") -> HostKeys:
    """Trust these fingerprints alone."""
    found = [fingerprint] if isinstance(fingerprint, str) else list(fingerprint)
    for one in found:
        if not _FINGERPRINT.fullmatch(one.rstrip("=")):
            raise ConfigError(
                f"{option} is {one!r}, which is not the fingerprint of a host key.",
                remedy="write SHA256: and 43 signs, as `ssh-keygen -lf` shows it.",
            )
    return HostKeys(asyncssh.import_known_hosts(""), tuple(one.rstrip("=") for one in found))


def of_files(path: str | None) -> HostKeys:
    """Trust what stands in a file, or in the usual ones. Blocks."""
    paths = [Path(one).expanduser() for one in ((path,) if path else _USUAL)]
    there = [str(one) for one in paths if path or one.is_file()]
    try:
        known = asyncssh.read_known_hosts(there) if there else asyncssh.import_known_hosts("")
    except (OSError, ValueError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise ConfigError(
            f"the known hosts in {', '.join(there)!r} cannot be read: {reason}.",
            remedy="name a file in known_hosts, or pin the key: fingerprint.",
        ) from None
    return HostKeys(known, files=", ".join(there) or ", ".join(map(str, paths)))


class HostKeyCheck(asyncssh.SSHClient):
    """Trusts a key by its fingerprint, and remembers the one that it did not trust."""

    def __init__(self, fingerprints: Sequence[str]) -> None:
        self._fingerprints = fingerprints
        self.shown: tuple[str, str] | None = None
        """Kind and fingerprint."""

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Called for a key that no file knows."""
        fingerprint = key.get_fingerprint()
        self.shown = (key.get_algorithm(), fingerprint)
        return fingerprint in self._fingerprints

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Called for the key of an authority that no file knows."""
        self.shown = (f"{key.get_algorithm()} (of an authority)", key.get_fingerprint())
        return False


def untrusted(error: Exception, check: HostKeyCheck, keys: HostKeys, place: str, others: bool) -> ConfigError:
    """The error of a host key that is not trusted. ``others``: the files have other keys of this host."""
    if check.shown is None:
        return ConfigError(
            f"the host key of {place} cannot be trusted: {error}.",
            remedy="ask who runs the server for its key, and correct known_hosts.",
        )
    kind, fingerprint = check.shown
    shown = f"it shows a key of the kind {kind} with the fingerprint {fingerprint}"
    if keys.fingerprints or others:
        where = "fingerprint names another one" if keys.fingerprints else f"{keys.files} has another one"
        return ConfigError(
            f"the host key of {place} is not the one that is trusted: {shown}, and {where}.",
            remedy="find out why first: the server has a new key, or somebody else answers in its place. "
            "If the key is right, put it in place of the old one.",
        )
    return ConfigError(
        f"the host key of {place} is not known: {shown}, and {keys.files} has none of that host.",
        remedy="ask who runs the server whether this is its fingerprint (ssh-keygen -lf on the key there); "
        f'if so, write fingerprint = "{fingerprint}", or add the key to known_hosts.',
    )
