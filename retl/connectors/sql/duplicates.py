"""Of staged rows with one key keep the newest: the one with the highest cursor."""

from __future__ import annotations

from collections.abc import Sequence

from retl.connectors.rows.keys import repeated_key
from retl.connectors.rows.text import json_text
from retl.connectors.sql.dialect import Dialect
from retl.connectors.sql.loader import Stage
from retl.connectors.sql.statement import Step, query
from retl.model.plan import WriteSpec


class Duplicates:
    """The duplicate keys of a stage. Rows of one key that are equal in everything count as one.

    ``identity`` are expressions that are equal in rows of one key. No statement names the stage
    twice, since some systems cannot open a temporary table twice.
    """

    def __init__(self, dialect: Dialect, spec: WriteSpec, stage: Stage, identity: Sequence[str]) -> None:
        self._dialect = dialect
        self._spec = spec
        self._stage = stage
        self._identity = list(identity)

    def keep_newest(self) -> Step[int]:
        """Remove all rows of a key but the newest; returns how many. Raises ``RepeatedKey`` if nothing tells which it is."""
        if not (yield query(self._any())):
            return 0
        for (row,) in (yield query(self._doubtful())):
            (found,) = yield from self._stage.rows(f"{self._stage.row} = {row}")
            shown = json_text({name: found[name] for name in self._spec.key})
            raise repeated_key(self._spec.key, shown, self._spec.unread_cursor)
        return (yield from self._stage.remove(self._older()))

    @property
    def _key(self) -> str:
        return ", ".join(self._identity)

    @property
    def _newest_first(self) -> str:
        """Without a cursor all rows of a key are the newest: they are ordered by what is the same in all of them."""
        cursor = self._spec.cursor
        return f"{self._stage.names[cursor]} {self._dialect.newest_first}" if cursor else self._key

    def _any(self) -> str:
        return f"SELECT 1 FROM {self._stage.table} GROUP BY {self._key} HAVING COUNT(*) > 1 LIMIT 1"

    def _doubtful(self) -> str:
        """Finds a key with several newest rows that differ."""
        keys = {f"retl_k{number}": value for number, value in enumerate(self._identity)}
        content = self._dialect.content(list(self._stage.names.values()))
        values = keys | {f"retl_c{number}": value for number, value in enumerate(content)}
        newest = f"({self._ranked('RANK', values)}) AS ranked WHERE retl_place = 1"
        names = ", ".join(keys)
        different = f"SELECT MIN(retl_r) AS retl_r, {names} FROM {newest} GROUP BY {', '.join(values)}"
        return f"SELECT MIN(retl_r) FROM ({different}) AS different GROUP BY {names} HAVING COUNT(*) > 1 LIMIT 1"

    def _older(self) -> str:
        """The numbers of all rows but one of each key."""
        return f"SELECT retl_r FROM ({self._ranked('ROW_NUMBER', {})}) AS ranked WHERE retl_place > 1"

    def _ranked(self, how: str, values: dict[str, str]) -> str:
        order = f"{self._newest_first}, {self._stage.row}" if how == "ROW_NUMBER" else self._newest_first
        taken = "".join(f", {value} AS {name}" for name, value in values.items())
        place = f"{how}() OVER (PARTITION BY {self._key} ORDER BY {order}) AS retl_place"
        return f"SELECT {self._stage.row} AS retl_r{taken}, {place} FROM {self._stage.table}"
