"""Files of a server that is reached by SSH."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import msgspec

from retl.connectors.files.source import FileOptions
from retl.model.secret import Secret, without_password

if TYPE_CHECKING:
    from retl.connectors.files.stores.ssh.store import SSHStore

HostKey = Literal["verify", "insecure"]


class SSHFiles(FileOptions, kw_only=False, forbid_unknown_fields=True):
    """A folder of a server, read by SFTP.

    Without ``key``, ``password`` and ``agent``, the agent of the environment and the usual keys of ``~/.ssh`` are tried.
    """

    type_name: ClassVar[str] = "ssh"
    summary: ClassVar[str] = "Files of a server, by SFTP."
    example: ClassVar[str] = (
        'source = { type = "ssh", url = "ssh://etl@files.example.com/var/exports", key = "~/.ssh/id_ed25519" }'
    )

    url: Annotated[
        str,
        msgspec.Meta(
            description="`ssh://user@host:22/folder`; `/~/folder` is one of the user's home, `/D:/folder` one of Windows."
        ),
    ]
    known_hosts: Annotated[
        str | None,
        msgspec.Meta(
            description="The file with the host keys to trust; `~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts` when unset.",
            extra={"path": True},
        ),
    ] = None
    fingerprint: Annotated[
        str | list[str] | None,
        msgspec.Meta(
            description="Trust the host key with this fingerprint, `SHA256:...`, or one of several; no other."
        ),
    ] = None
    host_key: Annotated[
        HostKey,
        msgspec.Meta(
            description="`insecure` checks no host key, so anybody on the way may answer in place of the server. It warns at each start."
        ),
    ] = "verify"
    key: Annotated[
        Secret | str | None,
        msgspec.Meta(
            description="The file of a private key (a certificate `-cert.pub` beside it is used too), or the key itself by `${NAME}`.",
            extra={"path": True},
        ),
    ] = None
    passphrase: Annotated[Secret | str | None, msgspec.Meta(description="Of `key`.")] = None
    password: Annotated[
        Secret | str | None, msgspec.Meta(description="Better than in the URL: `${NAME}` or `retl.env(...)`.")
    ] = None
    agent: Annotated[
        bool | str | None,
        msgspec.Meta(
            description="Whether an agent is asked for keys: that of the environment, or that of this socket. Unset: if there is neither `key` nor `password`."
        ),
    ] = None
    jump: Annotated[
        str | None,
        msgspec.Meta(
            description="`ssh://user@gate:22`, a host to connect through, with the same key or agent; never with `password`."
        ),
    ] = None
    jump_fingerprint: Annotated[
        str | list[str] | None, msgspec.Meta(description="As `fingerprint`, of the host of `jump`.")
    ] = None
    config: Annotated[
        str | None,
        msgspec.Meta(
            description="A file such as `~/.ssh/config`, whose names, users, ports, keys and jumps are used; none when unset.",
            extra={"path": True},
        ),
    ] = None
    connect_timeout: Annotated[
        float | str, msgspec.Meta(description="How long connecting and logging in may take.")
    ] = 20
    answer_timeout: Annotated[float | str, msgspec.Meta(description="How long one answer of the server may take.")] = 60
    max_connections: Annotated[
        int,
        msgspec.Meta(
            description="How many connections all scans together may have: two for listings and questions, the others for files, any number of which share one.",
            ge=3,
        ),
    ] = 4
    keep_idle: Annotated[
        float | str,
        msgspec.Meta(description="How long an idle connection is kept for the next scan; 0 closes it at once."),
    ] = 60

    def __repr__(self) -> str:
        return f"{type(self).__name__}({without_password(self.url)!r})"

    def store(self) -> SSHStore:
        from retl.connectors.files.stores.ssh.store import SSHStore

        return SSHStore(self)
