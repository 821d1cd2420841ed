"""Which columns of a table are read: what a table's words choose, checked against what there is."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import pyarrow as pa

from retl.model.errors import ConfigError
from retl.model.schema import missing
from retl.model.table import TableSpec


def choose_columns(table: TableSpec, known: pa.Schema, key: Sequence[str]) -> tuple[str, ...]:
    """The columns to read, under the source's names. Raises ``ConfigError`` for words that name others."""
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
