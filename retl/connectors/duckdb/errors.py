"""Map the driver's errors; import the driver."""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import TYPE_CHECKING

from retl.model.errors import (
    ConfigError,
    ConnectionFailed,
    PermanentError,
    RetlError,
    SourceError,
    TargetBusy,
    TargetError,
)

if TYPE_CHECKING:
    import duckdb

    from retl.connectors.duckdb import DuckDB


def name_of(options: DuckDB) -> str:
    """The name of the database for people."""
    return options.path or "an in-memory database"


def driver() -> ModuleType:
    """The driver. Raises ``ConfigError`` if it is not installed."""
    try:
        import duckdb
    except ImportError:
        raise ConfigError("the driver for DuckDB is not installed.", remedy="run: pip install 'retl[duckdb]'") from None
    return duckdb


def map_error(error: duckdb.Error, options: DuckDB, *, read_only: bool) -> RetlError:
    """The retl error that a DuckDB error means."""
    duckdb = driver()
    name, text = name_of(options), first_line(error)
    if "Unique file handle conflict" in text:
        return TargetBusy(
            f"the DuckDB file {name} is just being closed in this process.",
            remedy="nothing: it is tried again.",
            system="duckdb",
        )
    if isinstance(error, duckdb.PermissionException) and "disabled by configuration" in text:
        return _may_not_read(text, options)
    if isinstance(error, duckdb.IOException):
        return _map_io_error(text, name)
    if "when sniffing file" in text:
        return SourceError(
            text,
            remedy="look for a line with more or fewer values than the others, or read the file by a query that says how: "
            "SELECT * FROM read_csv('...', delim = ',', all_varchar = true).",
            system="duckdb",
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return PermanentError(
            f"DuckDB ran out of the memory that it may use ({text}).", remedy="raise memory_limit.", system="duckdb"
        )
    if isinstance(error, duckdb.TransactionException):
        return TargetBusy(
            text, remedy="another connection changes the same rows; the scan is tried again.", system="duckdb"
        )
    if isinstance(error, duckdb.ConnectionException) and "different configuration" in text:
        return ConnectionFailed(
            f"this process has the DuckDB file {name} open with other settings.",
            remedy="open it there without read_only and config, or close it.",
            system="duckdb",
        )
    if isinstance(error, (duckdb.ConnectionException, duckdb.FatalException)):
        return ConnectionFailed(text, remedy="nothing: the file is opened again.", system="duckdb")
    return (SourceError if read_only else TargetError)(text, system="duckdb")


def _may_not_read(text: str, options: DuckDB) -> RetlError:
    if options.files is None:
        return ConfigError(
            f"the database {name_of(options)} may not read or write other files ({text}).",
            remedy="if these files are yours, name their folder in files.",
            system="duckdb",
        )
    return ConfigError(
        f"only files below {options.files} may be read ({text}).",
        remedy="write the file's full path, or name another folder in files.",
        system="duckdb",
    )


def _map_io_error(text: str, name: str) -> RetlError:
    if "Could not set lock" in text:
        return TargetBusy(
            f"the DuckDB file {name} is in use by another process.",
            remedy="close it there: DuckDB lets one process write, or several read, at a time.",
            system="duckdb",
        )
    if "No space left" in text or "disk" in text.lower():
        return TargetError(
            f"the disk is full ({text}).", remedy="make room; the next scan carries on.", system="duckdb"
        )
    for part in ("No files found", "does not exist", "No such file", "Permission denied", "Is a directory"):
        if part in text:
            return ConfigError(text, remedy="check the path and its permissions.", system="duckdb")
    if "not a valid DuckDB database" in text or "version number" in text:
        return ConfigError(text, remedy="check the path, or upgrade duckdb.", system="duckdb")
    return ConnectionFailed(text, remedy=f"check the file {name}.", system="duckdb")


def streamed(text: str) -> duckdb.Error:
    """The driver's error for a text: from a stream it comes as ``OSError`` or as an error of Arrow."""
    module = driver()
    kind = text.removeprefix("Invalid: ").split(" Error:", 1)[0].replace(" ", "")
    found = getattr(module, f"{_RENAMED.get(kind, kind)}Exception", module.Error)
    error: duckdb.Error = found(text)
    return error


_RENAMED = {"InvalidInput": "InvalidInput", "OutofMemory": "OutOfMemory", "INTERRUPT": "Interrupt"}


def first_line(error: BaseException) -> str:
    """A driver's message without the query and the advice in it; with the file of a bad line."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    if "CSV Error" not in lines[0]:
        return lines[0]
    said = itertools.takewhile(lambda line: line and not line.startswith("Possible"), lines)
    file = next((line for line in lines if line.startswith("file =")), "")
    return f"{'; '.join(said)}{'; ' if file else ''}{file}"
