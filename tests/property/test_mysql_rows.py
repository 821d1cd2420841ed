"""Packets of a MySQL text result become the same values, however they are cut up on the way."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retl.connectors.mysql.rows import Kind, ProtocolError, RowDecoder

LARGEST = 0xFFFFFF
END = b"\xfe\x00\x00\x02\x00"
Value = bytes | None


def length_encoded(value: Value) -> bytes:
    if value is None:
        return b"\xfb"
    size = len(value)
    if size < 0xFB:
        return bytes([size]) + value
    if size < 1 << 16:
        return b"\xfc" + size.to_bytes(2, "little") + value
    if size < 1 << 24:
        return b"\xfd" + size.to_bytes(3, "little") + value
    return b"\xfe" + size.to_bytes(8, "little") + value


def packets(payloads: list[bytes], sequence: int) -> bytes:
    """As a server sends them: numbered, and a payload of 16 MB or more in several."""
    sent = bytearray()
    for payload in payloads:
        pieces = [payload[at : at + LARGEST] for at in range(0, len(payload) + 1, LARGEST)]
        for piece in pieces:
            sent += len(piece).to_bytes(3, "little") + bytes([sequence & 0xFF]) + piece
            sequence += 1
    return bytes(sent)


def decode(
    sent: bytes, kinds: list[Kind], cuts: list[int], sequence: int = 7
) -> tuple[list[tuple[object, ...]], RowDecoder]:
    decoder = RowDecoder([f"c{number}" for number in range(len(kinds))], kinds, sequence)
    rows: list[tuple[object, ...]] = []
    edges = sorted({0, len(sent), *(cut % (len(sent) + 1) for cut in cuts)})
    for start, stop in pairwise(edges):
        decoder.feed(sent[start:stop])
        for batch in decoder.take():
            batch.validate(full=True)
            rows.extend(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    return rows, decoder


texts = st.one_of(
    st.none(),
    st.text(max_size=20),
    st.text(st.characters(codec="utf-8"), min_size=5, max_size=13),
    st.builds(lambda char, times: char * times, st.sampled_from("aé漢🗼"), st.integers(240, 260)),
    st.builds(lambda times: "x" * times, st.integers(65_530, 65_540)),
    st.sampled_from(["", "NULL", "0", "2024-01-01"]),
)


@given(st.data())
def test_every_value_arrives_as_it_was_sent(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 5))
    kinds: list[Kind] = data.draw(st.lists(st.sampled_from(("text", "binary")), min_size=width, max_size=width))
    rows = data.draw(st.lists(st.tuples(*[texts] * width), max_size=12))
    sequence = data.draw(st.integers(0, 255))
    payloads = [b"".join(length_encoded(None if v is None else v.encode()) for v in row) for row in rows]
    cuts = data.draw(st.lists(st.integers(0, 1 << 20), max_size=6))
    got, decoder = decode(packets([*payloads, END], sequence), kinds, cuts, sequence)
    want = [
        tuple(v.encode() if v is not None and kind == "binary" else v for v, kind in zip(row, kinds, strict=True))
        for row in rows
    ]
    assert got == want
    assert decoder.finished
    assert decoder.error is None


@given(st.lists(st.binary(max_size=300) | st.none(), min_size=1, max_size=30))
def test_bytes_are_not_touched(values: list[Value]) -> None:
    got, _ = decode(packets([*(length_encoded(value) for value in values), END], 3), ["binary"], [100], 3)
    assert [value for (value,) in got] == values


def test_truth_values_and_times_in_utc() -> None:
    rows: list[list[Value]] = [[b"0", b"2024-01-01 00:00:00.000001"], [b"1", None], [None, b"2024-01-01 00:00:00"]]
    sent = packets([*(b"".join(map(length_encoded, row)) for row in rows), END], 0)
    got, _ = decode(sent, ["bool", "utc"], [], 0)
    assert got == [(False, "2024-01-01 00:00:00.000001Z"), (True, None), (None, "2024-01-01 00:00:00Z")]


@pytest.mark.parametrize("size", [LARGEST - 5, LARGEST - 4, LARGEST, LARGEST + 10, 2 * LARGEST + 3])
def test_a_row_of_sixteen_megabytes_and_more(size: int) -> None:
    big = b"x" * size
    rows: list[list[Value]] = [[b"1", b"before"], [b"2", big], [b"3", b"after"]]
    sent = packets([*(b"".join(map(length_encoded, row)) for row in rows), END], 250)
    got, decoder = decode(sent, ["text", "binary"], [1 << 20, 9 << 20, LARGEST + 2], 250)
    assert got == [("1", b"before"), ("2", big), ("3", b"after")]
    assert decoder.finished


def test_an_error_in_the_middle_comes_after_the_rows_before_it() -> None:
    error = b"\xff\x25\x05#70100Query execution was interrupted"
    got, decoder = decode(packets([length_encoded(b"1"), length_encoded(b"2"), error], 0), ["text"], [], 0)
    assert got == [("1",), ("2",)]
    assert decoder.finished
    assert decoder.error == error


@pytest.mark.parametrize(
    "sent",
    [
        packets([length_encoded(b"1")], 0) + packets([length_encoded(b"2")], 2),
        packets([b"\x05ab", END], 0),
        packets([length_encoded(b"1") * 2, END], 0),
        packets([b"\xfc", END], 0),
        packets([b"\xfe" + b"\xff" * 8 + b"abc", END], 0),
        packets([END, length_encoded(b"1")], 0),
    ],
    ids=[
        "a packet is missing",
        "short value",
        "too many columns",
        "short length",
        "absurd length",
        "more after the end",
    ],
)
def test_what_is_no_result_is_noticed(sent: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(sent, ["text"], [], 0)


def test_a_row_with_fewer_columns_is_noticed() -> None:
    with pytest.raises(ProtocolError, match="column"):
        decode(packets([length_encoded(b"1"), END], 0), ["text", "text"], [], 0)
