"""PostgreSQL's protocol, version 3, as far as a layer between a client and a server needs it."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from scramp import ScramClient

SSL_REQUEST = 80_877_103
CANCEL_REQUEST = 80_877_102
PROTOCOL_3 = 196_608

_OK, _MD5, _SASL, _SASL_CONTINUE, _SASL_FINAL = 0, 5, 10, 11, 12


class Message(NamedTuple):
    """One message: its letter, and what follows the length."""

    kind: bytes
    body: bytes

    def packed(self) -> bytes:
        return self.kind + struct.pack("!i", len(self.body) + 4) + self.body


@dataclass(frozen=True)
class Refusal:
    """An error of the server."""

    message: str
    code: str = "42601"
    detail: str = ""

    def as_message(self) -> Message:
        fields = {"S": "ERROR", "C": self.code, "M": self.message, "D": self.detail}
        body = b"".join(f"{name}{value}\0".encode() for name, value in fields.items() if value)
        return Message(b"E", body + b"\0")


async def read(reader: asyncio.StreamReader) -> Message:
    kind, length = struct.unpack("!ci", await reader.readexactly(5))
    return Message(kind, await reader.readexactly(length - 4))


async def read_start(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The code of a start-up packet, and the rest of it."""
    length, code = struct.unpack("!ii", await reader.readexactly(8))
    return code, await reader.readexactly(length - 8)


def parameters(body: bytes) -> dict[str, str]:
    """The parameters of a start-up packet."""
    words = body.decode().split("\0")
    return {name: value for name, value in zip(words[::2], words[1::2], strict=False) if name}


def start_packet(words: Mapping[str, str]) -> bytes:
    body = b"".join(f"{name}\0{value}\0".encode() for name, value in words.items()) + b"\0"
    return struct.pack("!ii", len(body) + 8, PROTOCOL_3) + body


def status(name: str, value: str) -> Message:
    return Message(b"S", f"{name}\0{value}\0".encode())


def c_string(body: bytes, start: int = 0) -> tuple[str, int]:
    """A text that ends in a zero byte, and where the next field begins."""
    end = body.index(b"\0", start)
    return body[start:end].decode(), end + 1


def columns(body: bytes) -> list[tuple[str, int, int]]:
    """Name, type and type modifier of each column of a RowDescription."""
    found = []
    (count,), position = struct.unpack_from("!h", body), 2
    for _ in range(count):
        name, position = c_string(body, position)
        _, _, oid, _, modifier, _ = struct.unpack_from("!ihihih", body, position)
        found.append((name, oid, modifier))
        position += 18
    return found


def with_types(body: bytes, known: Mapping[int, int]) -> bytes:
    """A RowDescription with other numbers for some types."""
    changed = bytearray(body)
    position = 2
    for _ in range(struct.unpack_from("!h", body)[0]):
        position = body.index(b"\0", position) + 1
        (oid,) = struct.unpack_from("!i", body, position + 6)
        struct.pack_into("!i", changed, position + 6, known.get(oid, oid))
        position += 18
    return bytes(changed)


def values(body: bytes) -> list[bytes | None]:
    """The values of a DataRow."""
    found: list[bytes | None] = []
    (count,), position = struct.unpack_from("!h", body), 2
    for _ in range(count):
        (length,) = struct.unpack_from("!i", body, position)
        position += 4
        found.append(None if length < 0 else body[position : position + length])
        position += max(0, length)
    return found


async def admit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, user: str, password: str | None) -> bool:
    """Ask a client for its password, hashed by MD5 as clusters do it; whether it was right."""
    salt = secrets.token_bytes(4)
    writer.write(Message(b"R", struct.pack("!i", _MD5) + salt).packed())
    said = (await read(reader)).body.rstrip(b"\0")
    if password is None:
        return False
    inner = hashlib.md5(f"{password}{user}".encode()).hexdigest()
    return said == b"md5" + hashlib.md5(inner.encode() + salt).hexdigest().encode()


async def log_in(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    user: str,
    password: str,
    told: Callable[[Message], None],
) -> None:
    """Log in to PostgreSQL by SCRAM; ``told`` gets what it says until it is ready."""
    client = ScramClient(["SCRAM-SHA-256"], user, password)
    while (message := await read(reader)).kind != b"Z":
        if message.kind == b"E":
            raise RuntimeError(f"PostgreSQL refuses the stand-in: {message.body!r}")
        if message.kind != b"R":
            told(message)
            continue
        (code,), rest = struct.unpack_from("!i", message.body), message.body[4:]
        if code == _SASL:
            first = client.get_client_first().encode()
            answer = b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first
        elif code == _SASL_CONTINUE:
            client.set_server_first(rest.decode())
            answer = client.get_client_final().encode()
        elif code == _SASL_FINAL:
            client.set_server_final(rest.decode())
            continue
        else:
            assert code == _OK, code
            continue
        writer.write(Message(b"p", answer).packed())
