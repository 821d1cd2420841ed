"""Ten orders in a warehouse, and a database for them; a file with other rows has fixtures of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from retl.cli import main
from tests.support import Command, Database, Warehouse


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


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in a folder of its own; what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> str:
        found = main(arguments)
        out, err = capsys.readouterr()
        assert found == code, f"{arguments}: {found}\n{out}\n{err}"
        return f"{out}{err}"

    return run
