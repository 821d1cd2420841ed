"""A declared table becomes a concrete one: defaults, inheritance, names, and clashes that are refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from retl.model.actions import Action, PreAction, Write
from retl.model.errors import ConfigError
from retl.model.naming import Naming, matching, plain_name
from retl.model.options import TableOptions
from retl.model.table import (
    Table,
    TableSpec,
    check_declaration,
    is_pattern,
    parse_share,
    resolve,
    target_name,
)


def made(
    table: Table, *, inherited: str | None = None, blacklist: frozenset[Action] = frozenset(), **defaults: Any
) -> TableSpec:
    name = table.name or "orders"
    return resolve(table, name, TableOptions(**defaults), blacklist, inherited_cursor=inherited)


def refused(table: Table, **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        made(table, **more)
    assert caught.value.table == (table.name or "orders")
    return str(caught.value)


def refused_words(**words: Any) -> str:
    """Where they are written, or where the table is made."""
    with pytest.raises(ConfigError) as caught:
        made(Table("orders", **words))
    assert caught.value.table == "orders"
    return str(caught.value)


def test_a_bare_name_gets_every_default() -> None:
    spec = made(Table("dw.orders"))
    assert spec == TableSpec("dw.orders", "orders", write=Write.UPSERT, pre_action=PreAction.NONE)
    assert (spec.full, spec.replaces, spec.slice_rows, spec.max_rejects) == (True, False, 50_000, 0)
    assert (spec.null_cursor, spec.new_columns, spec.max_shrink, spec.keep_archives) == ("warn", "add", None, None)


def test_every_word_of_a_table_arrives() -> None:
    spec = made(
        Table(
            "orders",
            to="copy",
            key=["a", "b"],
            columns=["a", "b", "at"],
            rename={"a": "x"},
            expressions={"b": "upper(b)"},
            where="a > 0",
            cursor="at",
            lookback="5m",
            settle=10,
            null_cursor="include",
            max_shrink="50%",
            max_rejects=7,
            new_columns="fail",
            slice_rows=10,
        )
    )
    assert spec == TableSpec(
        "orders",
        "copy",
        key=("a", "b"),
        columns=("a", "b", "at"),
        rename={"a": "x"},
        expressions={"b": "upper(b)"},
        where="a > 0",
        cursor="at",
        lookback=timedelta(minutes=5),
        settle=timedelta(seconds=10),
        null_cursor="include",
        max_shrink=0.5,
        max_rejects=7,
        new_columns="fail",
        slice_rows=10,
    )
    assert spec.target_name("a") == "x"
    assert spec.target_name("b") == "b"


def test_a_query_is_kept_under_its_name() -> None:
    spec = made(Table("totals", query="SELECT 1", key="day"))
    assert (spec.name, spec.to, spec.query, spec.key) == ("totals", "totals", "SELECT 1", ("day",))


def test_what_a_table_leaves_unset_it_takes_from_its_pipeline() -> None:
    defaults: dict[str, Any] = {
        "slice_rows": 5,
        "max_rejects": 3,
        "null_cursor": "fail",
        "new_columns": "ignore",
        "max_shrink": 0.1,
    }
    spec = made(Table("orders", max_rejects=0), **defaults)
    assert (spec.slice_rows, spec.max_rejects, spec.null_cursor, spec.new_columns) == (5, 0, "fail", "ignore")
    assert spec.max_shrink == 0.1


# Cursor ---------------------------------------------------------------------


def test_a_cursor_is_inherited_replaced_or_switched_off() -> None:
    assert made(Table("orders"), inherited="at").cursor == "at"
    assert made(Table("orders", cursor="id"), inherited="at").cursor == "id"
    assert made(Table("orders", cursor=False), inherited="at").cursor is None
    assert made(Table("orders"), cursor="at").cursor is None  # this table has no such column


@pytest.mark.parametrize("cursor", ["", True, 5])
def test_a_cursor_that_names_no_column_is_refused(cursor: Any) -> None:
    assert refused_words(cursor=cursor).startswith(f"orders: cursor is {cursor!r}")


def test_words_about_the_cursor_mean_nothing_to_a_full_scan() -> None:
    spec = made(Table("orders", lookback="5m", settle="10s"))
    assert (spec.lookback, spec.settle) == (timedelta(), None)


def test_a_whole_number_as_lookback_keeps_its_unit_open() -> None:
    assert made(Table("orders", cursor="id", lookback=3600)).lookback == 3600
    assert "cannot be negative" in refused_words(cursor="id", lookback=-1)
    assert "lookback is True" in refused_words(cursor="id", lookback=True)


@pytest.mark.parametrize("pre_action", [PreAction.TRUNCATE, PreAction.RENAME_AND_CREATE, PreAction.SWAP])
def test_a_cursor_and_a_replacing_pre_action_exclude_each_other(pre_action: PreAction) -> None:
    text = refused(Table("orders", cursor="at", pre_action=pre_action))
    assert text.startswith(f'orders: cursor = "at" and pre_action = "{pre_action}" exclude each other')
    assert "cursor = false" in text
    assert "exclude each other" in refused(Table("orders"), inherited="at", pre_action=pre_action)


def test_of_cursor_and_pre_action_the_tables_own_word_is_stronger() -> None:
    swapped = made(Table("report", pre_action=PreAction.SWAP), inherited="at")
    assert (swapped.cursor, swapped.pre_action) == (None, PreAction.SWAP)
    followed = made(Table("orders", cursor="at"), pre_action=PreAction.SWAP)
    assert (followed.cursor, followed.pre_action) == ("at", PreAction.NONE)
    upserted = made(Table("orders", pre_action=PreAction.NONE), inherited="at")
    assert (upserted.cursor, upserted.pre_action) == ("at", PreAction.NONE)


# Clashes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"pre_action": "swop"}, "unknown pre_action 'swop'. What to do: use one of none, truncate,"),
        ({"write": "insert"}, "unknown write 'insert'. What to do: use one of upsert, append."),
        (
            {"null_cursor": "skip"},
            "unknown null_cursor 'skip'. What to do: use one of warn, include, fail.",
        ),
        (
            {"new_columns": "drop"},
            "unknown new_columns 'drop'. What to do: use one of add, ignore, fail.",
        ),
        ({"slice_rows": 0}, "slice_rows is 0, but it must be at least 1."),
        ({"slice_rows": "5"}, "slice_rows is '5', of type str. What to do: give a whole number."),
        ({"max_rejects": -1}, "max_rejects is -1, but it must be at least 0."),
        ({"max_rejects": True}, "max_rejects is True, of type bool. What to do: give a whole number"),
        ({"pre_action": "rename_and_create", "keep_archives": 0}, "keep_archives is 0, but it must be at least 1."),
        ({"keep_archives": 3}, 'keep_archives has a meaning only with pre_action = "rename_and_create".'),
        ({"key": ["a", "a"]}, "the key names a column twice: a, a."),
        ({"columns": []}, "columns is empty"),
        ({"columns": ["a", "a"]}, "columns names a column twice: a, a."),
        ({"columns": "id"}, "columns is the text 'id'. What to do: write a list, such as [\"id\"]."),
        ({"rename": {"a": "x", "b": "x"}}, "rename gives two columns the same target name."),
        ({"columns": ["a", "b"], "rename": {"a": "b"}}, "two columns would be written to b."),
        ({"max_shrink": 50}, 'max_shrink is 50, which is not a share between 0 and 1. What to do: write "50%"'),
        ({"write": "append", "pre_action": "swap"}, 'write = "append" has no meaning with pre_action = "swap"'),
        ({"write": "append", "cursor": "at"}, 'write = "append" with a cursor needs settle'),
        ({"write": "append", "cursor": "at", "settle": "0s"}, 'write = "append" with a cursor needs settle'),
        ({"write": "append", "cursor": "at", "settle": "9s", "lookback": "1m"}, "lookback reads rows again"),
    ],
)
def test_words_that_do_not_fit_are_refused_with_the_reason(words: dict[str, Any], message: str) -> None:
    assert f"orders: {message}" in refused_words(**words)


def test_columns_that_swap_their_names_are_no_clash() -> None:
    assert made(Table("orders", columns=["a", "b"], rename={"a": "b", "b": "a"})).target_name("a") == "b"


def test_appending_with_settle_or_without_a_cursor_is_taken() -> None:
    spec = made(Table("orders", write=Write.APPEND, cursor="at", settle="10s"))
    assert (spec.write, spec.settle, spec.lookback) == (Write.APPEND, timedelta(seconds=10), 0)
    assert made(Table("orders", write=Write.APPEND)).full


def test_archives_kept_by_default_do_not_hinder_tables_that_are_not_archived() -> None:
    defaults: dict[str, Any] = {"pre_action": PreAction.RENAME_AND_CREATE, "keep_archives": 3}
    assert made(Table("report"), **defaults).keep_archives == 3
    assert made(Table("report", keep_archives=1), **defaults).keep_archives == 1
    followed = made(Table("orders", cursor="at"), **defaults)
    assert (followed.pre_action, followed.keep_archives) == (PreAction.NONE, None)


def test_the_blacklist_is_checked_with_the_place() -> None:
    text = refused(Table("orders", pre_action=PreAction.TRUNCATE), blacklist=frozenset({Action.TRUNCATE}))
    assert text.startswith('orders: pre_action = "truncate" cannot work without TRUNCATE')


@pytest.mark.parametrize(
    ("written", "share"),
    [(None, None), ("50%", 0.5), ("0%", 0.0), ("100%", 1.0), ("12.5%", 0.125), (0.5, 0.5), (1, 1.0)],
)
def test_a_share_is_read(written: str | float | None, share: float | None) -> None:
    assert parse_share(written) == share


@pytest.mark.parametrize("written", ["0.5", "half", "%", "-1%", "101%", "nan%", -0.1, 1.1, float("nan")])
def test_what_is_no_share_is_refused(written: str | float) -> None:
    with pytest.raises(ConfigError, match="which is not a share between 0 and 1"):
        parse_share(written)


# Names and patterns ---------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("orders", "orders"),
        ("dw.orders", "orders"),
        ("catalog.dw.orders", "orders"),
        ("exports/2024/sales-*.csv.gz", "sales"),
        ("sales.parquet", "sales"),
        ("a b.jsonl.zst", "a_b"),
        ("in/*.csv", "data"),
        ("logs-2024.01.15", "logs-2024.01.15"),
        ("odd.", "odd."),
        ('"a.b"', "a.b"),
        ("`a.b`", "a.b"),
        ('dw."a.b"', "a.b"),
        ('"d w".`it``s`', "it`s"),
        ('"sel ect ""x"""', 'sel ect "x"'),
        ('5" disk', '5" disk'),
    ],
)
def test_the_target_is_named_like_the_source_without_place_and_endings(name: str, plain: str) -> None:
    assert plain_name(name) == plain
    assert target_name(Table(name), name) == plain


@pytest.mark.parametrize(
    ("name", "to", "written"),
    [
        ("dw.orders", None, "orders"),
        ('"a.b"', None, '"a.b"'),
        ('dw."a.b"', "copy_{name}", '"copy_a.b"'),
        ("`a.b`", "shop.copy_{name}", 'shop."copy_a.b"'),
        ('"a""b"', None, '"a""b"'),
        ("`a.b`", '"x.{name}"', '"x.a.b"'),
        ("logs-2024.01", None, '"logs-2024.01"'),
        ("orders", "shop.{name}", "shop.orders"),
    ],
)
def test_a_name_with_dots_stays_one_name_where_dots_divide(name: str, to: str | None, written: str) -> None:
    table = Table(match="*", to=to) if to else Table(name)
    assert target_name(table, name, Naming(target_schemas=True)) == written


def test_the_name_of_an_index_has_no_schema() -> None:
    naming = Naming(source_schemas=False)
    assert target_name(Table("app.logs"), "app.logs", naming) == "app.logs"
    assert target_name(Table(match="app.*", to="x-{name}"), "app.logs", naming) == "x-app.logs"


def test_to_names_the_target_and_may_hold_the_name_of_a_match() -> None:
    assert target_name(Table("dw.orders", to="shop.copy"), "dw.orders") == "shop.copy"
    assert target_name(Table("dw.orders", to="{name}"), "dw.orders") == "{name}"  # only a match has it
    assert target_name(Table(match="dw.*", to="copy_{name}"), "dw.orders") == "copy_orders"
    assert target_name(Table(match="dw.*"), "dw.orders") == "orders"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (Table(), "a table needs either a name or a match pattern."),
        (Table("a", match="b*"), "table 'a' has a name and a match pattern."),
        (Table(match="b*", query="SELECT 1"), "a query cannot be read for a match pattern."),
        (Table(match="b*", to="c"), "every table that 'b*' matches would be written to 'c'."),
    ],
)
def test_a_declaration_that_names_nothing_or_too_much_is_refused(table: Table, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_declaration(table)
    assert caught.value.message == message
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("table", "pattern"),
    [(Table("a"), False), (Table("a", query="SELECT 1", to="b"), False), (Table(match="a*", to="x_{name}"), True)],
)
def test_a_sound_declaration_is_taken(table: Table, pattern: bool) -> None:
    check_declaration(table)
    assert is_pattern(table) is pattern


def test_a_pattern_stands_for_tables_with_and_without_their_schema() -> None:
    names = ["dw.ods_b", "dw.ods_a", "ods_c", "ODS_D", "dw.ads_a", "ods_"]
    assert matching("ods_*", names) == ["dw.ods_a", "dw.ods_b", "ods_", "ods_c"]
    assert matching("dw.*", names) == ["dw.ads_a", "dw.ods_a", "dw.ods_b"]
    assert matching("ods_?", names) == ["dw.ods_a", "dw.ods_b", "ods_c"]
    assert matching("*.[!o]*", names) == ["dw.ads_a"]
    assert matching("nothing*", names) == []
    assert matching("a.*", ['"a.b"', "a.c", 'dw."a.d"']) == ['"a.b"', "a.c", 'dw."a.d"']


def test_a_pattern_finds_no_archive_and_no_shadow() -> None:
    names = [
        "a_arc_20240501120000000001",
        "dw.a_arc_20240501120000000001",
        "_retl_new_a_7",
        "a_arc_2024",
        "a",
        "retl_a",
    ]
    assert matching("*", names) == ["a", "a_arc_2024", "retl_a"]
