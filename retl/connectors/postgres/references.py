"""Rows of a shadow that refer to rows which do not exist.

A shadow has no foreign keys while it is loaded: they would hold the rows of other tables that
nobody sees it refer to. So what a foreign key of its table would reject is looked for in each
slice; when the shadow replaces its table, or its rows go there, the key itself is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from retl.connectors.postgres.dialect import DIALECT
from retl.connectors.sql.statement import Step, query
from retl.connectors.sql.tables import TableName


@dataclass(frozen=True)
class Reference:
    """A foreign key to another table, whose rows the user may see."""

    name: str
    columns: tuple[str, ...]
    other: str
    """The other table, as it stands in SQL."""
    others: tuple[str, ...]

    def orphans(self, table: str, staged: Mapping[str, str], source: str, row: str, most: int) -> str:
        """A query for rows of a stage, with reasons in the server's words. NULL in any column refers to nothing."""
        values = [staged[column] for column in self.columns]
        pairs = zip(self.others, values, strict=True)
        found = " AND ".join(f"o.{DIALECT.identifier(other)} = {value}" for other, value in pairs)
        given = " AND ".join(f"{value} IS NOT NULL" for value in values)
        message = f'insert or update on table "{table}" violates foreign key constraint "{self.name}"'
        start = DIALECT.string(f"{message}; Key ({', '.join(self.columns)})=(")
        end = DIALECT.string(f') is not present in table "{self.other}"')
        return (
            f"SELECT {row}, {start} || concat_ws(', ', {', '.join(values)}) || {end} FROM {source} "
            f"WHERE {given} AND NOT EXISTS (SELECT 1 FROM {self.other} AS o WHERE {found}) LIMIT {most}"
        )


_REFERENCES = """
SELECT k.conname, {columns_own}, k.confrelid::regclass::text, {columns_other} FROM pg_constraint AS k
WHERE k.conrelid = to_regclass({table}) AND k.contype = 'f' AND k.confrelid <> k.conrelid AND k.confmatchtype = 's'
  AND coalesce((to_jsonb(k) ->> 'conenforced')::bool, true) AND NOT coalesce((to_jsonb(k) ->> 'conperiod')::bool, false)
  AND has_table_privilege(k.confrelid, 'SELECT') AND NOT row_security_active(k.confrelid)
ORDER BY k.conname"""
_COLUMNS = (
    "ARRAY(SELECT a.attname::text FROM unnest(k.{key}) WITH ORDINALITY AS c (number, place) "
    "JOIN pg_attribute AS a ON a.attrelid = k.{relation} AND a.attnum = c.number ORDER BY c.place)"
)


def references(table: TableName) -> Step[tuple[Reference, ...]]:
    """The foreign keys of a table to others; none of one that does not exist."""
    asked = _REFERENCES.format(
        table=DIALECT.string(table.sql),
        columns_own=_COLUMNS.format(key="conkey", relation="conrelid"),
        columns_other=_COLUMNS.format(key="confkey", relation="confrelid"),
    )
    rows = yield query(asked)
    return tuple(Reference(name, tuple(columns), other, tuple(others)) for name, columns, other, others in rows)
