"""Secrets of vaults and files: asked where they may block, and again for each login."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import retl
from retl.connectors import MySQL, OSSFiles, PostgreSQL, Redshift, S3Files, SQLite, SSHFiles, StarRocks, Yuque
from retl.connectors.base import Connector
from retl.connectors.elasticsearch import Elasticsearch

NOBODY = {"host": "127.0.0.1", "port": 1, "user": "app", "database": "shop", "connect_timeout": 1}
DOORS: dict[str, Callable[[retl.Secret], Connector]] = {
    "mysql": lambda secret: MySQL(password=secret, **NOBODY),  # type: ignore[arg-type]
    "starrocks": lambda secret: StarRocks(password=secret, **NOBODY),  # type: ignore[arg-type]
    "postgres": lambda secret: PostgreSQL(password=secret, **NOBODY),  # type: ignore[arg-type]
    "redshift": lambda secret: Redshift(password=secret, **NOBODY),  # type: ignore[arg-type]
    "elasticsearch": lambda secret: Elasticsearch("http://127.0.0.1:1", user="app", password=secret, request_timeout=1),
    "yuque": lambda secret: Yuque("http://127.0.0.1:1", token=secret, request_timeout=1),
    "s3": lambda secret: S3Files("s3://bucket/", endpoint="http://127.0.0.1:1", access_key="me", secret_key=secret),
    "oss": lambda secret: OSSFiles(
        "oss://bucket/", region="cn-hangzhou", endpoint="http://127.0.0.1:1", access_key="me", secret_key=secret
    ),
    "ssh": lambda secret: SSHFiles("ssh://app@127.0.0.1:1/tmp", password=secret, host_key="insecure"),
}


@pytest.mark.parametrize("system", DOORS)
async def test_a_vault_is_asked_at_each_login_and_in_a_thread_of_its_own(system: str, tmp_path: Path) -> None:
    asked: list[threading.Thread] = []

    def vault() -> str:
        asked.append(threading.current_thread())
        return "a secret of the vault"

    door = DOORS[system](retl.Secret(vault, "the vault"))
    pipeline = retl.Pipeline("p", source=door, target=SQLite(str(tmp_path / "app.db")), tables=["t"])
    assert not asked
    findings = await pipeline.check()
    assert findings and "a secret of the vault" not in str(findings)
    once = len(asked)
    await pipeline.check()
    assert 0 < once < len(asked)
    assert threading.main_thread() not in asked
