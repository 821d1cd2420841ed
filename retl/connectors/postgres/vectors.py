"""Vectors in PostgreSQL: the types and the indexes of pgvector."""

from __future__ import annotations

import re

from retl.connectors.postgres.dialect import DIALECT
from retl.connectors.sql.merge import PreparedLoad
from retl.connectors.sql.statement import Statement, Step, query
from retl.connectors.sql.tables import ExistingTable, TableName
from retl.model.actions import Action, PreAction
from retl.model.embeddings import VectorIndex
from retl.model.errors import ConfigError, UnsupportedError
from retl.model.plan import WriteSpec
from retl.model.schema import native_type, vector_size

_WHOLE_DIMENSIONS = 2_000
"""An index on 32-bit numbers takes no more."""
_HALF_DIMENSIONS = 4_000
"""An index on 16-bit numbers takes no more."""
_TYPE = re.compile(r"(?:.+\.)?(vector|halfvec)(?:\((\d+)\))?")
_LONGEST_NAME = 63
_OPERATORS = {"cosine": "cosine", "l2": "l2", "inner_product": "ip"}
_INDEX = (
    "SELECT 1 FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS m ON m.oid = c.relam "
    "JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] "
    "WHERE i.indrelid = to_regclass({table}) AND i.indisvalid AND m.amname = {method} AND a.attname = {column}"
)


def declare_vector(dimensions: int) -> str:
    """The type of a new column: 16-bit numbers where no index would take 32-bit ones."""
    return f"{'vector' if dimensions <= _WHOLE_DIMENSIONS else 'halfvec'}({dimensions})"


def why_no_vectors(dimensions: int, stored: str) -> str | None:
    """Why an existing column cannot hold vectors; ``None`` if it can."""
    found = _TYPE.fullmatch(stored)
    if found is None:
        return None if stored in ("text", "jsonb") else "it holds no vectors"
    return None if found[2] in (None, str(dimensions)) else f"it holds vectors of {found[2]} dimensions"


def check(spec: WriteSpec, existing: ExistingTable | None) -> Step[None]:
    """Refuse vectors where pgvector is missing, and an index that it cannot make."""
    words = spec.table.embeddings
    if words is None or not any(vector_size(column) is not None for column in spec.schema):
        return
    if words.index is not None and words.dimensions > _HALF_DIMENSIONS:
        raise UnsupportedError(
            f"pgvector has no index for vectors of more than {_HALF_DIMENSIONS:,} dimensions.",
            remedy="ask for shorter vectors with dimensions and shorten = true, or leave index out.",
        )
    if existing is not None and words.into in existing.columns.names:
        return  # its type is there, whatever it is
    declared = declare_vector(words.dimensions).partition("(")[0]
    ((there, available),) = yield query(
        f"SELECT to_regtype('{declared}') IS NOT NULL, EXISTS (SELECT 1 FROM pg_available_extensions WHERE name = 'vector')"
    )
    if not there:
        remedy = (
            "CREATE EXTENSION vector" if available else "install pgvector on the server, then CREATE EXTENSION vector"
        )
        raise ConfigError(
            f"the database has no type {declared}.", remedy=f"{remedy}; its schema must be on the search path."
        )


def make_index(load: PreparedLoad) -> Step[None]:
    """The index over the vectors, if it was asked for and the table has none of its kind."""
    words = load.spec.table.embeddings
    column = load.columns.get(words.into) if words is not None else None
    if words is None or words.index is None or column is None or Action.CREATE in load.spec.blacklist:
        return
    asked = {"table": load.target.sql, "method": words.index.method, "column": column}
    quoted = {name: DIALECT.string(text) for name, text in asked.items()}
    if not (yield query(_INDEX.format(**quoted))):
        ((there,),) = yield query(f"SELECT to_regclass({quoted['table']}) IS NOT NULL")
        # A mirror changes the rows of the table, if there is one; any other shadow becomes the table.
        table = load.target if there and load.spec.table.pre_action is not PreAction.SWAP else load.loaded
        stored = native_type(load.existing.columns.field(column))
        name = yield from _free_name(load.target, column)
        yield Statement(_create(words.index, name, table.sql, column, stored))


def _free_name(target: TableName, column: str) -> Step[str]:
    """The name that the server would choose, though the index may be made before its table has its own; else any."""
    name = f"{target.name}_{column}_idx"
    if len(name.encode()) > _LONGEST_NAME:
        return ""
    ((free,),) = yield query(f"SELECT to_regclass({DIALECT.string(target.beside(name).sql)}) IS NULL")
    return f"{DIALECT.identifier(name)} " if free else ""


def _create(index: VectorIndex, name: str, table: str, column: str, stored: str) -> str:
    found = _TYPE.fullmatch(stored)
    kind = found[1] if found else "vector"
    operators = f"{kind}_{_OPERATORS[index.distance]}_ops"
    options = ", ".join(f"{DIALECT.identifier(name)} = {value:d}" for name, value in index.options.items())
    given = f" WITH ({options})" if options else ""
    return f"CREATE INDEX {name}ON {table} USING {index.method} ({DIALECT.identifier(column)} {operators}){given}"
