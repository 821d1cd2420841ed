"""Ten orders in a warehouse, and a database for them; a file with other rows has fixtures of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import Database, Warehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.run(
        "CREATE TABLE orders (id BIGINT PRIMARY KEY, city VARCHAR, updated_at TIMESTAMP)",
        "INSERT INTO orders SELECT i, 'city ' || i, TIMESTAMP '2024-01-01' + INTERVAL (i) SECOND FROM range(10) t(i)",
    )
    return warehouse


@pytest.fixture
def app(tmp_path: Path) -> Database:
    return Database(tmp_path / "app.db")
