"""What is kept of a row that a target refuses."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from retl.connectors.sql.rejects import Refusals
from retl.model.plan import Load
from retl.testing import table_spec


@pytest.mark.parametrize("value", [7, "7", "-7", "0", str(2**64 - 1)])
def test_a_whole_number_is_told_as_one_whoever_sends_it(value: int | str) -> None:
    assert _kept(value) == int(value)


@pytest.mark.parametrize("value", ["1_000", " 5", "+7", "007", "-0", "９", "1.0", "x", "", None])
def test_what_is_no_number_is_told_as_it_came(value: str | None) -> None:
    assert _kept(value) == value


def _kept(value: object) -> object:
    schema = pa.schema([("id", pa.int64()), ("n", pa.int64())])
    refusals = Refusals(Load("p", table_spec("t", key="id"), schema, ("id",), "scan"))
    refusals.add({"id": value, "n": value}, "why")
    (reject,) = refusals.rows
    content = json.loads(reject.content)
    assert json.loads(reject.key) == {"id": content["id"]}
    assert content["n"] == content["id"]
    return content["n"]
