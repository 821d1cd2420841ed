"""What a server, a schema and a table allow the user, asked by one statement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from retl.connectors.postgres.catalog import CatalogTable
from retl.connectors.postgres.dialect import DIALECT
from retl.connectors.sql.statement import Step, query
from retl.connectors.sql.tables import TableName

_PRODUCTS = (
    ("CockroachDB", "CockroachDB"),
    ("-YB-", "YugabyteDB"),
    ("Greenplum", "Greenplum"),
    ("Redshift", "Redshift"),
)


class Facts(msgspec.Struct, frozen=True):
    """Defaults are those of a table that does not exist."""

    version: str
    encoding: str
    is_replica: bool
    read_only: bool
    replication_role: str
    compares_rows: bool
    """Whether the server has ``record_image_ne``, which tells rows that differ in any byte."""
    user: str
    schema: str | None
    has_schema: bool
    may_create: bool
    """Whether the user may create tables in the schema."""
    extensions: list[str] = []
    lacks: list[str] = []
    """The rights on the table that the user needs and does not have."""
    may_give: bool = True
    """Whether the user may make the table's owner the owner of another one."""
    owner_may_create: bool = True
    parents: list[str] = []
    """Tables that foreign keys of this one refer to, and to which the user may not add another one."""
    publications: list[str] = []
    """Those that name the table."""
    foreign_publications: list[str] = []
    """Those of them that the user may not change."""
    general_publications: list[str] = []
    """Those of all tables of the database or the schema, if the table is exchanged."""
    triggers: list[str] = []
    """Those that fire for rows that are written."""
    rules: dict[str, Literal["INSERT", "UPDATE", "DELETE"]] = {}
    """What each rule of the table rewrites."""
    inherits: str | None = None
    of_type: str | None = None
    extension: str | None = None
    subscription: str | None = None
    special: str | None = None
    """What an extension has made of the table."""
    default_partition: bool = True

    @property
    def product(self) -> str:
        return product_of(self.version)


def product_of(version: str) -> str:
    """What a server is that calls itself so: some that are not PostgreSQL begin with its name too."""
    return next((name for mark, name in _PRODUCTS if mark in version), "PostgreSQL")


def facts(
    name: TableName, known: CatalogTable | None, rights: Sequence[str], *, exchanges: bool = False
) -> Step[Facts]:
    """``rights``: those on the table that a load needs; ``exchanges``: whether another table will replace it."""
    schema = DIALECT.string(name.schema) if name.schema is not None else "current_schema()"
    if known is None:
        asked = _SERVER.replace("{schema}", schema)
    else:
        wanted = ", ".join(map(DIALECT.string, rights))
        table = _TABLE.replace("{table}", str(known.oid)).replace("{rights}", wanted)
        table = table.replace("{general}", _GENERAL if exchanges else "jsonb_build_array()")
        asked = f"SELECT s.facts || t.facts FROM ({_SERVER.replace('{schema}', schema)}) AS s, ({table}) AS t"
    ((found,),) = yield query(f"SELECT found.facts::text FROM ({asked}) AS found (facts)")
    answer = msgspec.json.decode(found, type=Facts)
    special = (yield from _special(known, answer)) if known else None
    return msgspec.structs.replace(answer, special=special)


def _special(known: CatalogTable, found: Facts) -> Step[str | None]:
    """What Citus or Timescale have made of the table, where the database has them."""
    here = f"hypertable_schema = {DIALECT.string(known.schema)} AND hypertable_name = {DIALECT.string(known.table)}"
    kinds = {
        "citus": (f"pg_dist_partition WHERE logicalrelid = {known.oid}::regclass", "distributed by Citus"),
        "timescaledb": (f"timescaledb_information.hypertables WHERE {here}", "a hypertable of TimescaleDB"),
    }
    for extension in kinds.keys() & set(found.extensions):
        where, kind = kinds[extension]
        if (yield query(f"SELECT 1 FROM {where}")):
            return kind
    return None


def dependents(known: CatalogTable) -> Step[list[tuple[str, str]]]:
    """``(kind, name)`` of what is bound to the table or its row type and is no part of it."""
    rows: list[tuple[str, str]] = yield query(_DEPENDENTS.replace("{table}", str(known.oid)))
    return rows


_SERVER = """
SELECT jsonb_build_object(
  'version', version(),
  'encoding', current_setting('server_encoding'),
  'is_replica', pg_is_in_recovery(),
  'read_only', current_setting('default_transaction_read_only')::bool,
  'replication_role', current_setting('session_replication_role'),
  'compares_rows', to_regprocedure('record_image_ne(record, record)') IS NOT NULL,
  'user', current_user,
  'schema', {schema},
  'has_schema', to_regnamespace(quote_ident({schema})) IS NOT NULL,
  'may_create', coalesce(has_schema_privilege(to_regnamespace(quote_ident({schema}))::oid, 'USAGE')
    AND has_schema_privilege(to_regnamespace(quote_ident({schema}))::oid, 'CREATE'), false),
  'extensions', (SELECT coalesce(jsonb_agg(extname), '[]') FROM pg_extension)) AS facts"""

_TABLE = """
SELECT jsonb_build_object(
  'lacks', (SELECT coalesce(jsonb_agg(r.name), '[]') FROM unnest(ARRAY[{rights}]::text[]) AS r (name)
    WHERE NOT CASE WHEN r.name IN ('DELETE', 'TRUNCATE') THEN has_table_privilege(c.oid, r.name)
      ELSE has_any_column_privilege(c.oid, r.name) END),
  'may_give', pg_has_role(c.relowner, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END),
  'owner_may_create', has_schema_privilege(c.relowner, c.relnamespace, 'CREATE'),
  'parents', (SELECT coalesce(jsonb_agg(k.confrelid::regclass::text), '[]') FROM pg_constraint AS k
    WHERE k.conrelid = c.oid AND k.contype = 'f' AND k.confrelid <> c.oid AND NOT has_table_privilege(k.confrelid, 'REFERENCES')),
  'publications', (SELECT coalesce(jsonb_agg(p.pubname ORDER BY p.pubname), '[]')
    FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid WHERE r.prrelid = c.oid),
  'foreign_publications', (SELECT coalesce(jsonb_agg(p.pubname ORDER BY p.pubname), '[]')
    FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
    WHERE r.prrelid = c.oid AND NOT pg_has_role(p.pubowner, 'USAGE')),
  'general_publications', {general},
  'triggers', (SELECT coalesce(jsonb_agg(tgname ORDER BY tgname), '[]') FROM pg_trigger
    WHERE tgrelid = c.oid AND NOT tgisinternal AND tgenabled IN ('O', 'A')),
  'rules', (SELECT coalesce(jsonb_object_agg(rulename, CASE ev_type WHEN '2' THEN 'UPDATE' WHEN '3' THEN 'INSERT' ELSE 'DELETE' END), '{}')
    FROM pg_rewrite WHERE ev_class = c.oid AND ev_type <> '1'),
  'inherits', (SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = c.oid LIMIT 1),
  'of_type', CASE WHEN c.reloftype <> 0 THEN format_type(c.reloftype, NULL) END,
  'extension', (SELECT e.extname FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'),
  'subscription', (SELECT s.subname FROM pg_subscription_rel AS r JOIN pg_subscription AS s ON s.oid = r.srsubid
    WHERE r.srrelid = c.oid LIMIT 1),
  'default_partition', coalesce((SELECT p.partdefid <> 0 FROM pg_partitioned_table AS p WHERE p.partrelid = c.oid), true)) AS facts
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = {table}"""

_GENERAL = """(SELECT coalesce(jsonb_agg(v.pubname ORDER BY v.pubname), '[]') FROM pg_publication_tables AS v
    WHERE v.schemaname = n.nspname AND v.tablename = c.relname AND NOT EXISTS (
      SELECT 1 FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid WHERE r.prrelid = c.oid AND p.pubname = v.pubname))"""
"""Expensive in a database of many tables."""

_DEPENDENTS = """
SELECT DISTINCT i.type, i.identity FROM pg_depend AS d
  LEFT JOIN pg_rewrite AS w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
  LEFT JOIN pg_constraint AS k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
  LEFT JOIN pg_trigger AS g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
  LEFT JOIN pg_policy AS p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
  LEFT JOIN pg_attrdef AS a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid
  CROSS JOIN LATERAL (SELECT coalesce(w.ev_class, k.conrelid, g.tgrelid, p.polrelid, a.adrelid,
    CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid END)) AS o (relation)
  CROSS JOIN LATERAL pg_identify_object(CASE WHEN w.oid IS NULL THEN d.classid ELSE 'pg_class'::regclass END,
    coalesce(w.ev_class, d.objid), CASE WHEN w.oid IS NULL THEN d.objsubid ELSE 0 END) AS i
WHERE d.deptype = 'n' AND i.type NOT IN ('view column', 'materialized view column') AND d.classid <> 'pg_publication_rel'::regclass AND o.relation IS DISTINCT FROM {table}
  AND (d.refclassid = 'pg_class'::regclass AND d.refobjid = {table} OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (
    SELECT t.oid FROM pg_type AS t WHERE t.typrelid = {table} UNION ALL
    SELECT t.typarray FROM pg_type AS t WHERE t.typrelid = {table} AND t.typarray <> 0))
ORDER BY 1, 2"""
