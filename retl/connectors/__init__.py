"""One room per system. A connector's driver is imported when the connector is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retl.connectors.duckdb import DuckDB
    from retl.connectors.elasticsearch import Elasticsearch
    from retl.connectors.files.stores.local import LocalFiles
    from retl.connectors.files.stores.oss import OSSFiles
    from retl.connectors.files.stores.s3 import S3Files
    from retl.connectors.files.stores.ssh import SSHFiles
    from retl.connectors.function import FunctionTarget, IteratorSource
    from retl.connectors.mysql import MySQL
    from retl.connectors.olap.doris import Doris
    from retl.connectors.olap.starrocks import StarRocks
    from retl.connectors.postgres import PostgreSQL
    from retl.connectors.redshift import Redshift
    from retl.connectors.sqlite import SQLite
    from retl.connectors.yuque import Yuque

_ROOMS = {
    "Doris": "olap.doris",
    "DuckDB": "duckdb",
    "Elasticsearch": "elasticsearch",
    "FunctionTarget": "function",
    "IteratorSource": "function",
    "LocalFiles": "files.stores.local",
    "MySQL": "mysql",
    "OSSFiles": "files.stores.oss",
    "PostgreSQL": "postgres",
    "Redshift": "redshift",
    "S3Files": "files.stores.s3",
    "SQLite": "sqlite",
    "SSHFiles": "files.stores.ssh",
    "StarRocks": "olap.starrocks",
    "Yuque": "yuque",
}

_EXTRAS = {
    "Doris": "doris",
    "DuckDB": "duckdb",
    "Elasticsearch": "elasticsearch",
    "MySQL": "mysql",
    "OSSFiles": "oss",
    "PostgreSQL": "postgres",
    "Redshift": "redshift",
    "S3Files": "s3",
    "SSHFiles": "ssh",
    "StarRocks": "starrocks",
    "Yuque": "yuque",
}
"""What installs the driver of a connector; the others need none."""

__all__ = [
    "Doris",
    "DuckDB",
    "Elasticsearch",
    "FunctionTarget",
    "IteratorSource",
    "LocalFiles",
    "MySQL",
    "OSSFiles",
    "PostgreSQL",
    "Redshift",
    "S3Files",
    "SQLite",
    "SSHFiles",
    "StarRocks",
    "Yuque",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    except ModuleNotFoundError as error:
        if name not in _EXTRAS or (error.name or "").startswith("retl"):
            raise
        missing = (
            f"{name} needs the package {error.name!r}, which is not installed: pip install 'retl[{_EXTRAS[name]}]'"
        )
        raise ModuleNotFoundError(missing, name=error.name) from None
