"""Make a target table fit: what to create, to add, to refuse. No I/O."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import pyarrow as pa

from retl.connectors.sql.dialect import Dialect
from retl.model.actions import Action, PreAction, Write
from retl.model.errors import ConfigError, SchemaDrift
from retl.model.plan import WriteSpec
from retl.model.schema import native_type

_ARCHIVE_DIGITS = 20
_EPOCH_DIGITS = 10
_DIGEST_DIGITS = 8
_SHADOW, _STAGE = "_retl_new_", "_retl_stage_"
_FRESH_SECONDS = 1.0
"""Maximum age of what the next step may use: somebody may change the table at any time."""

T = TypeVar("T")


@dataclass(frozen=True)
class TableName:
    """A table's name in its schema, as the system spells it."""

    name: str
    schema: str | None
    dialect: Dialect = field(compare=False, repr=False)

    @property
    def sql(self) -> str:
        """The name as it stands in SQL, each part quoted."""
        parts = (self.schema, self.name)
        return ".".join(self.dialect.identifier(part) for part in parts if part is not None)

    def beside(self, name: str) -> TableName:
        """Another table in the same schema."""
        return replace(self, name=name)


@dataclass(frozen=True)
class ExistingTable:
    """A table of the target as it is. ``keys`` are all sets of columns that are unique together."""

    columns: pa.Schema
    keys: tuple[frozenset[str], ...] = ()
    required: frozenset[str] = frozenset()
    """Columns that every new row must give: NOT NULL without a default."""
    generated: frozenset[str] = frozenset()
    name: TableName | None = None
    """Its name as the system spells it."""
    collates: bool = False
    """Whether it may call different keys equal."""
    indexed: frozenset[str] = frozenset()
    """Columns with which an index begins that finds all rows of a value."""
    owner: str | None = None
    """Who alone may create an index, unless the user may."""

    def spelled(self, names: Sequence[str], dialect: Dialect) -> ExistingTable:
        """The same table with its columns spelled as in ``names``, if the system calls the names equal."""
        spelling = {dialect.fold(name): name for name in names}

        def spell(found: Iterable[str]) -> frozenset[str]:
            return frozenset(spelling.get(dialect.fold(name), name) for name in found)

        columns = [column.with_name(spelling.get(dialect.fold(column.name), column.name)) for column in self.columns]
        keys = tuple(map(spell, self.keys))
        return replace(
            self,
            columns=pa.schema(columns),
            keys=keys,
            required=spell(self.required),
            generated=spell(self.generated),
            indexed=spell(self.indexed),
        )


def real_key(existing: ExistingTable) -> tuple[str, ...]:
    """The first unique key whose columns cannot be NULL."""
    strict = {column.name for column in existing.columns if not column.nullable}
    for key in existing.keys:
        if key <= strict:
            return tuple(name for name in existing.columns.names if name in key)
    return ()


class Recent(Generic[T]):
    """What a step of a scan has found of each table, for the next step, which comes a moment later.

    It is used once, and only soon; else its table is looked at again.
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, T]] = {}

    def put(self, table: str, found: T) -> None:
        self._found[table] = time.monotonic(), found

    def take(self, table: str) -> T | None:
        since, found = self._found.pop(table, (-_FRESH_SECONDS, None))
        return found if time.monotonic() - since < _FRESH_SECONDS else None


class TypeMap(ABC):
    """How a target stores Arrow's types."""

    @abstractmethod
    def declare(self, column: pa.Field, *, in_key: bool) -> str:
        """The column type for a new table. Raises ``ConfigError`` if no type is lossless."""

    @abstractmethod
    def why_incompatible(self, column: pa.Field, existing: pa.Field) -> str | None:
        """Why a column cannot be stored without loss in an existing one; ``None`` if it can."""


@dataclass(frozen=True)
class TableChange:
    """The changes of a target table before rows can be written."""

    columns: tuple[str, ...]
    """The columns that will be written, in the batches' order."""
    create: bool
    definitions: tuple[str, ...]
    """Column definitions and the primary key, for a table that is created."""
    added: tuple[str, ...]
    """Column definitions to add to the existing table."""
    casts: tuple[str, ...]
    warnings: tuple[str, ...]
    declared: tuple[str, ...] = ()
    """The target's types of ``columns``."""
    options: str = ""
    """What follows the definitions."""
    indexed: tuple[str, ...] = ()
    """Columns, as they stand in SQL, that need an index and have none."""
    dialect: Dialect | None = None
    """How their indexes are made."""

    def ddl(self, name: str) -> list[str]:
        """The DDL that makes a table fit, given by its quoted name."""
        indexes = [self.dialect.create_index(name, column) for column in self.indexed] if self.dialect else []
        return [*self._table(name), *indexes]

    def _table(self, name: str) -> list[str]:
        if self.create:
            return [f"CREATE TABLE {name} ({', '.join(self.definitions)}){self.options}"]
        return [f"ALTER TABLE {name} ADD COLUMN {definition}" for definition in self.added]


def fit(spec: WriteSpec, existing: ExistingTable | None, dialect: Dialect, types: TypeMap) -> TableChange:
    """Decide how to make the target table fit.

    Raises ``ConfigError`` and ``SchemaDrift`` with the reason and what to do.
    """
    check_key(spec)
    _check_names(spec, dialect)
    if existing is None:
        return _new(spec, dialect, types)
    return _fitted(spec, existing.spelled(spec.schema.names, dialect), dialect, types)


def _check_names(spec: WriteSpec, dialect: Dialect) -> None:
    """Two columns that the source tells apart may have one name in the target."""
    seen: dict[str, str] = {}
    for name in spec.schema.names:
        other = seen.setdefault(dialect.fold(name), name)
        if other != name:
            raise ConfigError(
                f"the columns {other!r} and {name!r} have one name in the target, which does not tell large letters from small.",
                remedy="rename one of them, or leave it out with exclude.",
            )


def check_key(spec: WriteSpec) -> None:
    """An upsert needs to know which rows are the same."""
    if spec.key:
        return
    if spec.table.pre_action is PreAction.MIRROR:
        raise ConfigError(
            'the table has no usable key, and pre_action = "mirror" compares the rows of source and target by one.',
            remedy='name the columns that identify a row in key, or use pre_action = "swap".',
        )
    if spec.table.write is Write.APPEND or spec.table.replaces:
        return
    raise ConfigError(
        "the table has no usable key: the source declares none and key is not set, so rows could not be told apart.",
        remedy='name the columns that identify a row in key, or take every row as new with write = "append".',
    )


def _definition(column: pa.Field, dialect: Dialect, types: TypeMap, *, in_key: bool, strict: bool = True) -> str:
    required = " NOT NULL" if strict and (in_key or not column.nullable) else ""
    return f"{dialect.identifier(column.name)} {types.declare(column, in_key=in_key)}{required}"


def _new(spec: WriteSpec, dialect: Dialect, types: TypeMap) -> TableChange:
    if Action.CREATE in spec.blacklist:
        raise ConfigError(
            f"the target has no table {spec.table.to!r}, and the blacklist forbids CREATE.",
            remedy="create the table yourself, or take CREATE off the blacklist.",
        )
    definitions = [_definition(column, dialect, types, in_key=column.name in spec.key) for column in spec.schema]
    declared = tuple(types.declare(column, in_key=column.name in spec.key) for column in spec.schema)
    if spec.key and (spec.table.write is not Write.APPEND or spec.table.scope is not None):
        definitions.append(f"PRIMARY KEY ({dialect.identifiers(spec.key)})")
    return TableChange(
        columns=tuple(spec.schema.names),
        create=True,
        definitions=tuple(definitions),
        added=(),
        casts=_casts(spec.schema, declared),
        warnings=(),
        declared=declared,
        options=dialect.table_options,
    )


def _fitted(spec: WriteSpec, existing: ExistingTable, dialect: Dialect, types: TypeMap) -> TableChange:
    known = {column.name: column for column in existing.columns}
    warnings: list[str] = []
    columns: list[str] = []
    added: list[str] = []
    declared: list[str] = []
    for column in spec.schema:
        there = known.get(column.name)
        if column.name in existing.generated:
            warnings.append(f"column {column.name!r} is computed by the target itself and is not written.")
            continue
        if there is None:
            if not _takes_new(spec, column.name, warnings):
                continue
            # Existing rows have no value for it, so it cannot be NOT NULL.
            added.append(_definition(column, dialect, types, in_key=False, strict=False))
            declared.append(types.declare(column, in_key=False))
        else:
            problem = types.why_incompatible(column, there)
            if problem is not None:
                raise SchemaDrift(
                    f"column {column.name!r} of the source is {native_type(column)}, but the target's is {native_type(there)}: {problem}.",
                    remedy="change the target's column, leave the column out with columns, or convert it with expressions.",
                )
            declared.append(native_type(there))
        columns.append(column.name)
    _check_required(spec, existing, columns)
    _check_unique(spec, existing)
    chosen = pa.schema([spec.schema.field(name) for name in columns])
    casts = _casts(chosen, declared)
    return TableChange(tuple(columns), False, (), tuple(added), casts, tuple(warnings), tuple(declared))


def _takes_new(spec: WriteSpec, name: str, warnings: list[str]) -> bool:
    """Whether a column that the target lacks is added to it."""
    policy = spec.table.new_columns
    if policy == "fail":
        raise SchemaDrift(
            f'the source has the column {name!r}, which the target table {spec.table.to!r} lacks, and new_columns is "fail".',
            remedy='add the column yourself, or choose new_columns = "add" or "ignore".',
        )
    if name in spec.key:
        raise SchemaDrift(
            f"the target table {spec.table.to!r} lacks the key column {name!r}.",
            remedy="name another target table with to, or another key.",
        )
    if policy == "add" and Action.ALTER not in spec.blacklist:
        return True
    reason = 'new_columns is "ignore"' if policy == "ignore" else "the blacklist forbids ALTER"
    warnings.append(f"the target lacks the column {name!r}; it is left out, since {reason}.")
    return False


def _check_required(spec: WriteSpec, existing: ExistingTable, columns: Sequence[str]) -> None:
    absent = sorted(existing.required - set(columns))
    if absent and Action.INSERT not in spec.blacklist:
        raise ConfigError(
            f"the target table {spec.table.to!r} demands a value for {', '.join(absent)}, which the source does not give.",
            remedy="give the column a default, allow NULL in it, or compute it with expressions.",
        )


def _check_unique(spec: WriteSpec, existing: ExistingTable) -> None:
    """ON CONFLICT needs a unique index over just the key."""
    mirrors = spec.table.pre_action is PreAction.MIRROR
    if not mirrors and (spec.table.write is Write.APPEND or spec.table.replaces):
        return
    if frozenset(spec.key) not in existing.keys:
        raise ConfigError(
            f"the target table {spec.table.to!r} has no primary key or unique index over ({', '.join(spec.key)}).",
            remedy=f"create one there, such as: CREATE UNIQUE INDEX ... ON {spec.table.to} ({', '.join(spec.key)}).",
        )


def _casts(schema: pa.Schema, declared: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        f"{column.name}: {native_type(column)} -> {target}"
        for column, target in zip(schema, declared, strict=True)
        if native_type(column).upper() != target.upper()
    )


def shadow_name(table: str, pipeline: str, epoch: int, *, longest: int | None = None) -> str:
    """The table that a swap loads before it is switched in; the epoch keeps two owners apart.

    A hash of the pipeline keeps two pipelines apart, and tells a shadow from whatever else has such a name.
    Where names have a length, ``longest`` in bytes, the table's own is shortened to fit, and told apart by a hash.
    """
    return f"{_own_start(_SHADOW, table, pipeline, longest)}{epoch}"


def is_shadow(name: str, table: str, pipeline: str, *, longest: int | None = None) -> bool:
    """Whether a table is a shadow that some scan of ``table`` by this pipeline left behind."""
    return _is_own(_SHADOW, name, table, pipeline, longest)


def stage_name(table: str, pipeline: str, epoch: int, *, longest: int | None = None) -> str:
    """The table in which rows are staged, in systems where that is an ordinary one. Named as a shadow is."""
    return f"{_own_start(_STAGE, table, pipeline, longest)}{epoch}"


def is_stage(name: str, table: str, pipeline: str, *, longest: int | None = None) -> bool:
    """Whether a table is one in which some scan of ``table`` by this pipeline staged rows."""
    return _is_own(_STAGE, name, table, pipeline, longest)


def _is_own(kind: str, name: str, table: str, pipeline: str, longest: int | None) -> bool:
    start = _own_start(kind, table, pipeline, longest)
    return name.startswith(start) and _are_digits(name[len(start) :])


def _own_start(kind: str, table: str, pipeline: str, longest: int | None) -> str:
    taken = len(kind) + len("__") + _DIGEST_DIGITS + _EPOCH_DIGITS
    return f"{kind}{short_name(table, longest, taken)}_{_digest(pipeline)}_"


def archive_name(table: str, scan_id: str, *, longest: int | None = None) -> str:
    """``A_arc_<timestamp>``: the time (UTC, microseconds) at which the refresh began."""
    digits = "".join(character for character in scan_id.split("-")[0] if character.isdigit())
    return f"{_archive_start(table, longest)}{digits}"


def is_archive(name: str, table: str, *, longest: int | None = None) -> bool:
    """Whether a table is an archive of ``table``, made by ``rename_and_create``."""
    start = _archive_start(table, longest)
    return name.startswith(start) and len(name) == len(start) + _ARCHIVE_DIGITS and _are_digits(name[len(start) :])


def _are_digits(text: str) -> bool:
    """Whether a text is all of 0 to 9; ``isdigit`` alone accepts the digits of every script."""
    return text.isascii() and text.isdigit()


def _archive_start(table: str, longest: int | None) -> str:
    return f"{short_name(table, longest, len('_arc_') + _ARCHIVE_DIGITS)}_arc_"


def short_name(table: str, longest: int | None, taken: int) -> str:
    """A table's name, cut so that ``taken`` more bytes fit into ``longest``."""
    name = table.encode()
    if longest is None or len(name) + taken <= longest:
        return table
    start = name[: longest - taken - _DIGEST_DIGITS - 1].decode(errors="ignore")
    return f"{start}_{_digest(table)}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_DIGITS]
