"""What another table needs to take a table's place, asked of the catalog.

A new table is created under another name, complete but for what is quicker to build when its
rows are there. When it has the old one's name, its parts get theirs, and what is cheap is put
on it: rights, triggers, policies, comments, publications.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from retl.connectors.postgres import parts
from retl.connectors.postgres.dialect import DIALECT
from retl.connectors.sql.refresh import TableDefinition
from retl.connectors.sql.statement import Step, query
from retl.connectors.sql.tables import ExistingTable, TableName


def define(existing: ExistingTable) -> Step[TableDefinition]:
    """The statements that another table needs to replace this one. The session may read the catalog alone."""
    assert existing.name is not None
    name = existing.name
    answers = yield from _ask(name)
    ((head, unlogged, owner, revoked),) = answers["head"]
    found = _Definition(
        name=name,
        head=head,
        unlogged=unlogged,
        owner=owner,
        revoked=revoked,
        indexes=tuple(parts.index(*row) for row in answers["indexes"]),
        statistics=tuple(parts.statistics(*row) for row in answers["statistics"]),
        numbers=tuple(parts.Number(*row) for row in answers["numbers"]),
        foreign_keys=tuple(parts.ForeignKey(*row) for row in answers["foreign_keys"]),
        **{what: tuple(text for (text,) in answers[what]) for what in _TEXTS},
    )
    return TableDefinition(
        create=found.create,
        create_for_mirror=found.create_for_mirror,
        complete=found.complete,
        carry=found.carry,
        put_on=found.put_on,
        lock=(*DIALECT.give_up_soon, f"LOCK TABLE {name.sql} IN ACCESS EXCLUSIVE MODE"),
    )


def _ask(name: TableName) -> Step[dict[str, list[list[Any]]]]:
    """The answers to all questions by one statement, since they are asked again while the table is locked."""
    questions = {"head": (_HEAD, 4), **{what: (sql, 1) for what, sql in _TEXTS.items()}, **parts.QUERIES}
    asked = ", ".join(f"'{what}', {_as_json(sql, columns)}" for what, (sql, columns) in questions.items())
    own = DIALECT.string(name.sql)
    asked = asked.replace("{table}", f"{own}::regclass").replace("{name}", own)
    ((answer,),) = yield query(f"SELECT json_build_object({asked})::text")
    answers: dict[str, list[list[Any]]] = msgspec.json.decode(answer)
    return answers


def _as_json(sql: str, columns: int) -> str:
    names = ", ".join(f"c{number}" for number in range(columns))
    return f"(SELECT coalesce(json_agg(json_build_array({names})), '[]') FROM ({sql}) AS q ({names}))"


@dataclass(frozen=True)
class _Definition:
    name: TableName
    head: str
    """What CREATE TABLE says after the columns."""
    unlogged: bool
    owner: str | None
    """Unless it is the user."""
    revoked: str | None
    """Who gets rights on every new table of the user by ALTER DEFAULT PRIVILEGES."""
    columns: tuple[str, ...]
    changes: tuple[str, ...]
    """What ALTER TABLE then changes."""
    indexes: tuple[parts.Index, ...]
    statistics: tuple[parts.Statistics, ...]
    numbers: tuple[parts.Number, ...]
    foreign_keys: tuple[parts.ForeignKey, ...]
    publications: tuple[str, ...]
    belongings: tuple[str, ...]
    """Statements that create what can be created in no time, for the table of this name."""

    def create(self, created: TableName) -> list[str]:
        return self._create(created, unlogged=self.unlogged)

    def create_for_mirror(self, created: TableName) -> list[str]:
        """Rows that only the mirror reads need not survive a crash, and cost a fraction of the WAL."""
        return self._create(created, unlogged=True)

    def _create(self, created: TableName, *, unlogged: bool) -> list[str]:
        kind = "UNLOGGED TABLE" if unlogged else "TABLE"
        statements = [f"CREATE {kind} {created.sql} ({', '.join(self.columns)}){self.head}"]
        if self.revoked:
            statements.append(f"REVOKE ALL ON TABLE {created.sql} FROM {self.revoked}")
        if self.changes:
            statements.append(f"ALTER TABLE {created.sql} {', '.join(self.changes)}")
        for number in self.numbers:
            statements += number.create(created) if number.identity else []
        for index in self.indexes:
            statements += index.create(created) if index.rejects else []
        return statements

    def complete(self, created: TableName) -> list[str]:
        statements = [f"ALTER TABLE {created.sql} OWNER TO {self.owner}"] if self.owner else []
        for index in self.indexes:
            statements += [] if index.rejects else index.create(created)
        for one in self.statistics:
            statements += one.create(created)
        if self.foreign_keys:
            # The other table is locked against writes until the rows are checked.
            statements += [*DIALECT.give_up_soon, *(key.create(created) for key in self.foreign_keys)]
        return [*statements, f"ANALYZE {created.sql}"]

    @property
    def _named(self) -> list[parts.Part]:
        """The parts that only one table can have under their names. A column's own sequence moves instead."""
        identities = [number for number in self.numbers if number.identity]
        return [*self.indexes, *self.statistics, *identities]

    def carry(self, old: TableName, new: TableName) -> list[str]:
        away = [] if old == self.name else self._archive(old)
        return [*(number.carry(old, new) for number in self.numbers), *away]

    def _archive(self, archive: TableName) -> list[str]:
        """Makes an archive a record that depends on nothing: other tables neither empty it nor are held by it."""
        changes = [f"DROP CONSTRAINT {DIALECT.identifier(key.name)}" for key in self.foreign_keys]
        own = [number for number in self.numbers if number.identity is None]
        changes += [f"ALTER COLUMN {DIALECT.identifier(number.column)} DROP DEFAULT" for number in own]
        altered = [f"ALTER TABLE {archive.sql} {', '.join(changes)}"] if changes else []
        left = [f"ALTER PUBLICATION {publication} DROP TABLE {archive.sql}" for publication in self.publications]
        return [*(part.give_up(archive) for part in self._named), *altered, *left]

    def put_on(self, created: TableName) -> list[str]:
        return [*(part.settle(created) for part in self._named), *self.belongings]


_HEAD = """
SELECT concat(' USING ' || quote_ident(a.amname),
    ' WITH (' || (SELECT string_agg(format('%s%I = %L', o.place, o.option_name, o.option_value), ', ') FROM (
      SELECT '' AS place, p.* FROM pg_options_to_table(t.reloptions) AS p UNION ALL
      SELECT 'toast.', p.* FROM pg_class AS s, pg_options_to_table(s.reloptions) AS p WHERE s.oid = t.reltoastrelid) AS o) || ')',
    ' TABLESPACE ' || quote_ident(s.spcname)),
  t.relpersistence = 'u',
  CASE WHEN t.relowner <> u.oid THEN quote_ident(pg_get_userbyid(t.relowner)) END,
  (SELECT string_agg(DISTINCT CASE r.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.grantee)) END, ', ')
    FROM pg_default_acl AS d, aclexplode(d.defaclacl) AS r
    WHERE d.defaclrole = u.oid AND d.defaclobjtype = 'r' AND d.defaclnamespace IN (0, t.relnamespace) AND r.grantee <> u.oid)
FROM pg_class AS t JOIN pg_roles AS u ON u.rolname = current_user
  LEFT JOIN pg_am AS a ON a.oid = t.relam LEFT JOIN pg_tablespace AS s ON s.oid = t.reltablespace
WHERE t.oid = {table}"""

_COLUMNS = """
SELECT concat(quote_ident(a.attname), ' ', format_type(a.atttypid, a.atttypmod),
  CASE WHEN a.attcollation <> y.typcollation THEN format(' COLLATE %I.%I', n.nspname, c.collname) END,
  CASE a.attgenerated WHEN 's' THEN format(' GENERATED ALWAYS AS (%s) STORED', pg_get_expr(d.adbin, d.adrelid))
    WHEN 'v' THEN format(' GENERATED ALWAYS AS (%s) VIRTUAL', pg_get_expr(d.adbin, d.adrelid))
    ELSE ' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid) END,
  CASE WHEN a.attnotnull AND NOT EXISTS (SELECT 1 FROM pg_constraint AS k
    WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum]) THEN ' NOT NULL' END)
FROM pg_attribute AS a JOIN pg_type AS y ON y.oid = a.atttypid
  LEFT JOIN pg_collation AS c ON c.oid = a.attcollation LEFT JOIN pg_namespace AS n ON n.oid = c.collnamespace
  LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = {table} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""
"""PostgreSQL 18 keeps NOT NULL as a constraint with a name."""

_CHANGES = r"""
SELECT text FROM (
  SELECT 1 AS place, (contype = 'c')::int AS number, conname::text AS name, format('ADD CONSTRAINT %I %s', conname, pg_get_constraintdef(oid)) AS text
  FROM pg_constraint WHERE conrelid = {table} AND contype IN ('n', 'c')
UNION ALL
  SELECT 2, a.attnum, o.change, format('ALTER COLUMN %I %s', a.attname, o.change) FROM pg_attribute AS a JOIN pg_type AS y ON y.oid = a.atttypid,
  LATERAL (VALUES
    (CASE WHEN a.attstattarget >= 0 THEN format('SET STATISTICS %s', a.attstattarget) END),
    ('SET (' || (SELECT string_agg(format('%I = %L', option_name, option_value), ', ') FROM pg_options_to_table(a.attoptions)
      WHERE option_name NOT LIKE 'pg\_%') || ')'),
    (CASE WHEN a.attstorage <> y.typstorage AND a.attgenerated <> 'v' THEN 'SET STORAGE ' || CASE a.attstorage
      WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END END),
    (CASE a.attcompression WHEN 'p' THEN 'SET COMPRESSION pglz' WHEN 'l' THEN 'SET COMPRESSION lz4' END)
  ) AS o (change)
  WHERE a.attrelid = {table} AND a.attnum > 0 AND NOT a.attisdropped AND o.change IS NOT NULL
) AS found ORDER BY place, number, name"""
"""Some versions stamp each column with an option of their own, ``pg_attver``, which is another one in each table."""

_PUBLICATIONS = """
SELECT quote_ident(p.pubname) FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
WHERE r.prrelid = {table} ORDER BY p.pubname"""

_BELONGINGS = r"""
WITH t AS (SELECT c.*, {name} AS sql FROM pg_class AS c WHERE c.oid = {table}),
relations AS (
  SELECT 'TABLE' AS kind, t.sql, t.relacl AS acl, acldefault('r', t.relowner) AS usual, t.relowner AS owner, 'r' AS type, t.relnamespace AS space
  FROM t UNION ALL
  SELECT 'SEQUENCE', format('%I.%I', n.nspname, s.relname), s.relacl, acldefault('S', s.relowner), s.relowner, 'S', s.relnamespace
  FROM pg_class AS s JOIN pg_namespace AS n ON n.oid = s.relnamespace JOIN pg_depend AS d ON d.objid = s.oid
  WHERE s.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = {table} AND d.deptype = 'i'),
granted AS (
  SELECT r.*, array(SELECT DISTINCT a.grantee FROM pg_default_acl AS d, aclexplode(d.defaclacl) AS a
    WHERE pg_get_userbyid(d.defaclrole) = current_user AND d.defaclobjtype::text = r.type AND d.defaclnamespace IN (0, r.space)) AS given
  FROM relations AS r)
SELECT text FROM (
  SELECT 1 AS place, '' AS name, format('REVOKE ALL ON %s %s FROM %s', kind, sql, (
    SELECT string_agg(DISTINCT CASE g WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g)) END, ', ')
    FROM unnest(given || owner || 0::oid) AS g)) AS text
  FROM granted WHERE acl IS NOT NULL OR given <> '{}'
UNION ALL
  SELECT 2, to_char(min(a.number), '00000'), format('GRANT %s ON %s %s TO %s%s', string_agg(a.privilege_type, ', ' ORDER BY a.number), kind, sql,
    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
    CASE WHEN a.is_grantable AND a.grantee <> owner THEN ' WITH GRANT OPTION' END)
  FROM granted, aclexplode(coalesce(acl, usual)) WITH ORDINALITY AS a (grantor, grantee, privilege_type, is_grantable, number) WHERE acl IS NOT NULL OR given <> '{}'
  GROUP BY kind, sql, owner, a.grantee, a.is_grantable
UNION ALL
  SELECT 3, '', format('GRANT %s (%I) ON TABLE %s TO %s%s', a.privilege_type, c.attname, t.sql,
    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
    CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END)
  FROM t JOIN pg_attribute AS c ON c.attrelid = t.oid AND NOT c.attisdropped, aclexplode(c.attacl) AS a
UNION ALL
  SELECT 4, g.tgname, x.text FROM t JOIN pg_trigger AS g ON g.tgrelid = t.oid AND NOT g.tgisinternal,
    LATERAL (VALUES (pg_get_triggerdef(g.oid)), (CASE g.tgenabled
      WHEN 'D' THEN format('ALTER TABLE %s DISABLE TRIGGER %I', t.sql, g.tgname)
      WHEN 'R' THEN format('ALTER TABLE %s ENABLE REPLICA TRIGGER %I', t.sql, g.tgname)
      WHEN 'A' THEN format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', t.sql, g.tgname) END)) AS x (text)
UNION ALL
  SELECT 5, p.polname, format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s', p.polname, t.sql,
    CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
    CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
    (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END, ', ') FROM unnest(p.polroles) AS r),
    ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')
  FROM t JOIN pg_policy AS p ON p.polrelid = t.oid
UNION ALL
  SELECT 6, '', format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', sql) FROM t WHERE relrowsecurity
UNION ALL
  SELECT 7, '', format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', sql) FROM t WHERE relforcerowsecurity
UNION ALL
  SELECT 8, '', format('ALTER TABLE %s CLUSTER ON %I', t.sql, i.relname)
  FROM t JOIN pg_index AS x ON x.indrelid = t.oid AND x.indisclustered JOIN pg_class AS i ON i.oid = x.indexrelid
UNION ALL
  SELECT 9, '', format('ALTER TABLE %s REPLICA IDENTITY %s', t.sql, CASE t.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING'
    ELSE 'USING INDEX ' || quote_ident(i.relname) END)
  FROM t LEFT JOIN (pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid) ON x.indrelid = t.oid AND x.indisreplident
  WHERE t.relreplident <> 'd' AND (t.relreplident <> 'i' OR i.relname IS NOT NULL)
UNION ALL
  SELECT 10, p.pubname, format('ALTER PUBLICATION %I ADD TABLE %s%s%s', p.pubname, t.sql,
    (SELECT format(' (%s)', string_agg(quote_ident(c.attname), ', ' ORDER BY c.attnum)) FROM pg_attribute AS c
      WHERE c.attrelid = t.oid AND c.attnum::text = ANY (regexp_split_to_array(to_jsonb(r) ->> 'prattrs', '\D+')) HAVING count(*) > 0),
    (SELECT format(' WHERE (%s)', to_jsonb(v) ->> 'rowfilter') FROM pg_publication_tables AS v JOIN pg_namespace AS n ON n.nspname = v.schemaname
      WHERE v.pubname = p.pubname AND n.oid = t.relnamespace AND v.tablename = t.relname AND to_jsonb(v) ->> 'rowfilter' IS NOT NULL))
  FROM t JOIN pg_publication_rel AS r ON r.prrelid = t.oid JOIN pg_publication AS p ON p.oid = r.prpubid
UNION ALL
  SELECT 11, i.identity, format('COMMENT ON %s %s IS %L', CASE i.type WHEN 'table column' THEN 'COLUMN' WHEN 'table constraint' THEN 'CONSTRAINT'
    WHEN 'statistics object' THEN 'STATISTICS' ELSE i.type END, i.identity, d.description)
  FROM pg_description AS d, LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) AS i
  WHERE (d.classoid, d.objoid) IN (
    SELECT 'pg_class'::regclass::oid, {table}::oid
    UNION ALL SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indrelid = {table}
    UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE conrelid = {table}
    UNION ALL SELECT 'pg_trigger'::regclass, oid FROM pg_trigger WHERE tgrelid = {table}
    UNION ALL SELECT 'pg_policy'::regclass, oid FROM pg_policy WHERE polrelid = {table}
    UNION ALL SELECT 'pg_statistic_ext'::regclass, oid FROM pg_statistic_ext WHERE stxrelid = {table}
    UNION ALL SELECT 'pg_class'::regclass, objid FROM pg_depend WHERE classid = 'pg_class'::regclass
      AND refclassid = 'pg_class'::regclass AND refobjid = {table} AND deptype = 'i')
) AS found WHERE text IS NOT NULL ORDER BY place, name, text DESC"""
"""The order is that in which they are created; a trigger is there before it is disabled."""

_TEXTS = {"columns": _COLUMNS, "changes": _CHANGES, "publications": _PUBLICATIONS, "belongings": _BELONGINGS}
"""Questions whose answers are statements, or parts of one."""
