"""Check server and table before anything is written: what is refused, and what a user should know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from retl.connectors.postgres.catalog import CatalogTable
from retl.connectors.postgres.dialect import DIALECT
from retl.connectors.postgres.facts import Facts, dependents, facts
from retl.connectors.postgres.scope import CHANGED_CHILDREN, check_children
from retl.connectors.sql.statement import Step
from retl.connectors.sql.tables import TableName
from retl.model.actions import Action, PreAction, Write
from retl.model.errors import ConfigError, UnsupportedError
from retl.model.plan import WriteSpec

_MOST_COLUMNS = 1_600
_SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
_KINDS = {"v": "view", "m": "materialised view", "f": "foreign table"}
_MIRROR = 'use pre_action = "mirror", which changes rows alone'
_EXCHANGES = (PreAction.SWAP, PreAction.RENAME_AND_CREATE)
_WITHOUT_EXCHANGE = ("CockroachDB", "YugabyteDB")


def check(spec: WriteSpec, name: TableName, known: CatalogTable | None) -> Step[list[str]]:
    """Warnings. Raises ``ConfigError`` for what the user lacks, ``UnsupportedError`` for what cannot work."""
    _check_names(spec)
    if known is not None:
        _check_kind(spec, known)
    exchanges = spec.table.pre_action in _EXCHANGES
    found = yield from facts(name, known, _needed(spec) if known else (), exchanges=exchanges)
    warnings = [*server_warnings(spec.table.pre_action, found)]
    _check_rights(spec, name, known, found)
    if known is None:
        return warnings
    _check_rules(spec, found)
    check_children(spec, known)
    warnings += _rows(spec, known, found)
    pre_action = spec.table.pre_action
    if pre_action in (*_EXCHANGES, PreAction.TRUNCATE):
        _check_children(spec, known)
    if exchanges:
        _check_exchange(spec, known, found)
        _check_owner(spec, known, found)
        _check_dependents(spec, (yield from dependents(known)))
        warnings += _exchange(spec, known, found)
    return warnings


def _check_names(spec: WriteSpec) -> None:
    """Refuse columns that no table can have."""
    names = spec.schema.names
    if len(names) > _MOST_COLUMNS:
        raise UnsupportedError(
            f"{len(names):,} columns are more than the {_MOST_COLUMNS:,} that PostgreSQL gives a table.",
            remedy="choose fewer with columns or exclude.",
        )
    for name in names:
        DIALECT.identifier(name)
        if name in _SYSTEM_COLUMNS:
            raise ConfigError(
                f"PostgreSQL has a column {name!r} of its own in every table.", remedy="rename the column."
            )


def _check_kind(spec: WriteSpec, known: CatalogTable) -> None:
    if known.kind in _KINDS:
        raise UnsupportedError(
            f"{spec.table.to!r} is a {_KINDS[known.kind]}, which cannot be written.", remedy="name a table with to."
        )
    if known.persistence == "t":
        raise UnsupportedError(
            f"{spec.table.to!r} is a temporary table, which other sessions cannot see.", remedy="name another table."
        )
    if known.partitions and known.kind == "r" and spec.table.replaces:
        raise UnsupportedError(
            f"{spec.table.to!r} has tables that inherit from it, such as {known.partitions[0]!r}, whose rows would be deleted too.",
            remedy='use pre_action = "none", or end the inheritance.',
        )


# The server -----------------------------------------------------------------


def server_warnings(pre_action: str, found: Facts) -> Iterator[str]:
    if not found.compares_rows:
        raise UnsupportedError(
            f"{found.product} lacks record_image_ne, by which retl tells changed rows.", remedy="use another target."
        )
    if found.product in _WITHOUT_EXCHANGE and pre_action in _EXCHANGES:
        raise UnsupportedError(
            f"{found.product} cannot lock a table for the moment in which another one replaces it.",
            remedy='use pre_action = "mirror".',
        )
    if found.product != "PostgreSQL":
        yield (
            f"the server is {found.product}, with which retl is not tested: unlogged tables, COPY, and ON CONFLICT must work as in "
            "PostgreSQL; transactions that it rolls back are tried again."
        )
    if found.is_replica:
        yield 'the server is a replica, and takes no rows: name the primary, or several hosts with target_session_attrs = "read-write".'
    elif found.read_only:
        yield "the server is read only now (default_transaction_read_only): is it the right one?"
    if found.encoding == "SQL_ASCII":
        yield "the database has the encoding SQL_ASCII: it stores UTF-8 and does not know, so length() counts bytes, for one."
    elif found.encoding != "UTF8":
        yield f"the database has the encoding {found.encoding}: rows with a character that it lacks are rejected."
    if found.replication_role != "origin":
        yield f"session_replication_role is {found.replication_role}: neither foreign keys nor usual triggers see what is written."


# Rights ---------------------------------------------------------------------


def _needed(spec: WriteSpec) -> tuple[str, ...]:
    """The rights on the table that a load needs."""
    rights = {
        PreAction.NONE: ("SELECT", "INSERT", "UPDATE"),
        PreAction.TRUNCATE: ("SELECT", "INSERT", "TRUNCATE"),
        PreAction.MIRROR: ("SELECT", "INSERT", "UPDATE", "DELETE"),
    }.get(spec.table.pre_action, ())
    if spec.table.scope is not None:
        rights = (*rights, "DELETE")
    updates = bool(spec.key) and spec.table.write is Write.UPSERT
    never = {action.value for action in spec.blacklist} | (set() if updates else {"UPDATE"})
    return tuple(right for right in rights if right not in never)


def _check_rights(spec: WriteSpec, name: TableName, known: CatalogTable | None, found: Facts) -> None:
    schema = found.schema or name.schema
    if not found.has_schema:
        raise ConfigError(
            f"the target has no schema {schema!r}." if schema else "no schema of the search path exists in the target.",
            remedy=f"create it there: CREATE SCHEMA {DIALECT.identifier(schema or 'public')}.",
        )
    grantee = DIALECT.identifier(found.user)
    if not found.may_create:
        raise ConfigError(
            f"the user {found.user!r} may not create tables in the schema {schema!r}, where rows are staged.",
            remedy=f"GRANT USAGE, CREATE ON SCHEMA {DIALECT.identifier(str(schema))} TO {grantee}.",
        )
    if known is None:
        return
    if found.lacks:
        rights = ", ".join(found.lacks)
        raise ConfigError(
            f"the user {found.user!r} lacks a right on {spec.table.to!r}: {rights}.",
            remedy=f"GRANT {rights} ON TABLE {known.name.sql} TO {grantee}.",
        )
    added = set(spec.schema.names) - {column.name for column in known.columns}
    if added and spec.table.new_columns == "add" and Action.ALTER not in spec.blacklist and not known.owned:
        raise ConfigError(
            f"only the owner of {spec.table.to!r}, {known.owner!r}, may add the column {min(added)!r}.",
            remedy=f'GRANT {DIALECT.identifier(known.owner)} TO {grantee}, add the column yourself, or use new_columns = "ignore".',
        )


def _check_owner(spec: WriteSpec, known: CatalogTable, found: Facts) -> None:
    """What only the owner of a table may do with it, and with what replaces it."""
    shown, owner, grantee = spec.table.to, DIALECT.identifier(known.owner), DIALECT.identifier(found.user)
    if not (known.owned and found.may_give):
        raise ConfigError(
            f"only the owner of {shown!r}, {known.owner!r}, may exchange it.",
            remedy=f"GRANT {owner} TO {grantee}, or {_MIRROR}.",
        )
    if not found.owner_may_create:
        raise ConfigError(
            f"the owner of {shown!r}, {known.owner!r}, may not create tables in its schema, so no other one could replace it.",
            remedy=f"GRANT CREATE ON SCHEMA {DIALECT.identifier(known.schema)} TO {owner}, or {_MIRROR}.",
        )
    if found.parents:
        raise ConfigError(
            f"the user {found.user!r} may not give another table the foreign key that {shown!r} has to {found.parents[0]}.",
            remedy=f"GRANT REFERENCES ON TABLE {found.parents[0]} TO {grantee}, or {_MIRROR}.",
        )
    if found.foreign_publications:
        raise ConfigError(
            f"the user {found.user!r} may not change the publication {found.foreign_publications[0]!r}, which names {shown!r} and "
            "would lose it.",
            remedy=f"make the user its owner, or {_MIRROR}.",
        )


# Rows -----------------------------------------------------------------------


def _rows(spec: WriteSpec, known: CatalogTable, found: Facts) -> Iterator[str]:
    """What happens to rows on their way into the table."""
    shown, mirrors = spec.table.to, spec.table.pre_action is PreAction.MIRROR
    if known.row_security and spec.table.pre_action not in _EXCHANGES:
        if mirrors or spec.table.scope is not None:
            raise UnsupportedError(
                f"row level security hides rows of {shown!r} from the user {found.user!r}, so they could neither be compared nor deleted.",
                remedy="give the user BYPASSRLS, or make it the owner of the table.",
            )
        yield (
            f"row level security of {shown!r} holds for the user {found.user!r}: rows that a policy forbids are rejected, and those "
            "that it hides are not updated."
        )
    if known.kind == "p" and not found.default_partition:
        yield f"{shown!r} is partitioned and has no default partition: rows that no partition takes are rejected."
    if found.triggers and spec.table.pre_action is not PreAction.SWAP:
        yield f"{shown!r} has triggers ({', '.join(found.triggers)}), which fire for what is written."
    for child in known.children if mirrors else ():
        if child.on_delete in CHANGED_CHILDREN:
            yield (
                f"a row that the source no longer has is deleted, and the foreign key {child.name!r} then "
                f"{CHANGED_CHILDREN[child.on_delete]} what refers to it in {child.table!r}."
            )


def _check_rules(spec: WriteSpec, found: Facts) -> None:
    """A rule rewrites what is written; ON CONFLICT even refuses to work beside one."""
    written = set(_needed(spec))
    rule = next((name for name, event in sorted(found.rules.items()) if event in written), None)
    if rule is not None:
        raise UnsupportedError(
            f"{spec.table.to!r} has the rule {rule!r}, which rewrites what is written.",
            remedy="make it a trigger, or drop it.",
        )


# To exchange a table --------------------------------------------------------


def _check_children(spec: WriteSpec, known: CatalogTable) -> None:
    others = [key for key in known.children if (key.schema, key.table) != (known.schema, known.table)]
    if others:
        raise UnsupportedError(
            f"{others[0].table!r} has a foreign key to {spec.table.to!r}, {others[0].name!r}, so it can be neither emptied nor exchanged.",
            remedy=f"{_MIRROR}; or drop the foreign key.",
        )


def _check_exchange(spec: WriteSpec, known: CatalogTable, found: Facts) -> None:
    """Refuse to exchange a table that is a part of something else, or made of others."""
    problem = next(_problems(known, found), None)
    if problem is not None:
        raise UnsupportedError(
            f"{spec.table.to!r} {problem}, so no other table can replace it.", remedy=f"{_MIRROR}, or another one."
        )


def _problems(known: CatalogTable, found: Facts) -> Iterator[str]:
    if found.special:
        yield f"is {found.special}"
    if known.kind == "p":
        yield "is partitioned"
    if known.is_partition:
        yield "is a partition"
    if found.inherits:
        yield f"inherits from {found.inherits!r}"
    if found.of_type:
        yield f"is made of the type {found.of_type!r}"
    if found.extension:
        yield f"belongs to the extension {found.extension!r}"
    if found.subscription:
        yield f"is written by the subscription {found.subscription!r}"
    if found.general_publications:
        yield (
            f"is published by {found.general_publications[0]!r} with all tables beside it, whose subscribers would meet the table "
            "that is loaded under another name"
        )
    if found.rules:
        yield f"has the rule {min(found.rules)!r}"


def _check_dependents(spec: WriteSpec, found: Sequence[tuple[str, str]]) -> None:
    """Refuse to leave on an archive, or to drop, what is bound to the table itself rather than to its name."""
    if found:
        shown = " and ".join(f"the {kind} {name}" for kind, name in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UnsupportedError(
            f"{shown}{more} would stay with the old {spec.table.to!r} when another table replaces it.",
            remedy=f"{_MIRROR}; or drop the {found[0][0]}.",
        )


def _exchange(spec: WriteSpec, known: CatalogTable, found: Facts) -> Iterator[str]:
    if found.publications:
        yield (
            f"{spec.table.to!r} is in the publication {found.publications[0]!r}: its subscribers keep the old rows, since they are told "
            'of no exchange; pre_action = "mirror" sends them the differences.'
        )
    if found.triggers and spec.table.pre_action is PreAction.SWAP:
        yield f"the triggers of {spec.table.to!r} ({', '.join(found.triggers)}) do not fire for the rows of a swap."
