"""Names of files: what stands for a byte that is no UTF-8, the order of a walk, and what a prefix asks for.

A name is text, since a manifest and a column keep it. A byte of a name that is not part of UTF-8 is written as ``\\xNN``,
and so is a backslash that such a sign would be read from (``\\x5c``): each name stands for one file, and back.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator
from typing import TypeVar

_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")
_BACKSLASH = re.compile(r"\\(?=x[0-9a-f]{2})")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_RUN = 4_000
"""How many entries are sorted at once: more would hold the interpreter for longer than an event loop may wait."""

EntryT = TypeVar("EntryT", bound=tuple[str, *tuple[object, ...]])


def to_name(raw: bytes) -> str:
    """The name that stands for these bytes."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = _BACKSLASH.sub(r"\\x5c", raw.decode(errors="surrogateescape"))
        return _NOT_UTF8.sub(lambda sign: f"\\x{ord(sign[0]) - 0xDC00:02x}", text)
    return _BACKSLASH.sub(r"\\x5c", text) if "\\" in text else text


def to_bytes(name: str) -> bytes:
    """The bytes that a name stands for."""
    if "\\" not in name:
        return name.encode(errors="surrogatepass")
    parts = _ESCAPE.split(name)
    texts = (part.encode(errors="surrogatepass") for part in parts[::2])
    signs = (bytes.fromhex(sign) for sign in parts[1::2])
    return b"".join(text + sign for text, sign in zip(texts, (*signs, b""), strict=True))


def is_name(name: str) -> bool:
    """Whether this may be the name of a file below a root: it has no empty part, and none that leads up or nowhere."""
    return "\0" not in name and all(part not in ("", ".", "..") for part in name.split("/"))


def may_hold(folder: str, prefix: str) -> bool:
    """Whether a folder (with its ``/``) may hold names that begin with ``prefix``."""
    return folder.startswith(prefix) or prefix.startswith(folder)


class Entries(Iterable[EntryT]):
    """The entries of one folder, ordered by their first member: the name, with a ``/`` behind that of a folder.

    So a walk gives full paths in the order of their code points. They are sorted in runs as they come, and merged as
    they are asked for: a folder of any size holds nobody up.
    """

    def __init__(self) -> None:
        self._runs: list[list[EntryT]] = [[]]

    def add(self, entry: EntryT) -> None:
        """Another entry, in any order."""
        self._runs[-1].append(entry)
        if len(self._runs[-1]) >= _RUN:
            self._runs[-1].sort(key=_name)
            self._runs.append([])

    def __iter__(self) -> Iterator[EntryT]:
        self._runs[-1].sort(key=_name)
        return heapq.merge(*self._runs, key=_name)


def _name(entry: EntryT) -> str:
    return entry[0]
