"""StarRocks and Doris: what a session is told, and what an error means before and after a plan was answered."""

from __future__ import annotations

import pytest

from retl.connectors.mysql.errors import SourceRefused
from retl.connectors.olap.errors import olap_error, while_reading
from retl.connectors.olap.session import settings
from retl.model.errors import ConfigError, ConnectionFailed, RetlError, SourceError

FIRST = "SET query_timeout = 60, time_zone = '+00:00', sql_select_limit = 9223372036854775807, sql_mode = 'ONLY_FULL_GROUP_BY'"
BOTH = {
    "wait_timeout": "86400",
    "net_write_timeout": "86400",
    "enable_materialized_view_rewrite": "false",
    "group_concat_max_len": "2147483647",
}
DORIS = {
    "sql_dialect": "'doris'",
    "serde_dialect": "'doris'",
    **dict.fromkeys(("skip_delete_sign", "skip_delete_predicate", "skip_delete_bitmap"), "false"),
    **dict.fromkeys(("skip_storage_engine_merge", "skip_missing_version", "skip_bad_tablet"), "false"),
    "query_freshness_tolerance_ms": "-1",
    "enable_prefer_cached_rowset": "false",
    "show_hidden_columns": "false",
    "default_order_by_limit": "-1",
    "dry_run_query": "false",
    "return_object_data_as_binary": "false",
}


@pytest.mark.parametrize(("system", "own"), [("starrocks", {"sql_dialect": "'StarRocks'"}), ("doris", DORIS)])
def test_a_session_is_told_what_its_server_knows(system: str, own: dict[str, str]) -> None:
    assert settings(system, 60) == FIRST
    every = {**BOTH, **own}
    told = settings(system, 60, [*(name.upper() for name in every), "something_else"])
    assert told == ", ".join([FIRST, *(f"{name} = {value}" for name, value in every.items())])
    assert settings(system, 60, ["wait_timeout"]) == f"{FIRST}, wait_timeout = 86400"


def errors_of(code: int, message: str) -> tuple[RetlError, RetlError]:
    """What it means before a plan is answered, and while one is read."""
    planning = olap_error(code, message, "source", "fe:9030")
    return planning, while_reading(planning) if isinstance(planning, SourceRefused) else planning


STATEMENT, PASSES, OPEN = "the statement's", "passes", "not known"


@pytest.mark.parametrize(
    ("code", "message", "meaning"),
    [
        # What it says of a statement: a syntax, a name, a right.
        (1064, "Getting syntax error at line 1, column 9. Detail message: Unexpected input 'x'.", STATEMENT),
        (1064, "Getting analyzing error. Detail message: Column 'tablet' cannot be resolved.", STATEMENT),
        (5502, "Getting analyzing error. Detail message: Unknown table 'dw.replica'.", STATEMENT),
        (1105, "errCode = 2, detailMessage = \nmismatched input 'x'(line 1, pos 4)\n", STATEMENT),
        (1105, "errCode = 2, detailMessage = Table [MEM_LIMIT_EXCEEDED] does not exist in database [dw].", STATEMENT),
        (1105, "errCode = 2, detailMessage = Unknown column 'backend' in 'table list'", STATEMENT),
        (1105, "errCode = 2, detailMessage = Can not found function 'rpc failed'", STATEMENT),
        (1193, "Unknown system variable 'x', the most similar variables are {}", STATEMENT),
        (5203, "Access denied; you need (at least one of) the SELECT privilege(s) on TABLE t", STATEMENT),
        (1142, "errCode = 2, detailMessage = SELECT command denied to user 'u'@'h' for table 't'", STATEMENT),
        # What it says of itself.
        (1064, "version already been compacted. tablet_id: 1", PASSES),
        (1064, "fail to find rowset of version 7", PASSES),
        (1064, "Getting analyzing error. Detail message: no queryable replica found in tablet 10091.", PASSES),
        (1064, "[MEM_LIMIT_EXCEEDED] Memory of process exceed limit", PASSES),
        (1064, "Memory of query_pool exceed limit. Used: 1, Limit: 1", PASSES),
        (1105, "errCode = 2, detailMessage = (10.0.0.7)[MEM_LIMIT_EXCEEDED]PreCatch error code:11", PASSES),
        (1105, "errCode = 2, detailMessage = (10.0.0.7)[E-230]fail to find path", PASSES),
        (1105, "errCode = 2, detailMessage = (10.0.0.7)[CANCELLED]", PASSES),
        (1105, "errCode = 2, detailMessage = table orders: tablet 12 does not exist", PASSES),
        (1105, "errCode = 2, detailMessage = (10.0.0.7)[NOT_FOUND]rowset does not exist", PASSES),
        (5077, "Query cancelled by crash of backends.", PASSES),
        # A partition of the plan that is gone: nobody wrote its name.
        (1735, "Getting analyzing error. Detail message: Unknown partition 'p1' in table 't'.", OPEN),
        (1105, "errCode = 2, detailMessage = partition: p1 is not exists on table: t", OPEN),
        (1105, "errCode = 2, detailMessage = (10.0.0.7)[INVALID_ARGUMENT]no such thing", OPEN),
        (1064, "Something of which nobody has heard", OPEN),
    ],
)
def test_what_an_error_means(code: int, message: str, meaning: str) -> None:
    planning, reading = errors_of(code, message)
    final: tuple[type[RetlError], ...] = (SourceError, ConfigError)
    assert isinstance(planning, ConnectionFailed if meaning == PASSES else final)
    assert isinstance(reading, final if meaning == STATEMENT else ConnectionFailed)
    assert " ".join(message.split()) in reading.message.replace("\n", " ").replace("  ", " ")


@pytest.mark.parametrize(("code", "message"), [(5024, "Query reached its timeout of 9 seconds"), (1105, "errCode = 2, detailMessage = Timeout")])  # fmt: skip
def test_a_query_that_is_too_slow_is_not_tried_again(code: int, message: str) -> None:
    for error in errors_of(code, message):
        assert isinstance(error, SourceError) and "raise query_timeout" in error.remedy
