"""Packets of a MySQL text result become the same values, however they are cut up on the way."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retl.connectors.base import REJECT
from retl.connectors.mysql.rows import Kind, ProtocolError, RowDecoder, TooLarge
from retl.connectors.rows.rejects import without_broken_text
from tests import tiers

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
        for batch in map(without_broken_text, decoder.take()):
            batch.validate(full=True)
            if REJECT in batch.schema.names:
                batch = batch.filter(batch.column(REJECT).is_null()).drop_columns([REJECT])
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
        packets([b"\xfe" + (2**63 - 1).to_bytes(8, "little") + b"abc", END], 0),
        packets([length_encoded(b"abc"), b"\x09abc", length_encoded(b"abcdefg"), END], 0),
    ],
    ids=[
        "a packet is missing",
        "short value",
        "too many columns",
        "short length",
        "absurd length",
        "more after the end",
        "a length that overflows",
        "a value that lends from the next row",
    ],
)
def test_what_is_no_result_is_noticed(sent: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(sent, ["text"], [], 0)


def test_a_text_that_is_no_utf8_costs_its_row() -> None:
    values = [length_encoded(text) for text in (b"a", b"cut \xe6\xbc", b"\xc3\xbc")]
    rows, decoder = decode(packets([*values, END], 0), ["text"], [], 0)
    assert (rows, decoder.finished) == ([("a",), ("ü",)], True)
    with pytest.raises(ProtocolError, match="UTF-8"):
        decode(packets([*values, END], 0), ["utc"], [], 0)


def test_a_row_with_fewer_columns_is_noticed() -> None:
    with pytest.raises(ProtocolError, match="column"):
        decode(packets([length_encoded(b"1"), END], 0), ["text", "text"], [], 0)


@pytest.mark.parametrize("size", [2**63 - 1, 2**63 - 9, 2**63 - 12, 2**62, 2**32, 2**31 - 1])
@pytest.mark.parametrize("kind", ["text", "binary", "bool", "utc"])
def test_no_length_is_added_before_it_is_compared(kind: Kind, size: int) -> None:
    """The place behind such a value overflows to one within the row."""
    lying = b"\xfe" + size.to_bytes(8, "little")
    for payload in (lying, lying + b"abc", length_encoded(b"1") + lying, lying + length_encoded(b"1") * 300):
        with pytest.raises(ProtocolError):
            decode(packets([payload, END], 0), [kind] * 2, [], 0)


_extremes = st.sampled_from(
    [0, 1, 12, 13, 64, 250, 2**16, 2**24 - 1, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
)
_lies = st.one_of(
    _extremes.map(lambda size: b"\xfe" + size.to_bytes(8, "little")),
    _extremes.map(lambda size: b"\xfd" + (size & 0xFFFFFF).to_bytes(3, "little")),
    _extremes.map(lambda size: b"\xfc" + (size & 0xFFFF).to_bytes(2, "little")),
    st.sampled_from([b"\xfb", b"\xff", b"\xfe", b"\xfd\x00", b"\xfc", b"\xfe\x01\x00", b""]),
    st.builds(length_encoded, st.binary(max_size=80)),
    st.binary(max_size=12),
)


@settings(max_examples=tiers.number(300))
@given(st.data())
def test_whatever_is_sent_is_decoded_in_whole_or_refused(data: st.DataObject) -> None:
    """Lengths at every extreme, packets cut anywhere, bytes changed anywhere: valid columns or an error, and never a crash."""
    kinds: list[Kind] = data.draw(st.lists(st.sampled_from(("text", "binary", "bool", "utc")), min_size=1, max_size=4))
    payloads = data.draw(st.lists(st.lists(_lies, max_size=5).map(b"".join), max_size=8))
    sent = bytearray(packets([*payloads, END], 0))
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=3)):
        sent[at % len(sent)] = byte
    del sent[len(sent) - data.draw(st.integers(0, 6)) :]
    cuts = data.draw(st.lists(st.integers(0, 1 << 12), max_size=4))
    try:
        rows, _ = decode(bytes(sent), kinds, cuts, 0)
    except ProtocolError:
        return
    assert len(rows) <= len(sent) // 5
    assert sum(len(value) for row in rows for value in row if isinstance(value, (str, bytes))) <= 2 * len(sent)


def test_a_row_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retl.connectors.mysql.rows._MOST_BYTES", 40 << 20)
    decoder = RowDecoder(["c"], ["binary"], 0)
    piece = b"\xff\xff\xff%c" + bytes(LARGEST)
    with pytest.raises(TooLarge, match="larger than 40 MB"):
        for number in range(4):
            decoder.feed(piece % number)
            decoder.take()
