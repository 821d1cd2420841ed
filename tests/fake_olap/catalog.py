"""What information_schema and SHOW tell of the tables, column by column as the real systems do.

Columns: StarRocks' ``catalog/system/information/{Columns,Tables,TablesConfig,PartitionsMeta}SystemTable.java``,
``PartitionsProcDir.java``, ``LocalTabletsProcDir.java`` and its documentation of SHOW; Doris' ``SchemaTable.java``,
``PartitionsProcDir.java``, ``TabletsProcDir.java``. Doris tells nothing like ``tables_config`` and ``partitions_meta``.
What a reader of tables does not ask for (sizes, times of compaction) is made up or NULL. That COLUMN_KEY of an aggregate
table is AGG, and the backticks in ``tables_config``, are believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tests.fake_olap.flavour import Flavour
from tests.fake_olap.tables import COLUMN_KEYS, MODELS, Column, Partition, Table
from tests.fake_olap.types import BIGINT, NAME, Type

Columns = list[tuple[str, Type]]
Row = tuple[Any, ...]

_DATETIME, _BOOLEAN, _INT, _DOUBLE = Type("DATETIME"), Type("BOOLEAN"), Type("INT"), Type("DOUBLE")


def _declared(text: str) -> Columns:
    """``NAME`` is text, ``NAME#`` a BIGINT, ``NAME@`` a DATETIME, ``NAME?`` a BOOLEAN, ``NAME%`` an INT, ``NAME~`` a DOUBLE."""
    marks = {"#": BIGINT, "@": _DATETIME, "?": _BOOLEAN, "%": _INT, "~": _DOUBLE}
    return [(word.rstrip("#@?%~"), marks.get(word[-1], NAME)) for word in text.split()]


SCHEMATA = _declared("CATALOG_NAME SCHEMA_NAME DEFAULT_CHARACTER_SET_NAME DEFAULT_COLLATION_NAME SQL_PATH")
TABLES = _declared(
    "TABLE_CATALOG TABLE_SCHEMA TABLE_NAME TABLE_TYPE ENGINE VERSION# ROW_FORMAT TABLE_ROWS# AVG_ROW_LENGTH# DATA_LENGTH# "
    "MAX_DATA_LENGTH# INDEX_LENGTH# DATA_FREE# AUTO_INCREMENT# CREATE_TIME@ UPDATE_TIME@ CHECK_TIME@ TABLE_COLLATION "
    "CHECKSUM# CREATE_OPTIONS TABLE_COMMENT"
)
COLUMNS = _declared(
    "TABLE_CATALOG TABLE_SCHEMA TABLE_NAME COLUMN_NAME ORDINAL_POSITION# COLUMN_DEFAULT IS_NULLABLE DATA_TYPE "
    "CHARACTER_MAXIMUM_LENGTH# CHARACTER_OCTET_LENGTH# NUMERIC_PRECISION# NUMERIC_SCALE# DATETIME_PRECISION# "
    "CHARACTER_SET_NAME COLLATION_NAME COLUMN_TYPE COLUMN_KEY EXTRA PRIVILEGES COLUMN_COMMENT COLUMN_SIZE# "
    "DECIMAL_DIGITS# GENERATION_EXPRESSION SRS_ID#"
)
TABLES_CONFIG = _declared(
    "TABLE_SCHEMA TABLE_NAME TABLE_ENGINE TABLE_MODEL PRIMARY_KEY PARTITION_KEY DISTRIBUTE_KEY DISTRIBUTE_TYPE "
    "DISTRIBUTE_BUCKET% SORT_KEY PROPERTIES TABLE_ID#"
)
PARTITIONS_META = _declared(
    "DB_NAME TABLE_NAME PARTITION_NAME PARTITION_ID# COMPACT_VERSION# VISIBLE_VERSION# VISIBLE_VERSION_TIME@ NEXT_VERSION# "
    "DATA_VERSION# VERSION_EPOCH# VERSION_TXN_TYPE PARTITION_KEY PARTITION_VALUE DISTRIBUTION_KEY BUCKETS% "
    "REPLICATION_NUM% STORAGE_MEDIUM COOLDOWN_TIME@ LAST_CONSISTENCY_CHECK_TIME@ IS_IN_MEMORY? IS_TEMP? DATA_SIZE# "
    "ROW_COUNT# ENABLE_DATACACHE? AVG_CS~ P50_CS~ MAX_CS~ STORAGE_PATH STORAGE_SIZE# METADATA_SWITCH_VERSION#"
)
STARROCKS_PARTITIONS = (
    "PartitionId PartitionName VisibleVersion VisibleVersionTime VisibleVersionHash State PartitionKey Range "
    "DistributionKey Buckets ReplicationNum StorageMedium CooldownTime LastConsistencyCheckTime DataSize IsInMemory RowCount"
)
DORIS_PARTITIONS = (
    "PartitionId PartitionName VisibleVersion VisibleVersionTime State PartitionKey Range DistributionKey Buckets "
    "ReplicationNum StorageMedium CooldownTime RemoteStoragePolicy LastConsistencyCheckTime DataSize IsInMemory "
    "ReplicaAllocation IsMutable SyncWithBaseTables UnsyncTables CommittedVersion RowCount"
)
STARROCKS_TABLETS = (
    "TabletId ReplicaId BackendId SchemaHash Version VersionHash LstSuccessVersion LstSuccessVersionHash LstFailedVersion "
    "LstFailedVersionHash LstFailedTime DataSize RowCount State LstConsistencyCheckTime CheckVersion CheckVersionHash "
    "VersionCount PathHash MetaUrl CompactionStatus"
)
DORIS_TABLETS = (
    "TabletId ReplicaId BackendId SchemaHash Version LstSuccessVersion LstFailedVersion LstFailedTime LocalDataSize "
    "RemoteDataSize RowCount State LstConsistencyCheckTime CheckVersion VisibleVersionCount VersionCount QueryHits "
    "WindowAccessCount LastAccessTime PathHash Path MetaUrl CompactionStatus CooldownReplicaId CooldownMetaId"
)
_BACKEND = "10003"


def system_table(name: str, flavour: Flavour) -> Columns | None:
    """The columns of a table of information_schema, None if there is no such table."""
    both = {"tables": TABLES, "columns": COLUMNS, "schemata": SCHEMATA}
    own = {} if flavour.doris else {"tables_config": TABLES_CONFIG, "partitions_meta": PARTITIONS_META}
    return {**both, **own}.get(name)


def system_rows(
    name: str, flavour: Flavour, databases: Iterable[str], tables: list[Table], count: Callable[[Table, Partition], int]
) -> list[Row]:
    """The rows of a table of information_schema."""
    match name:
        case "schemata":
            return [("def", database, "utf8", "utf8_general_ci", None) for database in databases]
        case "tables":
            return [_table(table, flavour) for table in tables]
        case "columns":
            return [
                _column(table, at, column, flavour) for table in tables for at, column in enumerate(table.columns, 1)
            ]
        case "tables_config":
            return [_config(table) for table in tables]
    return [_partition(table, part, count(table, part)) for table in tables for part in table.partitions]


def _table(table: Table, flavour: Flavour) -> Row:
    catalog, engine = ("internal", "Doris") if flavour.doris else ("def", "StarRocks")
    changed = max((part.changed for part in table.partitions), default=table.created)
    head = (
        catalog,
        table.database,
        table.name,
        "BASE TABLE",
        engine,
        None,
        None,
        table.rows,
        0,
        0,
        None,
        None,
        None,
        None,
    )
    return (*head, table.created, changed, None, "utf8_general_ci", None, None, table.comment)


def _column(table: Table, at: int, column: Column, flavour: Flavour) -> Row:
    kind = column.type
    catalog = "internal" if flavour.doris else "def"
    length = kind.args[0] if kind.name in {"CHAR", "VARCHAR", "VARBINARY"} and kind.args else None
    whole = {"TINYINT": 3, "SMALLINT": 5, "INT": 10, "BIGINT": 19, "LARGEINT": 39}
    precision, scale = whole.get(kind.name), 0 if kind.name in whole else None
    if kind.name == "DECIMAL":
        precision, scale = kind.args
    # Doris tells the digits of a second; StarRocks leaves it empty, for a DATETIME has up to 6 there always.
    digits = (kind.args[0] if kind.args else 0) if flavour.doris and kind.name == "DATETIME" else None
    key = COLUMN_KEYS[table.model] if column.key else ""
    names = {"INT": "int", "LARGEINT": "bigint unsigned"} if not flavour.doris else {"LARGEINT": "bigint unsigned"}
    return (
        *(catalog, table.database, table.name, column.name, at, column.default, "YES" if column.nullable else "NO"),
        *(names.get(kind.name, kind.name.lower()), length, length, precision, scale, digits, None, None),
        *(
            _shown(kind),
            key,
            column.aggregate,
            "",
            column.comment,
            precision or length,
            scale,
            column.generated or None,
            None,
        ),
    )


def _shown(kind: Type) -> str:
    """COLUMN_TYPE: whole numbers with the width that MySQL would show."""
    widths = {"BOOLEAN": 1, "TINYINT": 4, "SMALLINT": 6, "INT": 11, "BIGINT": 20}
    name = "tinyint" if kind.name == "BOOLEAN" else kind.sql()
    return f"{name}({widths[kind.name]})" if kind.name in widths else name


def _config(table: Table) -> Row:
    keys = _ticked(table.keys) if table.replaces else ""
    return (
        *(table.database, table.name, "OLAP", MODELS[table.model], keys, _ticked(table.partition_by)),
        *(
            _ticked(table.distribution),
            "HASH" if table.distribution else "RANDOM",
            table.buckets,
            _ticked(table.sort_keys),
        ),
        *('{"replication_num":"1"}', table.id),
    )


def _partition(table: Table, part: Partition, rows: int) -> Row:
    return (
        *(table.database, table.name, part.name, part.id, 0, part.version, part.changed, part.version + 1),
        *(part.version, part.id, "TXN_NORMAL", ", ".join(table.partition_by), part.values),
        *(", ".join(table.distribution) or "ALL KEY", len(part.tablets), 1, "HDD", None, None, False),
        *(part.temporary, rows * 64),
        *(rows, False, 0.0, 0.0, 0.0, None, rows * 64, 0),
    )


def show_partitions(
    table: Table, flavour: Flavour, count: Callable[[Table, Partition], int]
) -> tuple[Columns, list[Row]]:
    names = (DORIS_PARTITIONS if flavour.doris else STARROCKS_PARTITIONS).split()
    rows = []
    for part in table.partitions:
        number = count(table, part)
        known = {
            "PartitionId": part.id,
            "PartitionName": part.name,
            "VisibleVersion": part.version,
            "VisibleVersionTime": part.changed,
            "VisibleVersionHash": 0,
            "CommittedVersion": part.version,
            "State": "NORMAL",
            "PartitionKey": ", ".join(table.partition_by),
            "Range": part.values,
            "DistributionKey": ", ".join(table.distribution) or "ALL KEY",
            "Buckets": len(part.tablets),
            "ReplicationNum": 1,
            "StorageMedium": "HDD",
            "CooldownTime": "9999-12-31 23:59:59",
            "DataSize": f"{number * 64}B",
            "IsInMemory": "false",
            "IsMutable": "true",
            "SyncWithBaseTables": "true",
            "ReplicaAllocation": "tag.location.default: 1",
            "RowCount": number,
        }
        rows.append(_text_row(names, known))
    return _texts(names), rows


def show_tablets(table: Table, parts: list[Partition], flavour: Flavour) -> tuple[Columns, list[Row]]:
    names = (DORIS_TABLETS if flavour.doris else STARROCKS_TABLETS).split()
    rows = []
    for part in parts:
        for tablet in part.tablets:
            known = {
                "TabletId": tablet,
                "ReplicaId": tablet + 1_000_000,
                "BackendId": _BACKEND,
                "SchemaHash": 0,
                "Version": part.version,
                "VersionHash": 0,
                "LstSuccessVersion": part.version,
                "LstFailedVersion": -1,
                "State": "NORMAL",
                "VersionCount": part.version,
                "RowCount": 0,
            }
            rows.append(_text_row(names, known))
    return _texts(names), rows


def describe(table: Table, full: bool) -> tuple[Columns, list[Row]]:
    """DESC and SHOW [FULL] COLUMNS."""
    names = ["Field", "Type", "Null", "Key", "Default", "Extra"]
    rows: list[Row] = []
    for column in table.columns:
        head: Row = (column.name, column.type.sql(), "YES" if column.nullable else "NO")
        tail: Row = ("true" if column.key else "false", column.default, column.aggregate)
        rows.append((*head, *tail))
    if full:
        names = ["Field", "Type", "Collation", "Null", "Key", "Default", "Extra", "Privileges", "Comment"]
        comments = [column.comment for column in table.columns]
        rows = [(row[0], row[1], None, *row[2:], "", comment) for row, comment in zip(rows, comments, strict=True)]
    return _texts(names), rows


def with_kinds(columns: Columns, rows: list[Row], flavour: Flavour) -> tuple[Columns, list[Row]]:
    """SHOW FULL TABLES: what each one is."""
    more = ["Table_type", *(["Storage_format", "Inverted_index_storage_format"] if flavour.doris else [])]
    known = ("BASE TABLE", *(("V2", "V2") if flavour.doris else ()))
    return [*columns, *_texts(more)], [(*row, *known) for row in rows]


def show_create(table: Table, flavour: Flavour) -> tuple[Columns, list[Row]]:
    """SHOW CREATE TABLE."""
    lines = ",\n".join(f"  {_definition(column, flavour)}" for column in table.columns)
    spread = f"HASH({_ticked(table.distribution)})" if table.distribution else "RANDOM"
    parts = [
        f"CREATE TABLE `{table.name}` (\n{lines}\n) ENGINE=OLAP",
        f"{table.model} KEY({_ticked(table.keys)})",
        *([f'COMMENT "{table.comment}"'] if table.comment else []),
        f"DISTRIBUTED BY {spread} BUCKETS {table.buckets}",
        'PROPERTIES (\n"replication_num" = "1"\n);',
    ]
    return _texts(["Table", "Create Table"]), [(table.name, "\n".join(parts))]


def _definition(column: Column, flavour: Flavour) -> str:
    kind = column.type.sql() if flavour.doris else _shown(column.type)
    words = [f"`{column.name}`", kind, column.aggregate, "NULL" if column.nullable else "NOT NULL"]
    default = [f'DEFAULT "{column.default}"'] if column.default is not None else []
    comment = [f'COMMENT "{column.comment}"'] if column.comment else []
    return " ".join(filter(None, [*words, *default, *comment]))


def _texts(names: list[str]) -> Columns:
    return [(name, Type("VARCHAR", (30,))) for name in names]


def _text_row(names: list[str], known: dict[str, Any]) -> Row:
    return tuple(str(known[name]) if name in known else None for name in names)


def _ticked(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
