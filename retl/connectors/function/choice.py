"""Which columns of a user's rows are read, what they are called, and which of them is the cursor. No I/O."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from retl.connectors.function.shapes import join, learn, without_values
from retl.connectors.function.window import ReadWindow
from retl.model.cursor import cursor_family
from retl.model.errors import ConfigError, SourceError
from retl.model.schema import missing
from retl.model.table import TableSpec


def learnt(
    before: pa.Schema | None, sample: list[Mapping[str, Any]] | pa.Schema
) -> tuple[pa.Schema, bool, tuple[str, ...]]:
    """The columns, whether there is no row, and what people should know of it."""
    if isinstance(sample, pa.Schema):
        return join(before, sample), False, ()
    if not sample:
        if before is None:
            raise SourceError(
                "the function gave no row, so its columns cannot be known.", remedy="give IteratorSource a schema."
            )
        return before, True, ()
    if before is None:
        schema = learn(sample)
        blank = without_values(schema, sample)
    else:
        fresh = [{name: value for name, value in row.items() if name not in before.names} for row in sample]
        schema = join(before, learn(fresh))
        blank = []
    warning = f"no value was seen in {', '.join(blank)}, so that is taken as text; declare it with schema."
    return schema, False, (warning,) if blank else ()


def choose(table: TableSpec, known: pa.Schema, key: Sequence[str]) -> tuple[str, ...]:
    """The columns to read, under the function's names. Raises ``ConfigError`` for words that name none."""
    names = tuple(
        table.columns if table.columns is not None else [name for name in known.names if name not in table.exclude]
    )
    for word, wanted, have in (
        ("exclude", table.exclude, known.names),
        ("columns", names, known.names),
        ("rename", tuple(table.rename), names),
        ("key", table.key, names),
        ("the source's key", key, known.names),
        ("cursor", (table.cursor,) if table.cursor else (), known.names),
    ):
        absent = missing(wanted, have)
        if absent:
            close = difflib.get_close_matches(absent[0], have, n=1)
            raise ConfigError(
                f"{word} names {absent[0]!r}, which the rows do not have.",
                remedy=f"did you mean {close[0]!r}?" if close else f"they have {', '.join(have)}.",
            )
    targets = [table.target_name(name) for name in names]
    doubled = sorted({name for name in targets if targets.count(name) > 1})
    if doubled:
        raise ConfigError(
            f"two columns would have the name {doubled[0]!r} in the target.", remedy="rename one of them."
        )
    return names


def cursor_name(table: TableSpec, known: pa.Schema, names: Sequence[str]) -> str:
    """The cursor's name in the target. Raises ``ConfigError`` where the watermark could not be seen in the rows."""
    assert table.cursor is not None
    if table.cursor not in names:
        raise ConfigError(
            f"the cursor {table.cursor!r} is not among the columns that are read, so no watermark can be found.",
            remedy="add it to columns.",
        )
    kind = known.field(table.cursor).type
    if cursor_family(kind) is None:
        raise ConfigError(
            f"the cursor {table.cursor!r} is of type {kind}, which does not order change.",
            remedy="choose a column of time (or a whole number that only grows), or cursor = false for full scans.",
        )
    return table.target_name(table.cursor)


def call_text(window: ReadWindow) -> str:
    bounds = "".join(
        f", {word}={value!r}" for word, value in (("lower", window.lower), ("upper", window.upper)) if value
    )
    return f"read({window.table!r}{bounds})"
