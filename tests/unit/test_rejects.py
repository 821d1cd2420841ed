"""What is kept of a row that a target refuses."""

from __future__ import annotations

import json

import msgspec
import pyarrow as pa
import pytest

from retl.connectors.rows.rejects import RejectCollector
from retl.model.checkpoint import Reject
from retl.model.plan import WriteSpec
from retl.testing import table_spec


@pytest.mark.parametrize("value", [7, "7", "-7", "0", str(2**64 - 1)])
def test_a_whole_number_is_told_as_one_whoever_sends_it(value: int | str) -> None:
    assert _kept(value) == int(value)


@pytest.mark.parametrize("value", ["1_000", " 5", "+7", "007", "-0", "９", "1.0", "x", "", None])
def test_what_is_no_number_is_told_as_it_came(value: str | None) -> None:
    assert _kept(value) == value


def _kept(value: object) -> object:
    schema = pa.schema([("id", pa.int64()), ("n", pa.int64())])
    refusals = RejectCollector(WriteSpec("p", table_spec("t", key="id"), schema, ("id",), "scan"))
    refusals.add({"id": value, "n": value}, "why")
    (reject,) = refusals.rows
    content = json.loads(reject.content)
    assert json.loads(reject.key) == {"id": content["id"]}
    assert content["n"] == content["id"]
    return content["n"]


def test_a_long_value_is_kept_with_its_beginning_and_long_keys_are_told_apart() -> None:
    schema = pa.schema([("id", pa.string()), ("n", pa.string()), ("b", pa.binary())])
    refusals = RejectCollector(WriteSpec("p", table_spec("t", key="id"), schema, ("id",), "scan"))
    for end in "xy":
        refusals.add(
            {"id": "k" * 20_000_000 + end, "n": "v" * 20_000_000, "b": b"\xff" * 20_000_000}, "why " * 1_000_000
        )
    first, second = refusals.rows
    assert json.loads(first.content)["n"] == "v" * 4_000 + "… (20,000,000 in all)"
    assert first.key != second.key and first.key[:1_000] == second.key[:1_000]
    assert max(map(len, (first.key, first.reason, first.content))) < 70_000
    assert msgspec.json.decode(msgspec.json.encode(first), type=Reject) == first


def test_a_reject_holds_nothing_that_steers_a_terminal_or_cannot_be_stored() -> None:
    reject = Reject(table="t", key="1", reason="bad \x1b[2J \ud83d", content="x" * 10_000_000, column="\x1b]0;")
    assert reject.reason == "bad \\x1b[2J \\ud83d" and reject.column == "\\x1b]0;"
    assert len(reject.content) < 70_000
    assert json.loads(reject.content).endswith("x… (10,000,000 characters)")
    assert msgspec.json.decode(msgspec.json.encode(reject), type=Reject) == reject
