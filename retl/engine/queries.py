"""Queries that stand in files of their own."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec

from retl.model.errors import ConfigError
from retl.model.table import Table

_MOST_BYTES = 1024 * 1024


def with_query(table: Table) -> Table:
    """The table with the text of its ``query_file`` as its ``query``. Raises ``ConfigError`` if that cannot be read.

    The file is read now: a change of it is taken up when the table is declared again.
    """
    if table.query_file is None:
        return table
    if table.query is not None:
        raise ConfigError(
            "query and query_file exclude each other.", remedy="keep one of them.", table=table.name or ""
        )
    text = _read(Path(table.query_file), table.name or "")
    return msgspec.structs.replace(table, query=text, query_file=None, params=table.params or {})


def _read(path: Path, table: str) -> str:
    try:
        text = _text(path)
    except (OSError, ValueError) as error:  # a ValueError: the text is not UTF-8, or the path is impossible
        reason = error.strerror or str(error) if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(
            f"the query_file {str(path)!r} cannot be read: {reason}.",
            remedy="check the path, which is relative to the job file (in Python: to the working directory).",
            table=table,
        ) from None
    if not text.strip():
        raise ConfigError(f"the query_file {str(path)!r} is empty.", remedy="write a SELECT into it.", table=table)
    return text


def _text(path: Path) -> str:
    """The text of a small file, without a byte order mark. A device such as /dev/zero never ends, so it is refused."""
    kind = path.stat().st_mode
    if stat.S_ISDIR(kind):
        raise OSError("it is a folder")
    if not stat.S_ISREG(kind):
        raise OSError("it is no file")
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise OSError(f"it has more than {_MOST_BYTES // 1024} KiB")
    return content.decode("utf-8-sig").replace("\r\n", "\n")
