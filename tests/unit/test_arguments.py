"""What is given to ``Pipeline`` and ``Table`` is checked like the words of a job file: at once, with a sentence."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import retl
from retl.connectors import DuckDB, SQLite


def build(*tables: Any, name: Any = "p", **words: Any) -> retl.Pipeline:
    target = SQLite("nowhere.db")
    return retl.Pipeline(name, source=DuckDB(), target=target, tables=tables or ["t"], **words)


WRONG = [
    ({"lease_ttl": "soon"}, "lease_ttl is 'soon', which is not a length of time"),
    ({"lease_ttl": [30]}, "lease_ttl is [30], which is not a length of time"),
    ({"lease_ttl": None}, "lease_ttl is None, which is not a length of time"),
    ({"lease_ttl": 0}, "lease_ttl is 0, but it must be from 100ms to 1d"),
    ({"lease_ttl": float("nan")}, "not a usable length of time"),
    ({"lease_ttl": "2d"}, "from 100ms to 1d"),
    ({"keep_rejects": "for ever"}, "keep_rejects is 'for ever', which is not a length of time"),
    ({"channel_bytes": "8MiB"}, "channel_bytes is '8MiB', of type str"),
    ({"channel_bytes": 0}, "channel_bytes is 0"),
    ({"channel_bytes": True}, "channel_bytes is True"),
    ({"name": 5}, "the name of a pipeline is 5, of type int"),
    ({"name": "p" * 256}, "the name of a pipeline has 256 characters"),
    ({"blacklist": "DROP"}, "blacklist is the text 'DROP'"),
    ({"interval": [5]}, "interval is [5], which is not a length of time"),
    ({"lookback": "x"}, "lookback is 'x', which is not a length of time"),
    ({"lookback": -1}, "lookback is -1, but it cannot be negative"),
    ({"settle": "x"}, "settle is 'x', which is not a length of time"),
    ({"settle": object}, "settle is <class 'object'>, of type type"),
    ({"max_shrink": [1]}, "max_shrink is [1], of type list"),
    ({"max_shrink": "many"}, "max_shrink is 'many'"),
    ({"max_rejects": 2.5}, "max_rejects is 2.5, of type float"),
    ({"max_rejects": "5"}, "max_rejects is '5', which is not a share"),
    ({"max_rejects": True}, "max_rejects is True"),
    ({"slice_rows": "10"}, "slice_rows is '10', of type str"),
    ({"keep_archives": 1.5}, "keep_archives is 1.5, of type float"),
    ({"cursor": 5}, "cursor is 5, of type int"),
    ({"null_cursor": 5}, "null_cursor is 5, of type int"),
    ({"lost_target": "again"}, "unknown lost_target 'again'"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[f"{words}"[:40] for words, _ in WRONG])
def test_a_wrong_argument_of_a_pipeline_is_refused_when_it_is_built(words: dict[str, Any], message: str) -> None:
    with pytest.raises(retl.ConfigError) as caught:
        build(**words)
    assert message in str(caught.value)


WRONG_TABLES: list[tuple[dict[str, Any], str]] = [
    ({"name": 5}, "name is 5, of type int"),
    ({"key": 5}, "key is 5, of type int"),
    ({"key": [5]}, "key is [5], of type list"),
    ({"columns": 5}, "columns is 5, of type int"),
    ({"rename": ["a"]}, "rename is ['a'], of type list"),
    ({"rename": {"a": 5}}, "rename is {'a': 5}, of type dict"),
    ({"where": 5}, "where is 5, of type int"),
    ({"cursor": True}, "cursor is True, of type bool"),
    ({"lookback": "x"}, "t: lookback is 'x'"),
    ({"settle": "x"}, "t: settle is 'x'"),
    ({"max_shrink": "many"}, "t: max_shrink is 'many'"),
    ({"pre_action": "swop"}, "t: unknown pre_action 'swop'"),
    ({"null_cursor": "drop"}, "t: unknown null_cursor 'drop'"),
]


@pytest.mark.parametrize(("words", "message"), WRONG_TABLES, ids=[message[:40] for _, message in WRONG_TABLES])
def test_a_wrong_argument_of_a_table_is_refused_where_it_is_written(words: dict[str, Any], message: str) -> None:
    with pytest.raises(retl.ConfigError) as caught:
        retl.Table(**{"name": "t"} | words)
    assert message in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("table", "message"),
    [(5, "a table is 5, of type int"), (retl.Table("t" * 256), "the name of a table has 256 characters")],
    ids=["no table", "its name"],
)
def test_what_no_pipeline_can_have_as_a_table_is_refused_when_it_is_built(table: Any, message: str) -> None:
    with pytest.raises(retl.ConfigError) as caught:
        build(table)
    assert message in str(caught.value)
    assert caught.value.remedy


def test_an_unknown_word_of_a_table_gets_the_hint_that_a_job_file_gives() -> None:
    with pytest.raises(
        TypeError, match=r"^Table\(\) got an unexpected keyword argument 'lookbak'; did you mean 'lookback'\?$"
    ):
        retl.Table("t", lookbak="5m")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"'xyzzy'$"):
        retl.Table("t", xyzzy=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("ttl", ["30s", 30, 30.0, timedelta(seconds=30)])
def test_a_length_of_time_is_written_as_in_a_job_file(ttl: Any) -> None:
    assert build(lease_ttl=ttl)._config.lease_ttl == 30.0


def test_what_is_right_is_taken() -> None:
    table = retl.Table("t", key=("a", "b"), columns=["a", "b"], cursor=False, lookback=timedelta(1), settle=0.5)
    build(table, cursor="b", max_shrink=0.5, max_rejects="1%", slice_rows=10, name="p" * 255)
