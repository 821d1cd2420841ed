"""Files are read as they are: nothing is fitted to what a sample looked like."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from retl.connectors import DuckDB
from retl.model.errors import SourceError
from retl.model.schema import native_type
from retl.testing import Scans, collect, read_slice, table_spec


async def read(folder: Path, name: str, **words: Any) -> pa.Table:
    return await collect(DuckDB(files=str(folder)), table_spec(name, **words))


async def types(folder: Path, name: str) -> dict[str, str]:
    source = Scans(DuckDB(files=str(folder)).source())
    found = await source.describe(name)
    await source.aclose()
    assert found is not None
    return {column.name: native_type(column) for column in found.columns}


def csv(folder: Path, name: str, head: str, lines: Iterable[str]) -> None:
    (folder / name).write_text("\n".join([head, *lines]) + "\n")


async def test_what_comes_after_a_sample_counts_as_much(tmp_path: Path) -> None:
    early = ["1,3,2024-01-01"] * 30_000
    csv(tmp_path, "late.csv", "id,n,day", [*early, "2,3.7,2024-01-01 10:30:00"])
    assert (await read(tmp_path, "late.csv")).to_pylist()[-1]["n"] == 3.7
    assert await types(tmp_path, "late.csv") == {"id": "BIGINT", "n": "DOUBLE", "day": "TIMESTAMP"}
    csv(tmp_path, "text.csv", "id,n", ["1,3"] * 30_000 + ["2,n/a"])
    assert (await read(tmp_path, "text.csv"))["n"].to_pylist()[-1] == "n/a"


@pytest.mark.parametrize(
    ("values", "native"),
    [
        (["1", "-2", "9223372036854775807", "0"], "BIGINT"),
        (["", "5", ""], "BIGINT"),
        (["01220", "1220"], "VARCHAR"),
        (["+1", "2"], "VARCHAR"),
        (["-0", "2"], "VARCHAR"),
        (["9223372036854775808"], "VARCHAR"),
        ([" 1", "2 "], "BIGINT"),
        (["1.5", "2", "1e3"], "DOUBLE"),
        (["0.1234567890123456789"], "VARCHAR"),
        (["9007199254740993", "1.5"], "VARCHAR"),
        (["1e999"], "DOUBLE"),
        (["1.5", "007"], "VARCHAR"),
        (["true", "false"], "BOOLEAN"),
        (["2024-02-29", "1999-12-31"], "DATE"),
        (["2024-02-30"], "VARCHAR"),
        (["01/02/2024", "03/04/2024"], "VARCHAR"),
        (["2024-05-01 10:00:00", "2024-05-01T10:00:00.123456"], "TIMESTAMP"),
        (["2024-05-01 10:00:00.123456789"], "VARCHAR"),
        (["2024-05-01T10:00:00Z", "2024-05-01T10:00:00+02:00"], "TIMESTAMP WITH TIME ZONE"),
        (["2024-05-01T10:00:00Z", "2024-05-01T10:00:00"], "VARCHAR"),
        (["10:00", "23:59:59.5"], "TIME"),
        (["", ""], "VARCHAR"),
    ],
)
async def test_a_column_of_text_gets_a_type_only_if_all_of_it_says_the_same(
    tmp_path: Path, values: list[str], native: str
) -> None:
    csv(tmp_path, "t.csv", "id,x", [f"{number},{value}" for number, value in enumerate(values)])
    if values == ["1e999"]:
        native = "VARCHAR"  # a float has no such number
    assert (await types(tmp_path, "t.csv"))["x"] == native
    found = [row["x"] for row in (await read(tmp_path, "t.csv")).to_pylist()]
    if native == "VARCHAR":
        assert found == [value or None for value in values]
    with duckdb.connect() as connection:
        casts = ", ".join(f"CAST('{value}' AS {native})" for value in values if value)
        if native in ("BIGINT", "DOUBLE", "BOOLEAN", "DATE"):
            assert [value for value in found if value is not None] == list(
                connection.execute(f"SELECT {casts}").fetchall()[0]
            )


async def test_files_of_one_pattern_may_have_columns_of_their_own(tmp_path: Path) -> None:
    csv(tmp_path, "a1.csv", "id,n", ["1,1"])
    csv(tmp_path, "a2.csv", "n;id;more", ["2.5;2;x"])
    found = (await read(tmp_path, "a*.csv")).sort_by("id").to_pylist()
    assert found == [{"id": 1, "n": 1.0, "more": None}, {"id": 2, "n": 2.5, "more": "x"}]


async def test_parquet_files_are_read_together_only_without_loss(tmp_path: Path) -> None:
    with duckdb.connect() as connection:
        for number, row in enumerate(["1::INT AS id, 3::INT AS n, DATE '2024-01-01' AS d", "2 AS id, 2.7::DOUBLE AS n, TIMESTAMP '2024-01-01 10:00:00' AS d, 'x' AS more"]):  # fmt: skip
            connection.execute(f"COPY (SELECT {row}) TO '{tmp_path}/p{number}.parquet'")
        found = (await read(tmp_path, "p*.parquet")).sort_by("id").to_pylist()
        assert [(row["n"], row["more"]) for row in found] == [(3.0, None), (2.7, "x")]
        assert str(found[1]["d"]) == "2024-01-01 10:00:00"
        connection.execute(f"COPY (SELECT 3 AS id, 9007199254740993 AS n) TO '{tmp_path}/p2.parquet'")
    with pytest.raises(SourceError, match=r"'p\*\.parquet' do not go together: column 'n' is BIGINT in .*p2\.parquet"):
        await read(tmp_path, "p*.parquet")


async def test_json_keeps_its_numbers_and_its_keys(tmp_path: Path) -> None:
    wide = {f"k{number}": 9007199254740993 + number for number in range(250)}
    rows = [
        {"id": 1, "big": 9007199254740993, "mixed": 9007199254740993, "f": 1.5, "at": "2024-05-01T10:00:00", "zip": "01220", "ok": True, "map": wide},
        {"id": 2, "big": -1, "mixed": 1.5, "f": 2, "at": "2024-05-01", "zip": "7", "ok": None, "map": {"k0": 1.5}, "late": [1, "a"]},
    ]  # fmt: skip
    (tmp_path / "r.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "w.ndjson").write_text(json.dumps(wide) + "\n")
    assert await types(tmp_path, "r.json") == {
        "id": "BIGINT", "big": "BIGINT", "mixed": "JSON", "f": "DOUBLE", "at": "TIMESTAMP", "zip": "VARCHAR", "ok": "BOOLEAN", "map": "JSON", "late": "JSON",
    }  # fmt: skip
    found = (await read(tmp_path, "r.json")).sort_by("id").to_pylist()
    assert [row["mixed"] for row in found] == ["9007199254740993", "1.5"]
    assert [row["zip"] for row in found] == ["01220", "7"]
    assert json.loads(found[0]["map"]) == wide
    assert found[1]["late"] == '[1,"a"]'
    assert (await read(tmp_path, "w.ndjson")).to_pylist() == [wide]


async def test_a_file_that_changes_under_way_is_not_fitted(tmp_path: Path) -> None:
    csv(tmp_path, "t.csv", "id,n", ["1,1"])
    async with Scans(DuckDB(files=str(tmp_path)).source()) as source:
        plan = await source.plan(table_spec("t.csv", key="id"))
        csv(tmp_path, "t.csv", "id,n", ["1,1.7"])
        with pytest.raises(SourceError, match="not exactly a value of the type"):
            await read_slice(source.scan(plan), plan.slices[0])


async def test_a_broken_line_is_named_with_its_file(tmp_path: Path) -> None:
    csv(tmp_path, "t.csv", "a,b", [*["1,2"] * 3000, "1,2,3,4"])
    with pytest.raises(SourceError, match=r"Line: 3002.*t\.csv") as caught:
        await read(tmp_path, "t.csv")
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)
