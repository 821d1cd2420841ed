"""Rows that cannot be stored: those that a source marks in a column of their batch, and those that a target rejects."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from retl.connectors.rows.text import as_bytes, json_text, not_utf8
from retl.model.checkpoint import Reject, check_rejects
from retl.model.plan import WriteSpec

REJECT = "retl.reject"
"""The name of the column that ``with_rejects`` adds."""
_REJECT_TYPE = pa.struct([("column", pa.string()), ("reason", pa.string()), ("content", pa.string())])
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,19}")
_LONGEST_VALUE = 4_000
MOST_SHOWN = 100
"""How many rejects are looked for beyond what is allowed, so that people see more than the first."""


@dataclass(frozen=True, slots=True)
class RowReject:
    """Why a row that a source has read cannot be given to any target."""

    reason: str
    content: str
    """The row as text, for people: its JSON."""
    column: str = ""


def with_rejects(batch: pa.RecordBatch, rejects: Mapping[int, RowReject]) -> pa.RecordBatch:
    """A batch in which some rows, by their number, are rejects. Their other columns count for the key only."""
    if not rejects:
        return batch
    told = [rejects.get(number) for number in range(batch.num_rows)]
    values = [row and {"column": row.column, "reason": row.reason, "content": row.content} for row in told]
    schema = batch.schema.append(pa.field(REJECT, _REJECT_TYPE))
    return pa.RecordBatch.from_arrays([*batch.columns, pa.array(values, _REJECT_TYPE)], schema=schema)


class RejectCollector:
    """The rejects of one slice."""

    def __init__(self, spec: WriteSpec, *, called: tuple[str, str] = ("", "")) -> None:
        """``called``: a name in the system's reasons, and the one that people know."""
        self._spec = spec
        self._called = called
        self._whole = frozenset(column.name for column in spec.schema if pa.types.is_integer(column.type))
        self.rows: list[Reject] = []

    def add(self, row: dict[str, Any], reason: str, column: str = "") -> None:
        """Keep one row. Its key identifies it, or else its whole content."""
        # A source may send numbers as text; the identity of a row must not depend on that.
        row = {name: _number(value) if name in self._whole else value for name, value in row.items()}
        key = {name: row[name] for name in self._spec.key if name in row}
        content = json_text({name: _short(value) for name, value in row.items()})
        self.rows.append(
            Reject(
                table=self._spec.table.name,
                key=json_text(key or row),
                reason=reason.replace(*self._called) if self._called[0] else reason,
                content=content,
                column=column,
                scan_id=self._spec.scan_id,
                at=datetime.now(UTC),
            )
        )

    def add_masked(self, batch: pa.RecordBatch, bad: pa.Array, reason: str, column: str) -> None:
        """Keep the rows that a mask names."""
        for row in plain_rows(batch.filter(bad)):
            self.add(row, reason, column)

    def leave_out(self, batch: pa.RecordBatch, found: Sequence[tuple[pa.Array, str, str]]) -> pa.RecordBatch:
        """The batch without the rows that some ``(mask, reason, column)`` names; each of them is one reject."""
        keep = np.ones(batch.num_rows, dtype=bool)
        for mask, reason, column in found:
            bad = mask.fill_null(False).to_numpy(zero_copy_only=False) & keep
            if bad.any():
                self.add_masked(batch, pa.array(bad), reason, column)
                keep &= ~bad
        return batch if keep.all() else batch.filter(pa.array(keep))

    def check(self, allowed: int, outcome: str = "nothing of this slice was written") -> None:
        """Raise ``RowsRejected`` if there are more than allowed; ``outcome`` says what became of the slice."""
        column = f" in column {self.rows[0].column!r}" if self.rows and self.rows[0].column else ""
        check_rejects(
            self.rows,
            allowed,
            f"the target rejected {{rows}}{column}",
            "correct them at the source, filter them with where, or raise max_rejects",
            outcome,
        )


def _short(value: Any) -> Any:
    """The beginning of a long value: a reject is kept for people, and must fit into one request."""
    if isinstance(value, str | bytes) and len(value) > _LONGEST_VALUE:
        start = json_text(value[:_LONGEST_VALUE])
        return f"{msgspec.json.decode(start)}… ({len(value):,} in all)"
    return value


def _number(value: Any) -> Any:
    """A whole number that came as text; any other value stays as it is."""
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    return value


def plain_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows as Python values; a value that Python cannot hold becomes text."""
    columns: dict[str, list[Any]] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = column.type
        timeish = pa.types.is_temporal(kind) and not pa.types.is_duration(kind)
        if not_utf8(column) is not None:
            columns[name] = [value and value.decode(errors="backslashreplace") for value in as_bytes(column)]
        else:
            columns[name] = (column.cast(pa.string()) if timeish else column).to_pylist()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def without_broken_text(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch of a source whose rows with text that is not UTF-8 are rejects: no target can store them."""
    found = [(name, not_utf8(batch.column(name))) for name in batch.schema.names]
    broken = [(name, mask) for name, mask in found if mask is not None]
    if not broken:
        return batch
    rejects = {}
    for name, mask in reversed(broken):
        for number in np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist():
            content = json_text(plain_rows(batch.slice(number, 1))[0])
            rejects[number] = RowReject("the text is not valid UTF-8", content, name)
    for name, _ in broken:
        # The rejects of these rows still need their key.
        shown = [row[name] for row in plain_rows(batch.select([name]))]
        batch = batch.set_column(batch.schema.get_field_index(name), name, pa.array(shown, batch.column(name).type))
    return with_rejects(batch, rejects)


def bisect(first: int, last: int, most: int) -> Generator[tuple[int, int], str | None, list[tuple[int, str]]]:
    """Find the rejects among the rows ``first..last``: yields ranges to try, is sent the error of each or ``None``.

    The caller must undo a range that failed before it tries the next one; one that succeeded
    stays. Returns ``(row, reason)`` of the rejects, at most ``most + 1``.
    """
    rejects: list[tuple[int, str]] = []
    stack = [(first, last)]
    while stack and len(rejects) <= most:
        low, high = stack.pop()
        reason = yield low, high
        if reason is None:
            continue
        if low == high:
            rejects.append((low, reason))
            continue
        middle = (low + high) // 2
        stack.extend(((middle + 1, high), (low, middle)))
    return rejects
