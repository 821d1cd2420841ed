"""One room per system. A connector's driver is imported when the connector is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retl.connectors.duckdb import DuckDB
    from retl.connectors.function import FunctionTarget, IteratorSource
    from retl.connectors.sqlite import SQLite

_ROOMS = {
    "DuckDB": "duckdb",
    "FunctionTarget": "function",
    "IteratorSource": "function",
    "SQLite": "sqlite",
}

__all__ = ["DuckDB", "FunctionTarget", "IteratorSource", "SQLite"]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
