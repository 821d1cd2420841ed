"""What tells StarRocks and Doris apart, as data.

StarRocks: the configuration ``mysql_server_version`` (newer releases say 8.0.33, older ones 5.1.0), ``SystemVariable``
defaults of 3.5. Doris: ``GlobalVariable.DEFAULT_SERVER_VERSION``, ``SessionVariable`` of 3. The variables are those
that a reading client may meet, not all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from sqlglot import TokenType
from sqlglot.dialects.dialect import Dialect
from sqlglot.dialects.doris import Doris
from sqlglot.dialects.starrocks import StarRocks

from tests.fake_olap import functions
from tests.fake_olap.errors import DorisErrors, Errors, StarRocksErrors
from tests.fake_olap.types import DORIS as DORIS_TYPES
from tests.fake_olap.types import STARROCKS as STARROCKS_TYPES
from tests.fake_olap.types import Type, Wire, doris_wire, starrocks_wire


class _Doris(Doris):
    """sqlglot's Doris does not know these names of types in casts."""

    class Tokenizer(Doris.Tokenizer):
        KEYWORDS: ClassVar = {
            **Doris.Tokenizer.KEYWORDS,
            "LARGEINT": TokenType.INT128,
            "DATEV2": TokenType.DATE,
            "DATETIMEV2": TokenType.DATETIME,
            "DECIMALV3": TokenType.DECIMAL,
        }


@dataclass(frozen=True)
class Flavour:
    name: str
    doris: bool
    dialect: type[Dialect]
    # What the handshake says and version() returns.
    handshake_version: str
    version_comment: str
    # What current_version() returns; Doris has no such function.
    current_version: str
    errors: Errors
    types: frozenset[str]
    functions: frozenset[str]
    wire: Callable[[Type], Wire]
    variables: Mapping[str, str]


_VARIABLES = {
    "auto_increment_increment": "1",
    "autocommit": "true",
    "character_set_client": "utf8",
    "character_set_connection": "utf8",
    "character_set_database": "utf8",
    "character_set_results": "utf8",
    "character_set_server": "utf8",
    "collation_connection": "utf8_general_ci",
    "collation_database": "utf8_general_ci",
    "collation_server": "utf8_general_ci",
    "enable_materialized_view_rewrite": "true",
    "group_concat_max_len": "1024",
    "init_connect": "",
    "interactive_timeout": "3600",
    "lower_case_table_names": "0",
    "max_allowed_packet": "33554432",
    "net_read_timeout": "60",
    "net_write_timeout": "60",
    "query_timeout": "300",
    "sql_mode": "ONLY_FULL_GROUP_BY",
    "sql_safe_updates": "0",
    "sql_select_limit": "9223372036854775807",
    "system_time_zone": "UTC",
    "time_zone": "UTC",
    "tx_isolation": "REPEATABLE-READ",
    "transaction_isolation": "REPEATABLE-READ",
    "wait_timeout": "28800",
}
READ_ONLY = frozenset({"version", "version_comment", "system_time_zone"})

STARROCKS = Flavour(
    name="StarRocks",
    doris=False,
    dialect=StarRocks,
    handshake_version="8.0.33",
    version_comment="StarRocks version 3.5.2-8cfd2ad",
    current_version="3.5.2-8cfd2ad",
    errors=StarRocksErrors(),
    types=STARROCKS_TYPES,
    functions=functions.STARROCKS,
    wire=starrocks_wire,
    variables={
        **_VARIABLES,
        "custom_query_id": "",
        "sql_dialect": "StarRocks",
        "enable_query_queue": "true",
        "net_buffer_length": "16384",
        "parallel_fragment_exec_instance_num": "1",
        "pipeline_dop": "0",
        "query_mem_limit": "0",
        "query_queue_pending_timeout_second": "300",
        "enable_profile": "false",
    },
)
DORIS = Flavour(
    name="Doris",
    doris=True,
    dialect=_Doris,
    handshake_version="5.7.99",
    version_comment="Doris version doris-3.0.6-rc01-5b4e0a5e7b",
    current_version="",
    errors=DorisErrors(),
    types=DORIS_TYPES,
    functions=functions.DORIS,
    wire=doris_wire,
    variables={
        **_VARIABLES,
        "query_timeout": "900",
        "default_order_by_limit": "-1",
        "dry_run_query": "false",
        "enable_prefer_cached_rowset": "false",
        "exec_mem_limit": "2147483648",
        "group_concat_max_len": "2147483646",
        "query_freshness_tolerance_ms": "-1",
        "serde_dialect": "doris",
        "skip_bad_tablet": "false",
        "skip_delete_bitmap": "false",
        "skip_delete_predicate": "false",
        "skip_delete_sign": "false",
        "skip_missing_version": "false",
        "skip_storage_engine_merge": "false",
        "sql_dialect": "doris",
        "parallel_pipeline_task_num": "0",
        "return_object_data_as_binary": "false",
        "session_context": "",
        "show_hidden_columns": "false",
        "enable_profile": "false",
    },
)
