"""What a cluster has and PostgreSQL lacks: types, functions and catalog, made once in a database of PostgreSQL.

Faithful to: the columns of ``SVV_ALL_COLUMNS``, ``SVV_ALL_TABLES``, ``STV_SLICES`` and ``SVV_EXTERNAL_*``, the result of
``PG_GET_LATE_BINDING_VIEW_COLS()``, the columns of ``pg_class`` and ``pg_attribute`` that PostgreSQL lacks, a SUPER whose cast
to text is NULL for arrays and objects. The views of external tables are empty, and have columns that Redshift finds by the
names that a SELECT gives them.
"""

from __future__ import annotations

import psycopg

OIDS = {"super": 4000, "geometry": 3000, "geography": 3001, "varbyte": 6551, "hllsketch": 2935}
"""The types that PostgreSQL lacks, by the numbers under which a cluster sends them."""

# Type, what reads and writes it in PostgreSQL.
_TYPES = {"super": "json", "geometry": "text", "geography": "text", "varbyte": "bytea", "hllsketch": "text"}

_MADE_OF = """
CREATE TYPE pg_catalog.{name};
CREATE FUNCTION pg_catalog.{name}_in(cstring) RETURNS {name} AS '{base}in' LANGUAGE internal IMMUTABLE STRICT;
CREATE FUNCTION pg_catalog.{name}_out({name}) RETURNS cstring AS '{base}out' LANGUAGE internal IMMUTABLE STRICT;
CREATE FUNCTION pg_catalog.{name}_recv(internal) RETURNS {name} AS '{base}recv' LANGUAGE internal IMMUTABLE STRICT;
CREATE FUNCTION pg_catalog.{name}_send({name}) RETURNS bytea AS '{base}send' LANGUAGE internal IMMUTABLE STRICT;
CREATE TYPE pg_catalog.{name} (INPUT = {name}_in, OUTPUT = {name}_out, RECEIVE = {name}_recv, SEND = {name}_send,
    INTERNALLENGTH = VARIABLE, ALIGNMENT = int4, STORAGE = extended);
CREATE CAST ({name} AS {base_type}) WITHOUT FUNCTION;
CREATE CAST ({base_type} AS {name}) WITHOUT FUNCTION;
"""

_FUNCTIONS = """
CREATE FUNCTION pg_catalog.super_to_text(super) RETURNS varchar LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT CASE json_typeof($1::json) WHEN 'object' THEN NULL WHEN 'array' THEN NULL ELSE $1::json #>> '{}' END $$;
CREATE CAST (super AS varchar) WITH FUNCTION super_to_text(super);
CREATE FUNCTION pg_catalog.rs_json_serialize(super) RETURNS varchar LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    IF octet_length($1::json::text) > 65535 THEN
        RAISE EXCEPTION 'The serialized json is larger than the max size of 65535 bytes' USING ERRCODE = '22000';
    END IF;
    RETURN $1::json::text;
END $$;
CREATE FUNCTION pg_catalog.json_parse(varchar) RETURNS super LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT $1::json::super $$;
CREATE FUNCTION pg_catalog.to_hex(varbyte) RETURNS varchar LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT encode($1::bytea, 'hex') $$;
CREATE FUNCTION pg_catalog.from_hex(varchar) RETURNS varbyte LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT decode($1, 'hex')::varbyte $$;
CREATE FUNCTION pg_catalog.st_geomfromtext(varchar) RETURNS geometry LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT $1::text::geometry $$;
CREATE FUNCTION pg_catalog.st_geogfromtext(varchar) RETURNS geography LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT $1::text::geography $$;
CREATE FUNCTION pg_catalog.st_astext(geometry) RETURNS varchar LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT $1::text $$;
CREATE FUNCTION pg_catalog.st_astext(geography) RETURNS varchar LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT $1::text $$;
CREATE FUNCTION pg_catalog.getdate() RETURNS timestamp LANGUAGE sql STABLE AS $$
    SELECT date_trunc('second', statement_timestamp())::timestamp $$;
CREATE FUNCTION pg_catalog.rs_sysdate() RETURNS timestamp LANGUAGE sql STABLE AS $$
    SELECT transaction_timestamp()::timestamp $$;
CREATE FUNCTION pg_catalog.fnv_hash(anyelement, bigint DEFAULT 0) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT hashtextextended(coalesce($1::text, ''), $2) $$;
CREATE FUNCTION pg_catalog.rs_datediff(text, timestamp, timestamp) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT CASE $1 WHEN 'microsecond' THEN (extract(epoch FROM $3) - extract(epoch FROM $2)) * 1000000
        WHEN 'day' THEN $3::date - $2::date
        WHEN 'second' THEN floor(extract(epoch FROM $3)) - floor(extract(epoch FROM $2)) END::bigint $$;
CREATE FUNCTION pg_catalog.rs_datediff(text, timestamptz, timestamptz) RETURNS bigint LANGUAGE sql STABLE STRICT AS $$
    SELECT rs_datediff($1, $2 AT TIME ZONE 'UTC', $3 AT TIME ZONE 'UTC') $$;
CREATE FUNCTION pg_catalog.rs_datediff(text, date, date) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT rs_datediff($1, $2::timestamp, $3::timestamp) $$;
CREATE FUNCTION pg_catalog.regexp_replace(text, text) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT regexp_replace($1, $2, '') $$;
CREATE FUNCTION pg_catalog.charindex(text, text) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT strpos($2, $1) $$;
CREATE FUNCTION pg_catalog.format_encoding(int) RETURNS varchar LANGUAGE sql IMMUTABLE AS $$ SELECT 'none'::varchar $$;
"""

_CATALOG = """
CREATE SCHEMA rs_own;
GRANT USAGE ON SCHEMA rs_own TO PUBLIC;
CREATE TABLE rs_own.keys (number int GENERATED ALWAYS AS IDENTITY, conrelid oid, contype "char", columns text[]);
CREATE TABLE rs_own.late_binding (relid oid);
GRANT SELECT ON ALL TABLES IN SCHEMA rs_own TO PUBLIC;
CREATE VIEW pg_catalog.rs_constraint AS SELECT k.number::oid AS oid, (c.relname || '_key')::name AS conname, c.relnamespace AS connamespace,
    k.contype, k.conrelid, (SELECT array_agg(a.attnum ORDER BY array_position(k.columns, a.attname::text))
        FROM pg_attribute a WHERE a.attrelid = k.conrelid AND a.attname = ANY (k.columns)) AS conkey
    FROM rs_own.keys k JOIN pg_class c ON c.oid = k.conrelid;
CREATE FUNCTION pg_catalog.rs_get_constraintdef(oid, boolean DEFAULT false) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE contype WHEN 'p' THEN 'PRIMARY KEY (' ELSE 'UNIQUE (' END
        || (SELECT string_agg(quote_ident(name), ', ') FROM unnest(columns) AS name) || ')' FROM rs_own.keys WHERE number::oid = $1 $$;
CREATE VIEW pg_catalog.rs_class AS SELECT oid, relname, relnamespace, relkind, relowner, relacl, reltuples, 0 AS reldiststyle
    FROM pg_class;
CREATE VIEW pg_catalog.rs_attribute AS SELECT attrelid, attname, atttypid, attnum, atttypmod, attnotnull, attisdropped,
    0 AS attencodingtype, false AS attisdistkey, 0 AS attsortkeyord FROM pg_attribute
    WHERE attrelid NOT IN (SELECT relid FROM rs_own.late_binding);
CREATE VIEW pg_catalog.rs_attrdef AS SELECT oid, adrelid, adnum, adbin, pg_get_expr(adbin, adrelid) AS adsrc FROM pg_attrdef;
CREATE VIEW rs_own.relations AS SELECT c.oid, n.nspname, c.relname, c.relkind FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'v') AND n.nspname !~ '^(pg_|rs_own|information_schema)' AND has_schema_privilege(n.oid, 'USAGE');
GRANT SELECT ON rs_own.relations TO PUBLIC;
CREATE VIEW pg_catalog.svv_all_columns AS SELECT current_database()::varchar AS database_name, r.nspname::varchar AS schema_name,
    r.relname::varchar AS table_name, a.attname::varchar AS column_name, a.attnum::int AS ordinal_position,
    pg_get_expr(d.adbin, d.adrelid)::varchar AS column_default, CASE WHEN a.attnotnull THEN 'NO' ELSE 'YES' END::varchar AS is_nullable,
    format_type(a.atttypid, NULL)::varchar AS data_type,
    CASE WHEN a.atttypid IN (1042, 1043) THEN a.atttypmod - 4 END AS character_maximum_length,
    CASE WHEN a.atttypid = 1700 THEN ((a.atttypmod - 4) >> 16) & 65535 WHEN a.atttypid = 21 THEN 16 WHEN a.atttypid = 23 THEN 32
        WHEN a.atttypid = 20 THEN 64 END AS numeric_precision,
    CASE WHEN a.atttypid = 1700 THEN (a.atttypmod - 4) & 65535 WHEN a.atttypid IN (20, 21, 23) THEN 0 END AS numeric_scale,
    NULL::varchar AS remarks
    FROM rs_own.relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE r.oid NOT IN (SELECT relid FROM rs_own.late_binding) AND has_column_privilege(r.oid, a.attnum, 'SELECT');
CREATE VIEW pg_catalog.svv_all_tables AS SELECT current_database()::varchar AS database_name, nspname::varchar AS schema_name,
    relname::varchar AS table_name, NULL::varchar AS table_acl, CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END::varchar AS table_type,
    NULL::varchar AS remarks FROM rs_own.relations;
CREATE FUNCTION pg_catalog.pg_get_late_binding_view_cols() RETURNS SETOF record LANGUAGE sql STABLE AS $$
    SELECT r.nspname, r.relname, a.attname, format_type(a.atttypid, a.atttypmod)::varchar, a.attnum::int
    FROM rs_own.relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0
    WHERE r.oid IN (SELECT relid FROM rs_own.late_binding) $$;
CREATE VIEW pg_catalog.stv_slices AS SELECT node, node * 2 + slice AS slice
    FROM generate_series(0, current_setting('redshift.nodes')::int - 1) AS node, generate_series(0, 1) AS slice;
CREATE VIEW pg_catalog.svv_external_schemas AS SELECT 0::oid AS esoid, ''::name AS schemaname, 0::oid AS esowner,
    ''::name AS schema WHERE false;
CREATE VIEW pg_catalog.svv_external_tables AS SELECT ''::name AS schemaname, ''::name AS tablename, ''::name AS relname WHERE false;
CREATE VIEW pg_catalog.svv_external_columns AS SELECT ''::name AS schemaname, ''::name AS tablename, ''::name AS columnname,
    ''::varchar AS external_type, 0 AS columnnum, ''::name AS table_name WHERE false;
GRANT SELECT ON ALL TABLES IN SCHEMA pg_catalog TO PUBLIC;
"""


def build(connection: psycopg.Connection) -> dict[int, int]:
    """Make it all; returns the numbers of the types that a client sees in place of PostgreSQL's."""
    run = connection.cursor().execute
    run("SET allow_system_table_mods = on")
    for name, base in _TYPES.items():
        prefix = base if base in ("text", "bytea") else f"{base}_"
        run(_MADE_OF.format(name=name, base=prefix, base_type=base).encode())
    run(_FUNCTIONS.encode())
    run("SET redshift.nodes = 1")
    run(_CATALOG.encode())
    found = connection.execute("SELECT oid::int, typname::text FROM pg_type WHERE typname = ANY (%s)", [list(OIDS)])
    return {oid: OIDS[name] for oid, name in found}
