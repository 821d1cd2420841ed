"""How one logs in: what asyncssh is told, read from files once for each store."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncssh

from retl.connectors.base import ConfigError
from retl.connectors.files.stores.ssh.address import Address
from retl.connectors.files.stores.ssh.host_keys import HostKeys, of_files, pinned
from retl.model.duration import parse_duration
from retl.model.secret import reveal

if TYPE_CHECKING:
    from retl.connectors.files.stores.ssh import SSHFiles

KEEPALIVE_SECONDS = 15
UNANSWERED = 3
WINDOW = 16 << 20
"""How many bytes may be under way: a small window makes a fast server wait for a far client."""
# The first of these that the server knows is taken; they cost a tenth of the asyncssh default, ChaCha20.
_FAST = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
_KEY_TEXT = "-----BEGIN"


@dataclass(frozen=True)
class Login:
    """One server: its address, the keys that it may show, and what is told to the driver."""

    address: Address
    host_keys: HostKeys
    words: dict[str, Any] = field(repr=False)
    connect_seconds: float
    answer_seconds: float
    jump: Login | None = None

    @property
    def place(self) -> str:
        """Host and port, for messages."""
        return self.address.place


def read_login(options: SSHFiles, address: Address) -> Login:
    """Read keys and known hosts. Blocks: the passphrase of a key costs a good part of a second."""
    keys = _keys(options)
    known = None if options.host_key == "insecure" else of_files(options.known_hosts)
    jump = None
    if options.jump is not None:
        gate = Address.read(options.jump)
        jump = _login(options, gate, _trusted(known, options.jump_fingerprint, "jump_fingerprint"), keys, gate.password)
    password = address.password if options.password is None else reveal(options.password)
    return _login(options, address, _trusted(known, options.fingerprint, "fingerprint"), keys, password, jump)


def check_options(options: SSHFiles) -> Address:
    """The address. Raises ``ConfigError`` for options that contradict each other."""
    if options.host_key == "insecure" and (options.fingerprint or options.known_hosts or options.jump_fingerprint):
        raise ConfigError(
            'host_key = "insecure" contradicts fingerprint and known_hosts.', remedy="leave one of them out."
        )
    if options.passphrase is not None and options.key is None:
        raise ConfigError("passphrase is given without key.", remedy="name the key that it belongs to.")
    return Address.read(options.url)


def _trusted(known: HostKeys | None, fingerprint: str | list[str] | None, option: str) -> HostKeys:
    if fingerprint:
        return pinned(fingerprint, option)
    return HostKeys(None) if known is None else known


def _login(
    options: SSHFiles,
    address: Address,
    host_keys: HostKeys,
    keys: list[Any] | None,
    password: str | None,
    jump: Login | None = None,
) -> Login:
    connect = parse_duration(options.connect_timeout, what="connect_timeout").total_seconds()
    answer = parse_duration(options.answer_timeout, what="answer_timeout").total_seconds()
    words = _words(options) | _who(options, keys, password)
    if address.port is not None:
        words["port"] = address.port
    if address.user is not None:
        words["username"] = address.user
    return Login(address, host_keys, words | {"known_hosts": host_keys.known}, connect, answer, jump)


def _words(options: SSHFiles) -> dict[str, Any]:
    return {
        "config": None if options.config is None else [str(Path(options.config).expanduser())],
        "encryption_algs": _FAST,
        "compression_algs": None,
        "keepalive_interval": KEEPALIVE_SECONDS,
        "keepalive_count_max": UNANSWERED,
        "window": WINDOW,
        "gss_kex": False,
        "gss_auth": False,
        # A banner may be in any encoding.
        "utf8_decode_errors": "backslashreplace",
    }


def _who(options: SSHFiles, keys: list[Any] | None, password: str | None) -> dict[str, Any]:
    words: dict[str, Any] = {"password": password}
    alone = keys is None and password is None
    if keys is not None:
        words["client_keys"] = keys
    elif not alone and not options.agent:
        words["client_keys"] = None
    if isinstance(options.agent, str):
        words["agent_path"] = options.agent
    elif options.agent is False or (options.agent is None and not alone):
        words["agent_path"] = None
    return words


def _keys(options: SSHFiles) -> list[Any] | None:
    if options.key is None:
        return None
    key, passphrase = options.key, None if options.passphrase is None else reveal(options.passphrase)
    text = key if isinstance(key, str) else key.reveal()
    try:
        if text.lstrip().startswith(_KEY_TEXT):
            return [asyncssh.import_private_key(text.strip() + "\n", passphrase)]
        return list(asyncssh.load_keypairs(str(Path(text).expanduser()), passphrase))
    except (OSError, ValueError) as error:
        where = "the key" if text.lstrip().startswith(_KEY_TEXT) else f"the key {text!r}"
        raise ConfigError(f"{where} cannot be read: {_why(error)}.", remedy="check key and passphrase.") from None


def _why(error: Exception) -> str:
    if isinstance(error, asyncssh.KeyEncryptionError):
        return "the passphrase is wrong"
    if isinstance(error, asyncssh.KeyImportError) and "passphrase" in str(error).lower():
        return "it needs a passphrase, or another one"
    return "it is not a private key" if isinstance(error, ValueError) else str(getattr(error, "strerror", error))
