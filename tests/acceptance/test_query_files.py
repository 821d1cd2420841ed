"""A folder of SQL as the source of models: parameters, changes, mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import Command, Database, Warehouse

JOBS = """\
[pipelines.models]
source = { type = "duckdb", path = "warehouse.duckdb" }
target = { type = "sqlite", path = "app.db" }

[[pipelines.models.tables]]
name = "named"
query_file = "models/named.sql"
params = { city = "${CITY}", ids = [3, 4, 5] }
key = "id"
cursor = "updated_at"
"""
NAMED = "-- :nothing\nSELECT id, city, updated_at FROM orders\nWHERE city = :city OR id IN (:ids);\n"


@pytest.fixture
def models(warehouse: Warehouse, command: Command, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the model's SQL; the job file is beside its folder."""
    monkeypatch.setenv("CITY", "city '1'; --")
    warehouse.run("UPDATE orders SET city = 'city ''1''; --' WHERE id = 1")
    Path("models").mkdir()
    Path("jobs.toml").write_text(JOBS)
    model = Path("models", "named.sql")
    model.write_text(NAMED)
    return model


def test_a_query_from_a_file_with_parameters(models: Path, app: Database, command: Command) -> None:
    assert "named: 4 rows" in command("run", "--once")
    assert app.rows("named", "id, city") == [(1, "city '1'; --"), (3, "city 3"), (4, "city 4"), (5, "city 5")]


@pytest.mark.parametrize("change", ["text", "value"])
def test_another_text_or_value_is_another_selection(models: Path, app: Database, command: Command, change: str) -> None:
    command("run", "--once")
    if change == "text":
        models.write_text(NAMED.replace("id IN", "id + 1 IN"))
    else:
        Path("jobs.toml").write_text(JOBS.replace("[3, 4, 5]", "[2, 5, 9]"))
    out = command("run", "--once")
    assert (
        "the query, columns, filter or expressions have changed since the last scan; rows below the watermark are not read"
        in out
    )
    command("reset", "--yes")
    command("run", "--once")
    expected = {"text": [1, 2, 3, 4, 5], "value": [1, 2, 3, 4, 5, 9]}[change]
    assert [row[0] for row in app.rows("named", "id")] == expected


def test_what_is_wrong_is_told_by_name(models: Path, command: Command) -> None:
    Path("jobs.toml").write_text(JOBS.replace("city =", "citty ="))
    found = command("check", code=1)
    assert "the query has :city, and params gives no value. What to do: did you mean 'citty'?" in found
    Path("jobs.toml").write_text(JOBS.replace("named.sql", "names.sql"))
    found = command("check", code=2)
    assert "jobs.toml:7: pipelines.models.tables[0].query_file: the query_file" in found
    assert "cannot be read: No such file or directory" in found
