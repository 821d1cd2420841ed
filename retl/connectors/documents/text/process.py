"""The process that parses documents: it reads a request and a file from a socket, and answers with the text.

Started by its file alone, without the rest of the library: see ``workers``. It has no environment, so no secrets; it
can neither write a file nor take more memory than a request allows, and ends itself when a request takes too long.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import socket
import struct
from pathlib import Path
from typing import Any, BinaryIO

from retl.connectors.documents.text.parsed import Parsed, Unreadable

_LENGTH = struct.Struct(">I")
_PARSERS = {
    "text": ("plain", "parse"),
    "html": ("html", "parse"),
    "pdf": ("pdf", "parse"),
    "docx": ("office", "parse_docx"),
    "pptx": ("office", "parse_pptx"),
    "epub": ("epub", "parse"),
    "sheets": ("sheets", "parse"),
}
_FAT = 192 * 1024 * 1024
"""A process that has grown to more resident bytes than this gives them back by its end."""
_GRACE = 5.0
"""How many seconds longer than its owner it waits before it ends itself."""


def main(fileno: int) -> None:
    """Serve requests until the owner closes the socket."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    own = socket.socket(fileno=fileno)
    while (request := _request(own)) is not None:
        answer, text = _answered(*request)
        answer["leaves"] = _memory(1) > _FAT
        body = json.dumps(answer).encode()
        own.sendall(_LENGTH.pack(len(body)) + body + _LENGTH.pack(len(text)) + text)
        if answer["leaves"]:
            return


def _request(own: socket.socket) -> tuple[dict[str, Any], int] | None:
    start, fds, _, _ = socket.recv_fds(own, _LENGTH.size, 1)
    if not start or not fds:
        return None
    return json.loads(_exactly(own, _LENGTH.unpack(start)[0])), fds[0]


def _exactly(own: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        piece = own.recv(size - len(found))
        if not piece:
            raise SystemExit(0)
        found += piece
    return bytes(found)


def _answered(request: dict[str, Any], fd: int) -> tuple[dict[str, Any], bytes]:
    _limit(request)
    try:
        with os.fdopen(fd, "rb") as file:
            parsed = _parsed(request, file)
            text = parsed.text.encode("utf-8", "replace")
        if len(text) > request["max_text_bytes"]:
            raise Unreadable(f"its text has {len(text):,} bytes, and max_text_bytes is {request['max_text_bytes']:,}")
        return {"title": parsed.title.encode("utf-8", "replace").decode()}, text
    except Unreadable as error:
        return {"error": str(error)}, b""
    except MemoryError:
        return {"error": _no_memory(request)}, b""
    except ModuleNotFoundError as error:
        return {"error": f"it needs the Python package {error.name!r}", "missing": True}, b""
    except Exception as error:
        reason = _no_memory(request) if isinstance(error.__cause__, MemoryError) else f"{type(error).__name__}: {error}"
        return {"error": reason[:500]}, b""
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _no_memory(request: dict[str, Any]) -> str:
    return f"it takes more memory than the {request['max_memory_bytes']:,} bytes of max_memory_bytes"


def _parsed(request: dict[str, Any], file: BinaryIO) -> Parsed:
    module, function = _PARSERS[request["kind"]]
    parser = importlib.import_module(f"retl.connectors.documents.text.{module}")
    file.seek(0)
    parsed: Parsed = getattr(parser, function)(file, request["name"], request["encoding"])
    return parsed


def _limit(request: dict[str, Any]) -> None:
    """Limit memory and time from here on; what is taken already does not count."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_memory(0) + request["max_memory_bytes"], hard))
    signal.setitimer(signal.ITIMER_REAL, request["max_seconds"] + _GRACE)


def _memory(column: int) -> int:
    """Bytes that this process takes: 0 for its addresses, 1 for what is resident."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[column]) * resource.getpagesize()
    except OSError:  # no Linux
        return 0
