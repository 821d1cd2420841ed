"""COPY's text format: whatever a server writes is read back, however it is cut into blocks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, time

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retl.connectors.postgres.rows import BLOCK_BYTES, CopyDecoder
from retl.model.errors import SourceError

SCHEMA = pa.schema([("t", pa.string()), ("b", pa.binary()), ("ok", pa.bool_()), ("n", pa.int64())])
_ESCAPED = {"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f", "\v": "\\v"}

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8) | st.text("\\nNtx\n\t\r", max_size=8)
rows = st.lists(
    st.tuples(*(st.none() | kind for kind in (texts, st.binary(max_size=6), st.booleans(), st.integers(-9, 9)))),
    max_size=20,
)


def written(value: object) -> str:
    """A value as a server writes it: https://www.postgresql.org/docs/current/sql-copy.html."""
    if value is None:
        return "\\N"
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, bytes):
        return f"\\\\x{value.hex()}"
    return "".join(_ESCAPED.get(character, character) for character in str(value))


def decoded(schema: pa.Schema, blocks: Sequence[bytes]) -> list[tuple[object, ...]]:
    decoder = CopyDecoder(schema)
    found: list[tuple[object, ...]] = []
    for block in blocks:
        decoder.feed(block)
        if data := decoder.take():
            batch = decoder.decode(data)
            batch.validate(full=True)
            found.extend(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    assert decoder.held == 0
    return found


@given(rows, st.integers(1, 40))
def test_every_value_arrives_however_the_blocks_are_cut(given_rows: list[tuple[object, ...]], size: int) -> None:
    data = "".join("\t".join(map(written, row)) + "\n" for row in given_rows).encode()
    blocks = [data[start : start + size] for start in range(0, len(data), size)]
    expected = [(text, raw, ok, None if n is None else str(n)) for text, raw, ok, n in given_rows]
    assert decoded(SCHEMA, blocks) == expected


@given(st.lists(st.none() | texts, max_size=20))
def test_a_lone_column_keeps_empty_text_and_null_apart(values: list[str | None]) -> None:
    data = "".join(f"{written(value)}\n" for value in values).encode()
    assert decoded(pa.schema([("t", pa.string())]), [data] if data else []) == [(value,) for value in values]


@given(
    st.lists(
        st.none() | st.datetimes() | st.sampled_from(["infinity", "-infinity", "0044-03-15 00:00:00 BC"]), max_size=9
    )
)
def test_times_are_canonical_and_what_is_none_stays(values: list[datetime | str | None]) -> None:
    def server(value: datetime | str | None) -> str:
        if not isinstance(value, datetime):
            return value or "\\N"
        text = f"{value.year:04d}{value.strftime('-%m-%d %H:%M:%S')}"
        return f"{text}.{value.microsecond:06d}".rstrip("0") if value.microsecond else text

    def canonical(value: datetime | str | None) -> str | None:
        return f"{value.isoformat(' ', 'microseconds')}" if isinstance(value, datetime) else value

    data = "".join(f"{server(value)}\n" for value in values).encode()
    decoder = CopyDecoder(pa.schema([("at", pa.timestamp("us"))]))
    column = decoder.decode(data).column(0) if data else pa.array([], pa.string())
    assert column.cast(pa.string()).to_pylist() == [canonical(value) for value in values]


def test_times_with_a_zone_and_times_of_a_day_beside_odd_ones() -> None:
    schema = pa.schema([("at", pa.timestamp("us", "UTC")), ("clock", pa.time64("us"))])
    plain = decoded(schema, [b"2024-01-01 00:00:00+00\t12:30:00\n"])
    assert plain == [(datetime(2024, 1, 1, tzinfo=UTC), time(12, 30))]
    odd = decoded(schema, [b"2024-01-01 00:00:00.1+00\t24:00:00\ninfinity\t12:30:00.25\n\\N\t\\N\n"])
    assert odd == [
        ("2024-01-01 00:00:00.100000Z", "24:00:00"),
        ("infinity", "12:30:00.250000"),
        (None, None),
    ]


def test_a_row_larger_than_many_blocks_is_put_together_once() -> None:
    decoder = CopyDecoder(pa.schema([("t", pa.string())]))
    for _ in range(50):
        decoder.feed(b"x" * (BLOCK_BYTES // 10))
        assert not decoder.is_ready
    decoder.feed(b"y\nz")
    assert decoder.is_ready
    (value,) = decoder.decode(decoder.take()).column(0).to_pylist()
    assert len(value) == 50 * (BLOCK_BYTES // 10) + 1
    assert decoder.held == 1 and not decoder.is_ready


def test_another_number_of_columns_is_an_error_of_the_source() -> None:
    with pytest.raises(SourceError, match="sent 3 columns, but had promised 4"):
        decoded(SCHEMA, [b"a\t\\N\tt\n"])
