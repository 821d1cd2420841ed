"""Files as tables: their columns and types, so that no value changes on the way.

DuckDB guesses types from a sample, silently casts later values to them (3.7 becomes 4),
reads ``01220`` as a number and large numbers of JSON as floats. Here text stays text unless
*all* of it is exactly of a type, and files with incompatible types are refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from retl.connectors.duckdb.dialect import DIALECT, logical_field
from retl.connectors.duckdb.types import TYPES, exactly
from retl.model.errors import SourceError
from retl.model.schema import native_type

if TYPE_CHECKING:
    import duckdb

_FILE = re.compile(r".*\.(parquet|csv|tsv|json|jsonl|ndjson)(\.(gz|zst))?", re.IGNORECASE)

_READERS = {
    "parquet": "read_parquet({}, union_by_name = true, hive_types_autocast = false)",
    "csv": "read_csv({}, all_varchar = true, sample_size = -1, union_by_name = true, hive_types_autocast = false)",
    "json": (
        "read_json({}, maximum_depth = 1, sample_size = -1, map_inference_threshold = -1, field_appearance_threshold = 0, "
        "union_by_name = true, hive_types_autocast = false)"
    ),
}

# The pattern that all of a column's text must match to become a type without loss.
_WHOLE = r"0|-?[1-9]\d{0,18}"
_NUMBER = r"(0|-?[1-9]\d*|-?(0|[1-9]\d*)\.\d+)([eE][+-]?\d+)?"
_DIGITS_OF_DOUBLE = 15
_DAY = r"\d{4}-\d\d-\d\d"
_CLOCK = r"\d\d:\d\d(:\d\d(\.\d{1,6}0*)?)?"
_PATTERNS = {
    "BIGINT": _WHOLE,
    "DOUBLE": _NUMBER,
    "BOOLEAN": "true|false|True|False|TRUE|FALSE",
    "DATE": _DAY,
    "TIME": _CLOCK,
    "TIMESTAMP": rf"{_DAY}([ T]{_CLOCK})?",
    "TIMESTAMP WITH TIME ZONE": rf"{_DAY}[ T]{_CLOCK} ?(Z|[+-]\d\d(:?\d\d)?)",
}


def is_file(name: str) -> bool:
    """Whether a name is that of a file or a pattern of files: a quoted name is a table's."""
    return _FILE.fullmatch(name) is not None and not name.startswith('"')


def reading(connection: duckdb.DuckDBPyConnection, name: str, folder: str | None) -> str:
    """The FROM clause for the files of a name. Raises ``SourceError`` if their types are incompatible."""
    found = _FILE.fullmatch(name)
    assert found is not None
    kind = found[1].lower()
    path = name if folder is None or "://" in name else str(Path(folder) / name)
    form = {"parquet": "parquet", "csv": "csv", "tsv": "csv"}.get(kind, "json")
    reader = _READERS[form].format(DIALECT.string(path))
    if form == "parquet":
        _check_alike(connection, name, path, reader)
        return reader
    if form == "json":
        reader = f"(SELECT nullif(COLUMNS(*), 'null') FROM {reader}) AS j"  # JSON's null is NULL
    columns = _names(connection, reader)
    types = _types(connection, reader, columns, from_json=form == "json")
    chosen = ", ".join(
        f"{_value(column, native, from_json=form == 'json')} AS {DIALECT.identifier(column)}"
        for column, native in zip(columns, types, strict=True)
    )
    return f"(SELECT {chosen} FROM {reader}) AS f"


def _names(connection: duckdb.DuckDBPyConnection, reader: str) -> list[str]:
    import duckdb

    try:
        return list(_columns(connection, reader))
    except duckdb.InvalidInputException as error:
        if "sniffing" not in str(error):
            raise
        # With a sample of the file, DuckDB says which later line does not fit.
        connection.execute(
            f"SELECT max(COLUMNS(*)) FROM {reader.replace('sample_size = -1', 'sample_size = 100')}"
        ).fetchall()
        raise


def _value(column: str, native: str, *, from_json: bool) -> str:
    """The SQL of a column's value in its type; fails if a file has changed since its types were found."""
    name = DIALECT.identifier(column)
    if native == "JSON":
        return name
    text = f"({name} ->> '$')" if from_json else name
    return text if native == "VARCHAR" else exactly(native, text if from_json else f"trim({text})")


def _types(connection: duckdb.DuckDBPyConnection, reader: str, columns: Sequence[str], *, from_json: bool) -> list[str]:
    """The type of each column: the first one that all of its values match exactly."""
    tests = [test for column in columns for test in _tests(DIALECT.identifier(column), from_json=from_json)]
    answers = list(connection.execute(f"SELECT {', '.join(tests)} FROM {reader}").fetchall()[0])
    width = len(answers) // len(columns)
    return [_first_type(answers[start : start + width]) for start in range(0, len(answers), width)]


def _tests(name: str, *, from_json: bool) -> list[str]:
    """For one column: whether it has values, whether they are nested or mixed, and for each type whether all match it."""
    text = f"({name} ->> '$')" if from_json else f"trim({name})"
    kind = f"json_type({name})" if from_json else "'VARCHAR'"
    fits = [
        f"bool_and(regexp_full_match({text}, {DIALECT.string(pattern)}) AND TRY_CAST({text} AS {native}) IS NOT NULL"
        f"{_keeps_digits(text) if native == 'DOUBLE' else ''}{_said_so(kind, native) if from_json else ''}) FILTER (WHERE {name} IS NOT NULL)"
        for native, pattern in _PATTERNS.items()
    ]
    alike = f"bool_and({kind} = 'VARCHAR')"
    return [f"count({name})", alike, *fits]


def _keeps_digits(text: str) -> str:
    """Only so many digits are safe in a float."""
    digits = rf"ltrim(regexp_replace(regexp_replace({text}, '[eE].*', ''), '[-.]', '', 'g'), '0')"
    return f" AND length({digits}) <= {_DIGITS_OF_DOUBLE} AND isfinite(TRY_CAST({text} AS DOUBLE))"


def _said_so(kind: str, native: str) -> str:
    """In JSON, text that looks like a number is text."""
    kinds = {"BIGINT": ("BIGINT", "UBIGINT"), "DOUBLE": ("BIGINT", "UBIGINT", "DOUBLE"), "BOOLEAN": ("BOOLEAN",)}
    return f" AND {kind} IN ({', '.join(map(DIALECT.string, kinds.get(native, ('VARCHAR',))))})"


def _first_type(answers: Sequence[object]) -> str:
    values, is_text, *fits = answers
    if not values:
        return "VARCHAR"
    return next((native for native, fit in zip(_PATTERNS, fits, strict=True) if fit), "VARCHAR" if is_text else "JSON")


def _check_alike(connection: duckdb.DuckDBPyConnection, name: str, path: str, reader: str) -> None:
    """Check that Parquet files with different types have a common one that keeps all values."""
    common = _columns(connection, reader)
    shapes = connection.execute(
        "SELECT MIN(file_name) FROM (SELECT file_name, list((name, type, converted_type, logical_type::VARCHAR, precision, scale)) AS shape "
        f"FROM parquet_schema({DIALECT.string(path)}) GROUP BY file_name) AS f GROUP BY shape"
    ).fetchall()
    for (file,) in shapes if len(shapes) > 1 else ():
        for column, native in _columns(connection, _READERS["parquet"].format(DIALECT.string(file))).items():
            problem = _loss(column, native, common.get(column, native))
            if problem is not None:
                raise SourceError(
                    f"the files {name!r} do not go together: column {column!r} is {native} in {file}, "
                    f"and together with the others {common[column]}: {problem}.",
                    remedy="write the files with one type, give each kind a table of its own, or read them by a query that casts the column.",
                    system="duckdb",
                )


def _columns(connection: duckdb.DuckDBPyConnection, reader: str) -> dict[str, str]:
    return {row[0]: row[1] for row in connection.execute(f"DESCRIBE SELECT * FROM {reader}").fetchall()}


def _loss(column: str, native: str, common: str) -> str | None:
    if native == common:
        return None
    given, wanted = logical_field(column, native), logical_field(column, common)
    return TYPES.why_incompatible(given, wanted) if native_type(given) != native_type(wanted) else None
