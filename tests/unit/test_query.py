"""Named parameters of a query: where they are, what stands there then, and what is refused."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import retl
from retl.connectors import DuckDB, SQLite
from retl.connectors.duckdb.dialect import DIALECT as DUCKDB
from retl.connectors.mysql.catalog import DIALECT as MYSQL
from retl.connectors.postgres.dialect import DIALECT as POSTGRES
from retl.connectors.redshift.dialect import DIALECT as REDSHIFT
from retl.connectors.sql.dialect import Dialect
from retl.connectors.sql.query import query_text
from retl.engine.checkpoints import selection
from retl.engine.queries import with_query
from retl.model.errors import ConfigError
from retl.testing import table_spec

HOSTILE = "O'Neil \\'; DROP TABLE x; -- :x"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("DE", "'DE'"),
        (HOSTILE, "'O''Neil \\''; DROP TABLE x; -- :x'"),
        (7, "7"),
        (-7, "(-7)"),
        (0.5, "0.5"),
        (Decimal("1.50"), "1.50"),
        (True, "TRUE"),
        (date(2024, 1, 31), "'2024-01-31'"),
        (datetime(2024, 1, 31, 7, 30, tzinfo=UTC), "'2024-01-31 07:30:00+00:00'"),
        (time(7, 30), "'07:30:00'"),
        (["a", "b'"], "'a', 'b'''"),
    ],
)
def test_a_value_is_a_literal(value: Any, written: str) -> None:
    assert query_text("SELECT :x, :x", {"x": value}, POSTGRES) == f"SELECT {written}, {written}"


def test_a_value_is_a_literal_of_the_dialect() -> None:
    for dialect in (MYSQL, REDSHIFT):
        assert query_text("SELECT :x", {"x": HOSTILE}, dialect) == "SELECT 'O''Neil \\\\''; DROP TABLE x; -- :x'"


@pytest.mark.parametrize(
    ("dialect", "query"),
    [
        (POSTGRES, "SELECT ':a', \":a\", $$ :a $$, $t$ :a $$ :a $t$, E'\\':a' -- :a\n /* :a */, x::int, y[1:2]"),
        (POSTGRES, "SELECT '\\', 'it''s :a'"),
        (MYSQL, "SELECT ':a', 'it\\'s :a', \"\\\" :a\", `:a` # :a"),
        (DUCKDB, "SELECT a[lo:hi], x::INT"),
        (REDSHIFT, "SELECT '\\' :a'"),
    ],
)
def test_a_colon_elsewhere_is_no_parameter(dialect: Dialect, query: str) -> None:
    assert query_text(query, {}, dialect) == query


def test_a_parameter_may_stand_anywhere_else() -> None:
    query = "SELECT :a::int, f(:b) FROM t WHERE c=:a AND d IN (:list)\n-- the end :x\n;\n /* :y */ -- z"
    assert query_text(query, {"a": 1, "b": "x", "list": [1, 2]}, POSTGRES) == (
        "SELECT 1::int, f('x') FROM t WHERE c=1 AND d IN (1, 2)\n-- the end :x"
    )


def test_a_query_without_params_is_passed_on_as_it_is() -> None:
    assert query_text("SELECT {'a':x}, '{{' ;; ", None, DUCKDB) == "SELECT {'a':x}, '{{'"


@pytest.mark.parametrize(
    ("query", "params", "message"),
    [
        (
            "SELECT :a, :b",
            {},
            "the query has :a, :b, and params gives no value. What to do: write params = { a = ... }",
        ),
        ("SELECT :contry", {"country": 1}, ":contry, and params gives no value. What to do: did you mean 'country'"),
        ("SELECT ':a'", {"a": 1}, "params gives a value for :a, which the query does not have: it has no parameter."),
        ("SELECT :a", {"a": 1, "b": 2}, "a value for :b, which the query does not have: it has :a."),
        ("SELECT 1; DELETE FROM t", None, "more than one statement"),
        ("SELECT 1; /* ; */ ; SELECT 2", {}, "more than one statement"),
        ("SELECT * FROM {{ ref('orders') }}", {}, "holds {{, as templates of dbt do"),
    ],
)
def test_refused(query: str, params: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        query_text(query, params, POSTGRES)
    assert message in str(caught.value)


# Declarations -------------------------------------------------------------------


def test_a_file_gives_the_query(tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_bytes(b"\xef\xbb\xbfSELECT :x\r\nFROM t;\r\n")
    table = with_query(retl.Table("q", query_file=str(tmp_path / "q.sql")))
    assert (table.query, table.params, table.query_file) == ("SELECT :x\nFROM t;\n", {}, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"name": "q", "query_file": "none.sql"},
            "the query_file 'none.sql' cannot be read: No such file or directory",
        ),
        ({"name": "q", "query_file": "."}, "cannot be read: it is a folder"),
        ({"name": "q", "query_file": "/dev/zero"}, "cannot be read: it is no file"),
        ({"name": "q", "query_file": "latin.sql"}, "cannot be read: it is not UTF-8 text"),
        ({"name": "q", "query_file": "empty.sql"}, "the query_file 'empty.sql' is empty"),
        ({"name": "q", "query_file": "big.sql"}, "it has more than 1024 KiB"),
        ({"name": "q", "query_file": "none.sql", "query": "SELECT 1"}, "query and query_file exclude each other"),
        ({"match": "*", "query_file": "none.sql"}, "a query cannot be read for a match pattern"),
        ({"name": "q", "params": {"a": 1}}, "params are the parameters of a query, and there is none"),
        ({"name": "q", "query": "x", "params": {"a b": 1}}, "params has 'a b', which cannot be a parameter"),
        ({"name": "q", "query": "x", "params": {"a": []}}, "params gives a a value of type list, or an empty list"),
        ({"name": "q", "query": "x", "params": {"a": float("nan")}}, "params gives a a value of type float"),
        ({"name": "q", "query": "x", "params": {"a": {"b": 1}}}, "params gives a a value of type dict"),
        ({"name": "q", "query_file": 3}, "query_file is 3, of type int"),
    ],
)
def test_wrong_declarations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("latin.sql").write_bytes(b"SELECT '\xe4'")
    Path("empty.sql").write_text(" \n")
    Path("big.sql").write_text(" " * 1_048_577)
    with pytest.raises(ConfigError) as caught:
        retl.Pipeline(
            "p",
            source=DuckDB("w.duckdb"),
            target=SQLite("a.db"),
            tables=[retl.Table(**words)],
        )
    assert message in str(caught.value)


def test_the_selection_knows_the_values_too_and_remembers_older_ones_as_they_were() -> None:
    plain = table_spec("q", query="SELECT 1")
    assert selection(plain) == selection(table_spec("q", query="SELECT 1", params={})) == "ff97291276923256"
    assert len({selection(table_spec("q", query="SELECT :a", params={"a": value})) for value in (1, 2, "1")}) == 3
