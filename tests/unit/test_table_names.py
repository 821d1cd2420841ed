"""Names of tables that a refresh makes: told from all others, so that nothing else is ever dropped."""

from __future__ import annotations

import pytest

from retl.connectors.sql.tables import archive_name, is_archive, is_shadow, is_stage, shadow_name, stage_name

SCAN = "20240501T120000.000001-aaaaaa"
STAMP = "20240501120000000001"
LONG = "t" * 64


@pytest.mark.parametrize("longest", [None, 64])
@pytest.mark.parametrize("table", ["orders", LONG, "orders_arc_", "ü" * 64])
def test_an_archive_and_a_shadow_are_those_of_their_table(table: str, longest: int | None) -> None:
    archive, shadow = (
        archive_name(table, SCAN, longest=longest),
        shadow_name(table, "p", 9_999_999_999, longest=longest),
    )
    assert is_archive(archive, table, longest=longest) and is_shadow(shadow, table, "p", longest=longest)
    assert not is_archive(archive, table[:-1], longest=longest)
    assert not is_shadow(shadow, table[:-1], "p", longest=longest)
    assert longest is None or max(len(archive.encode()), len(shadow.encode())) <= longest


@pytest.mark.parametrize("table", ["orders", LONG, "表" * 21])
def test_a_staging_table_is_that_of_its_table_and_no_shadow(table: str) -> None:
    stage = stage_name(table, "p", 7, longest=63)
    assert is_stage(stage, table, "p", longest=63)
    assert not is_shadow(stage, table, "p", longest=63)
    assert not is_stage(stage, table, "other", longest=63)
    assert not is_stage(shadow_name(table, "p", 7, longest=63), table, "p", longest=63)
    assert len(stage.encode()) <= 63


def test_names_that_begin_alike_and_are_cut_stay_apart() -> None:
    one, other = "表" * 20 + "1", "表" * 20 + "2"
    assert shadow_name(one, "p", 7, longest=63) != shadow_name(other, "p", 7, longest=63)


@pytest.mark.parametrize(
    "name",
    [
        "orders_arc_2024",
        "orders_arc_20240501",
        f"orders_arc_{STAMP}0",
        f"orders_arc_{STAMP[:-1]}",
        f"orders_arc_{STAMP[:-1]}x",
        f"orders_arc_{STAMP[:-1]}٣",
        f"orders_arc_{STAMP}_arc_{STAMP}",
        f"orders2_arc_{STAMP}",
        f"Orders_arc_{STAMP}",
        f"orders_arc{STAMP}_",
        "orders_arc_",
        "orders",
    ],
)
def test_a_users_own_table_is_no_archive(name: str) -> None:
    assert not is_archive(name, "orders")
    assert not is_archive(name, "orders", longest=64)


def test_a_table_of_another_pipeline_or_of_a_tenant_is_no_shadow() -> None:
    mine = shadow_name("orders", "mine", 7)
    assert is_shadow(mine, "orders", "mine")
    others = ["_retl_new_orders_7", "_retl_new_orders_", f"{mine}x", f"{mine}²", mine[:-1], "orders", f"x{mine}"]
    for name in (shadow_name("orders", "theirs", 7), shadow_name("orders_1", "mine", 7), *others):
        assert not is_shadow(name, "orders", "mine")
