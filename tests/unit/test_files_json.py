"""JSON files to Arrow: every digit of a number, and each broken document a reject with its line."""

from __future__ import annotations

import codecs
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from retl.connectors.files.formats import LINE, FileUnreadable
from retl.connectors.files.formats.documents import in_array
from tests.formats import good, read, reasons, types


def test_numbers_keep_all_their_digits() -> None:
    data = b'{"a":12345678901234567890,"b":1.10,"c":1e-7}\n{"a":1,"b":0.125,"c":2}\n'
    assert types(data, "a.jsonl") == {"a": "decimal128(38, 0)", "b": "decimal128(38, 18)", "c": "double"}
    assert read(data, "a.jsonl") == [
        {"a": Decimal(12345678901234567890), "b": Decimal("1.10"), "c": 1e-7},
        {"a": Decimal(1), "b": Decimal("0.125"), "c": 2.0},
    ]


def test_text_stays_text_and_times_are_times() -> None:
    data = b'{"zip":"007","no":"5","at":"2024-01-01T08:00:00+08:00","ok":true}\n{"zip":"1","no":"6","at":null}\n'
    assert types(data, "a.jsonl") == {"zip": "string", "no": "string", "at": "timestamp[us, tz=UTC]", "ok": "bool"}
    assert read(data, "a.jsonl") == [
        {"zip": "007", "no": "5", "at": datetime(2024, 1, 1, tzinfo=UTC), "ok": True},
        {"zip": "1", "no": "6", "at": None, "ok": None},
    ]


def test_nested_values_are_json_as_it_is_written() -> None:
    data = b'{"a":{"x":1.10,"y":[1, 2]},"b":[]}\n{"a":5,"b":null}\n'
    assert read(data, "a.jsonl") == [{"a": '{"x":1.10,"y":[1, 2]}', "b": "[]"}, {"a": "5", "b": None}]


def test_a_column_of_several_kinds_is_text() -> None:
    data = b'{"a":1,"b":true}\n{"a":"x","b":2}\n'
    assert read(data, "a.jsonl") == [{"a": "1", "b": "true"}, {"a": "x", "b": "2"}]


def test_escapes_are_undone_and_half_a_surrogate_is_a_reject() -> None:
    lines = [r'{"a":"x\n\"\u00e9\ud83d\ude00"}', r'{"a":"\ud800"}', '{"a":"中"}']
    rows = read("\n".join(lines).encode(), "a.jsonl")
    assert good(rows) == [{"a": 'x\n"é😀'}, {"a": "中"}]
    assert len(reasons(rows)) == 1 and reasons(rows)[0].startswith("line 2: ")


def test_a_broken_line_is_a_reject_with_its_line() -> None:
    rows = read(b'{"a":1}\n\n{"a":\n[1]\n{"a":2} x\n{"a":3}', "a.jsonl")
    assert good(rows) == [{"a": 1}, {"a": 3}]
    assert [reason.partition(":")[0] for reason in reasons(rows)] == ["line 3", "line 4", "line 5"]


@pytest.mark.parametrize("value", ['"x"', "1.5", "9223372036854775808", "true", "[1]", '"\\u0000"'])
def test_a_value_that_does_not_fit_rejects_its_document_alone(value: str) -> None:
    schema = pa.schema([("a", pa.int64()), ("b", pa.string()), (LINE, pa.int64())])
    rows = read(f'{{"a":1,"b":"x"}}\n{{"a":{value}}}\n{{"b":"y","a":3}}\n'.encode(), "a.jsonl", schema)
    assert good(rows) == [{"a": 1, "b": "x", LINE: 1}, {"a": 3, "b": "y", LINE: 3}]
    assert len(reasons(rows)) == 1


def test_a_double_that_json_writes_with_more_digits_than_it_has_is_a_reject() -> None:
    schema = pa.schema([("a", pa.float64())])
    rows = read(b'{"a":0.1}\n{"a":0.12345678901234567891}\n{"a":1e400}\n', "a.jsonl", schema)
    assert good(rows) == [{"a": 0.1}]
    assert [reason.partition(":")[0] for reason in reasons(rows)] == ["line 2", "line 3"]


def test_the_last_of_two_values_of_one_name_counts() -> None:
    assert read(b'{"a":1,"a":2}', "a.jsonl") == [{"a": 2}]


LAYOUTS = {
    "in one line": '[{"a":1,"s":"x"},{"a":2,"s":"]}"}]',
    "in many": '\n [\n  {\n "a": 1,\r\n "s": "x" },\n\n {"a":2,\n"s":"]}"}\n ]\n ',
    "without an array": '{"a":1,"s":"x"}{"a":2,"s":"]}"}',
    "as lines": '{"a":1,"s":"x"}\n{"a":2,"s":"]}"}\n',
    "with a byte order mark": '\ufeff[{"a":1,"s":"x"},{"a":2,"s":"]}"}]',
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_are_read_however_they_are_laid_out(layout: str) -> None:
    assert read(LAYOUTS[layout].encode(), "a.json") == [{"a": 1, "s": "x"}, {"a": 2, "s": "]}"}]


def test_an_array_in_utf_16_is_read() -> None:
    assert read(codecs.BOM_UTF16_BE + '[{"a":"é"}]'.encode("utf-16-be"), "a.json") == [{"a": "é"}]


@pytest.mark.parametrize("data", [b"", b"[]", b" [ ] ", b"\n"])
def test_a_file_without_documents_has_no_rows(data: bytes) -> None:
    assert read(data, "a.json") == []


@pytest.mark.parametrize(
    "data", [b'[{"a":1}', b'[{"a":1},{"a":"x', b'[{"a":1}] x', b'[{"a":1}]]', b'{"a":1}{', b'[{"a":"\\', b"["]
)
def test_an_array_that_does_not_end_as_it_should_is_unreadable(data: bytes) -> None:
    with pytest.raises(FileUnreadable, match=r"^a.json, line 1: "):
        read(data, "a.json", pa.schema([("a", pa.int64())]))


@pytest.mark.parametrize("data", [b"[1,2]", b'[{"a":1},\n5]', b'[{"a":1},\n"x",{"a":2}]'])
def test_an_array_of_something_else_than_documents_is_unreadable(data: bytes) -> None:
    with pytest.raises(FileUnreadable, match=r"its array holds a value that is no object"):
        read(data, "a.json", pa.schema([("a", pa.int64())]))


def test_a_broken_document_of_an_array_is_a_reject_with_its_line() -> None:
    rows = read(b'[{"a":1},\n{"a":tru},\n[5],\n{"a":2}]', "a.json")
    assert good(rows) == [{"a": 1}, {"a": 2}]
    assert [reason.partition(":")[0] for reason in reasons(rows)] == ["line 2", "line 3"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_documents_are_found_wherever_a_block_ends(size: int) -> None:
    documents: list[Any] = [
        {"a": 'q"q', "b": [1, {"c": "]}"}]},
        {"a": "back\\slash\\", "b": []},
        {"a": '\\"', "n": {"m": {}}},
        {},
    ]
    text = json.dumps(documents, indent=1).encode()
    blocks = (text[at : at + size] for at in range(0, len(text), size))
    found = [json.loads(document) for block in in_array(blocks, "a.json", 1000) for document in block.texts]
    assert found == documents


def test_a_document_that_is_too_long_makes_a_file_unreadable() -> None:
    with pytest.raises(FileUnreadable, match=r"longer than 1,024 bytes"):
        read(b'{"a":"' + b"x" * 3_000_000, "a.jsonl", max_row_bytes=1024)
    with pytest.raises(FileUnreadable, match=r"longer than 1,024 bytes"):
        read(b'[{"a":"' + b"x" * 3_000_000, "a.json", max_row_bytes=1024)
