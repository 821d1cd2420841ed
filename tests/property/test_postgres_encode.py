"""What is tested at all bytes of a column at once misses nothing that a search in each value finds."""

from __future__ import annotations

import re

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from retl.connectors.postgres.encode import invalid_values
from retl.connectors.postgres.types import logical_field

TEXTS = st.lists(st.none() | st.text(st.sampled_from("0159. :-Z\x00é"), max_size=30), max_size=20)
TIMES = st.lists(
    st.none()
    | st.builds(
        "{}{}{}".format,
        st.sampled_from(["2024-01-01 12:00:00", "1-1-1 1:00:00", "12:00:00", "1", ""]),
        st.from_regex(r"(\.[0-9]{0,9})?", fullmatch=True),
        st.sampled_from(["", "Z", "+08", " BC"]),
    ),
    max_size=20,
)


def _found(values: list[str | None], native: str, start: int, kind: pa.DataType) -> list[tuple[str, list[int]]]:
    """The reasons, and the rows of each: of a part of an array, whose buffers hold more."""
    column = pa.array(["\x00.1234567", *values], kind).slice(1 + start)
    found = invalid_values(column, logical_field("v", native))
    return [(reason, [row for row, bad in enumerate(mask.to_pylist()) if bad]) for mask, reason in found]


@given(TEXTS, st.integers(0, 3), st.sampled_from([pa.string(), pa.large_string()]))
def test_every_nul_is_found_and_nothing_else(values: list[str | None], start: int, kind: pa.DataType) -> None:
    rows = [row for row, value in enumerate(values[start:]) if value is not None and "\x00" in value]
    assert _found(values, "text", start, kind) == ([("PostgreSQL's text has no NUL character", rows)] if rows else [])


@given(TIMES, st.integers(0, 3), st.sampled_from([0, 3, 6]), st.sampled_from([pa.string(), pa.large_string()]))
def test_every_time_with_more_digits_than_the_column_keeps_is_found(
    values: list[str | None], start: int, digits: int, kind: pa.DataType
) -> None:
    finer = re.compile(rf"\.\d{{{digits}}}\d*[1-9]")
    rows = [row for row, value in enumerate(values[start:]) if value is not None and finer.search(value)]
    found = _found(values, f"timestamp({digits}) without time zone", start, kind)
    assert found == ([(f"the column keeps only {digits} digits of a second", rows)] if rows else [])


@given(TEXTS, st.integers(0, 3), st.integers(1, 5))
def test_every_text_that_would_lose_a_space_is_found(values: list[str | None], start: int, longest: int) -> None:
    clean = [value and value.replace("\x00", "") for value in values]
    rows = [row for row, value in enumerate(clean[start:]) if value and value.endswith(" ") and len(value) > longest]
    found = _found(clean, f"character varying({longest})", start, pa.string())
    assert found == ([(f"value too long for type character varying({longest})", rows)] if rows else [])
