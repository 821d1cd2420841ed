"""A table as its user declares it (``Table``) and as the engine runs it (``TableSpec``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec
import pyarrow as pa

from retl.model.actions import Action, PreAction, Write, check_blacklist
from retl.model.documents import ChunkRules, Chunks, chunk_rules
from retl.model.duration import Duration, parse_duration
from retl.model.embeddings import EMBEDDED_SLICE_ROWS, Embeddings
from retl.model.errors import ConfigError
from retl.model.files import NO_FILES, FileRules, FileWords, file_rules
from retl.model.hooks import own_statements
from retl.model.naming import Naming, named_after
from retl.model.options import DEFAULT_SLICE_ROWS, LostTarget, NewColumns, NullCursor, TableOptions
from retl.model.params import check_params
from retl.model.range import CursorRange
from retl.model.typed import check_types, did_you_mean

PATH = msgspec.Meta(extra={"path": True})
"""Marks the path of a file: a relative one in a job file is taken from its folder."""


class _Mapping(FileWords, kw_only=True, frozen=True, forbid_unknown_fields=True):
    match: str | None = None
    """A pattern such as ``ods_*`` that stands for every source table it matches."""
    interval: Duration | Literal["manual"] | None = None
    """The time between two scans of this table, or ``"manual"``: only when triggered. That of the pipeline when unset."""
    cron: str | None = None
    """A cron expression for this table alone, in place of ``interval``; in the time zone of the pipeline."""
    query: str | None = None
    """A SELECT of the source's own SQL to read in place of a table; ``name`` then names the result."""
    query_file: Annotated[str, PATH] | None = None
    """A file with such a SELECT, of at most 1 MiB; read when the table is declared. ``:name`` in it is a parameter."""
    params: Mapping[str, Any] | None = None
    """The values of the query's parameters: text, numbers, true or false, dates, and lists of them for ``IN (:names)``."""
    to: str | None = None
    """The target's name; with ``match`` it may hold ``{name}``. The source's name when unset."""
    key: str | Sequence[str] | None = None
    """Columns (by their source names) that identify a row; the source's primary key when unset."""
    columns: Sequence[str] | None = None
    """Source columns to read; all when unset."""
    exclude: Sequence[str] | None = None
    """Source columns to leave out: all but these are read. Not together with ``columns``."""
    rename: Mapping[str, str] | None = None
    """Source column to target column."""
    expressions: Mapping[str, str] | None = None
    """Column to an expression of the source's own language that computes it."""
    where: str | None = None
    """A row filter in the source's own language."""
    format: str | Mapping[str, Any] | None = None
    """How to read the source's files, such as ``"documents"`` or ``{ type = "csv", header = false }``; for file sources only."""
    chunks: Chunks | None = None
    """Cut the text of each row into chunks, each a row of the target."""
    embeddings: Embeddings | None = None
    """Give the texts of a column vectors."""
    before_sql: str | Sequence[str] | None = None
    """Statements of the target's own SQL, one an entry, before a scan changes its table: in the transaction that prepares it."""
    after_sql: str | Sequence[str] | None = None
    """The same at the end of a scan: in the transaction that switches a table, and saves that the scan is done."""


class _Declared(msgspec.StructMeta):
    """A declaration that fails where it is written, and not where a pipeline takes it."""

    if not TYPE_CHECKING:  # which know the words of a struct by themselves

        def __call__(cls, *values: Any, **words: Any) -> Any:
            for unknown in words.keys() - {*cls.__struct_fields__}:
                hint = did_you_mean(unknown, cls.__struct_fields__)
                raise TypeError(f"{cls.__name__}() got an unexpected keyword argument {unknown!r}{hint}")
            made = super().__call__(*values, **words)
            try:
                check_options(made)
            except ConfigError as error:
                error.with_context(table=str(made.name or made.match or ""))
                raise
            return made


class Table(_Mapping, frozen=True, forbid_unknown_fields=True, metaclass=_Declared):
    """One thing to sync, or with ``match`` many, and how it maps to the target."""

    name: str | None = None
    """The table's name in the source: a table, ``schema.table``, an index, a path."""


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One concrete table of a pipeline, every default applied and every rule checked."""

    name: str
    to: str
    query: str | None = None
    params: Mapping[str, Any] | None = None
    """The values of the query's parameters; ``None`` if a colon begins none."""
    key: tuple[str, ...] = ()
    cursor: str | None = None
    lookback: timedelta | int = timedelta()
    settle: timedelta | None = None
    null_cursor: NullCursor = "warn"
    columns: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    expressions: Mapping[str, str] = field(default_factory=dict)
    where: str | None = None
    pre_action: PreAction = PreAction.NONE
    keep_archives: int | None = None
    max_shrink: float | None = None
    max_rejects: int = 0
    """How many rejects a scan may have; the engine computes a share before the target sees it."""
    max_reject_share: float | None = None
    """The share of a scan's rows that may be rejects, if it was given as one."""
    lost_target: LostTarget = "fail"
    write: Write = Write.UPSERT
    new_columns: NewColumns = "add"
    slice_rows: int = DEFAULT_SLICE_ROWS
    format: Mapping[str, Any] = field(default_factory=dict)
    files: FileRules = NO_FILES
    """What the words of files ask for."""
    range: CursorRange | None = None
    """The part of the cursor's values that this scan reads, and no other: a backfill. ``None`` for a window from the watermark on."""
    existing: pa.Schema | None = None
    """The columns of the target's table, for a source whose own have no types: files of text."""
    scope: str | None = None
    """The target's column by which each slice replaces its own rows: what ``truncate`` means for files."""
    chunks: ChunkRules | None = None
    """How the text of each row is cut into chunks, if it is."""
    embeddings: Embeddings | None = None
    """Which texts are given vectors, and by which model."""
    before_sql: tuple[str, ...] = ()
    """Statements that the target runs before a scan changes its table."""
    after_sql: tuple[str, ...] = ()
    """Statements that the target runs with the end of a scan."""
    documents: bool = False
    """Whether the target takes documents whole, so that a source of documents need not split them into columns."""

    @property
    def full(self) -> bool:
        """Whether every scan reads everything."""
        return self.cursor is None

    @property
    def replaces(self) -> bool:
        """Whether a scan replaces the whole content of the target."""
        return self.pre_action is not PreAction.NONE

    def target_name(self, column: str) -> str:
        """The target's name of a source column."""
        return self.rename.get(column, column)


def parse_share(value: str | float | None, what: str = "max_shrink") -> float | None:
    """``"50%"`` or ``0.5`` as a share between 0 and 1. Raises ``ConfigError`` otherwise."""
    if value is None:
        return None
    try:
        share = float(value.removesuffix("%")) / 100 if isinstance(value, str) else float(value)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1 or (isinstance(value, str) and not value.strip().endswith("%")):
        raise ConfigError(
            f"{what} is {value!r}, which is not a share between 0 and 1.", remedy='write "50%", or 0.5 as a number.'
        )
    return share


def is_pattern(table: Table) -> bool:
    """Whether the declaration stands for the tables that its ``match`` finds."""
    return table.match is not None


def check_options(options: TableOptions) -> None:
    """Raise ``ConfigError`` for a value that is wrong for every table, even one that does not use it."""
    check_types(options)
    if options.lookback is not None:
        _lookback(options.lookback)
    if options.settle is not None:
        parse_duration(options.settle, what="settle")
    for option, words in (
        ("null_cursor", get_args(NullCursor)),
        ("pre_action", PreAction),
        ("lost_target", get_args(LostTarget)),
        ("write", Write),
        ("new_columns", get_args(NewColumns)),
    ):
        if (value := getattr(options, option)) is not None:
            _word(option, value, words)
    parse_share(options.max_shrink)
    if isinstance(options.max_rejects, str):
        parse_share(options.max_rejects, "max_rejects")


def check_declaration(table: Table) -> None:
    """Raise ``ConfigError`` for what is wrong whatever the source has."""
    if (table.name is None) == (table.match is None):
        raise ConfigError(
            "a table needs either a name or a match pattern."
            if table.name is None
            else f"table {table.name!r} has a name and a match pattern.",
            remedy='give name = "orders" or match = "ods_*", not both.',
        )
    if table.match is not None and (table.query is not None or table.query_file is not None):
        raise ConfigError("a query cannot be read for a match pattern.", remedy="give the query's table a name.")
    check_params(table.params, query=table.query is not None or table.query_file is not None)
    if table.match is not None and table.to is not None and "{name}" not in table.to:
        raise ConfigError(
            f"every table that {table.match!r} matches would be written to {table.to!r}.",
            remedy='put {name} into it, such as to = "copy_{name}".',
        )


def resolve(
    table: Table,
    name: str,
    defaults: TableOptions,
    blacklist: frozenset[Action],
    *,
    inherited_cursor: str | None,
    naming: Naming = Naming(),  # noqa: B008  # frozen
    by_file: bool = False,
) -> TableSpec:
    """Apply a pipeline's defaults to one table and check that the words fit together.

    ``inherited_cursor`` is the pipeline's cursor where this table has that column. ``by_file``: the source reads files.
    Raises ``ConfigError``.
    """
    try:
        spec = _resolve(table, name, defaults, inherited_cursor, naming)
        check_blacklist(blacklist, spec.pre_action, spec.write, keep_archives=spec.keep_archives, by_file=by_file)
        return spec
    except ConfigError as error:
        error.with_context(table=name)
        raise


def _resolve(
    table: Table,
    name: str,
    defaults: TableOptions,
    inherited_cursor: str | None,
    naming: Naming,
) -> TableSpec:
    def setting(option: str, fallback: Any) -> Any:
        for owner in (table, defaults):
            value = getattr(owner, option)
            if value is not None:
                return value
        return fallback

    if table.cursor is not None and table.cursor is not False and not (table.cursor and isinstance(table.cursor, str)):
        raise ConfigError(f"cursor is {table.cursor!r}.", remedy="name a column, or write false for a full refresh.")
    for option in ("columns", "exclude"):
        given = getattr(table, option)
        if isinstance(given, str):
            raise ConfigError(f"{option} is the text {given!r}.", remedy=f'write a list, such as ["{given}"].')
    if table.columns is not None and table.exclude:
        raise ConfigError(
            "columns and exclude exclude each other: one lists what is read, the other what is not.",
            remedy="keep one of them.",
        )
    cursor = inherited_cursor if table.cursor is None else (table.cursor or None)
    pre_action = PreAction(_word("pre_action", setting("pre_action", PreAction.NONE), PreAction))
    if cursor is not None and pre_action is not PreAction.NONE:
        if table.cursor is None and table.pre_action is not None:
            cursor = None  # the table's own word is stronger than the pipeline's cursor
        elif table.pre_action is None and table.cursor is not None:
            pre_action = PreAction.NONE
        else:
            raise ConfigError(
                f'cursor = "{cursor}" and pre_action = "{pre_action}" exclude each other: '
                "the target would be emptied and only the last window loaded.",
                remedy='for an incremental table use pre_action = "none"; for a full refresh use cursor = false.',
            )
    write = Write(_word("write", setting("write", Write.UPSERT), Write))
    keep_archives = table.keep_archives
    if keep_archives is None and pre_action is PreAction.RENAME_AND_CREATE:
        keep_archives = defaults.keep_archives
    max_rejects = setting("max_rejects", 0)
    settle = setting("settle", None)
    lookback = _lookback(setting("lookback", 0)) if cursor else timedelta()
    format_words = {"type": table.format} if isinstance(table.format, str) else dict(table.format or {})
    spec = TableSpec(
        name=name,
        to=target_name(table, name, naming),
        query=table.query,
        params=None if table.params is None else dict(table.params),
        key=(table.key,) if isinstance(table.key, str) else tuple(table.key or ()),
        cursor=cursor,
        lookback=lookback,
        settle=parse_duration(settle, what="settle") if settle is not None and cursor else None,
        null_cursor=_word("null_cursor", setting("null_cursor", "warn"), get_args(NullCursor)),
        columns=tuple(table.columns) if table.columns is not None else None,
        exclude=tuple(table.exclude or ()),
        rename=dict(table.rename or {}),
        expressions=dict(table.expressions or {}),
        where=table.where,
        pre_action=pre_action,
        keep_archives=keep_archives,
        max_shrink=parse_share(setting("max_shrink", None)),
        max_rejects=0 if isinstance(max_rejects, str) else max_rejects,
        max_reject_share=parse_share(max_rejects, "max_rejects") if isinstance(max_rejects, str) else None,
        lost_target=_word("lost_target", setting("lost_target", "fail"), get_args(LostTarget)),
        write=write,
        new_columns=_word("new_columns", setting("new_columns", "add"), get_args(NewColumns)),
        slice_rows=setting("slice_rows", DEFAULT_SLICE_ROWS if table.embeddings is None else EMBEDDED_SLICE_ROWS),
        format=format_words,
        files=file_rules(table, documents=format_words.get("type") == "documents"),
        chunks=chunk_rules(table.chunks),
        embeddings=table.embeddings,
        before_sql=own_statements("before_sql", table.before_sql),
        after_sql=own_statements("after_sql", table.after_sql),
    )
    _check_words(spec)
    return spec


def _word(option: str, value: Any, allowed: Iterable[str]) -> Any:
    words = list(allowed)
    if value not in words:
        raise ConfigError(f"unknown {option} {value!r}.", remedy=f"use one of {', '.join(words)}.")
    return value


def _lookback(value: Any) -> timedelta | int:
    if isinstance(value, int) and not isinstance(value, bool):
        # A whole number is units of an integer cursor, or seconds of a time cursor.
        if value < 0:
            raise ConfigError(f"lookback is {value!r}, but it cannot be negative.")
        return value
    return parse_duration(value, what="lookback")


def _check_words(spec: TableSpec) -> None:
    for word, value, least in (
        ("slice_rows", spec.slice_rows, 1),
        ("max_rejects", spec.max_rejects, 0),
        ("keep_archives", spec.keep_archives if spec.keep_archives is not None else 1, 1),
    ):
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"{word} is {value!r}, but it must be a whole number.")
        if value < least:
            raise ConfigError(f"{word} is {value}, but it must be at least {least}.")
    if spec.keep_archives is not None and spec.pre_action is not PreAction.RENAME_AND_CREATE:
        raise ConfigError(
            'keep_archives has a meaning only with pre_action = "rename_and_create".', remedy="remove keep_archives."
        )
    if len(set(spec.key)) != len(spec.key):
        raise ConfigError(f"the key names a column twice: {', '.join(spec.key)}.")
    if spec.columns is not None:
        if not spec.columns:
            raise ConfigError("columns is empty: there would be nothing to read.")
        if len(set(spec.columns)) != len(spec.columns):
            raise ConfigError(f"columns names a column twice: {', '.join(spec.columns)}.")
        targets = [spec.target_name(column) for column in spec.columns]
        twice = sorted({name for name in targets if targets.count(name) > 1})
        if twice:
            raise ConfigError(
                f"two columns would be written to {', '.join(twice)}.",
                remedy="give each a target name of its own in rename.",
            )
    if len(set(spec.rename.values())) != len(spec.rename):
        raise ConfigError("rename gives two columns the same target name.")
    if spec.write is Write.APPEND:
        if spec.replaces:
            raise ConfigError(
                f'write = "append" has no meaning with pre_action = "{spec.pre_action}", which replaces the table.',
                remedy="remove one of them.",
            )
        if spec.cursor is not None and spec.lookback:
            raise ConfigError(
                'lookback reads rows again, and write = "append" would double them.',
                remedy="give the table a key and upsert, or remove lookback and use settle.",
            )
        if spec.cursor is not None and not spec.settle:
            raise ConfigError(
                'write = "append" with a cursor needs settle: without it a row that arrives with the same cursor value '
                "as the last one would be missed or doubled.",
                remedy='say how old a row must be before it is complete, such as settle = "10s", or upsert by a key.',
            )


def target_name(table: Table, name: str, naming: Naming = Naming()) -> str:  # noqa: B008  # frozen
    """The name in the target: ``to``, or the source's name without schema, folder and endings."""
    if table.to is not None and table.match is None:
        return table.to
    return named_after(table.to or "{name}", name, naming)
