"""Finding the rows that a target refuses, and keeping them with their reasons."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from retl.connectors.base import RowReject, with_rejects
from retl.connectors.rows.text import as_bytes, json_text, not_utf8
from retl.model.checkpoint import Reject
from retl.model.errors import RowsRejected
from retl.model.plan import WriteSpec

_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,19}")
_LONGEST_VALUE = 4_000
MOST_SHOWN = 100
"""How many refused rows are looked for beyond what is allowed, so that people see more than the first."""


class RejectCollector:
    """The refused rows of one slice."""

    def __init__(self, spec: WriteSpec, *, called: tuple[str, str] = ("", "")) -> None:
        """``called``: a name that the system's reasons may hold, and the one that people know instead."""
        self._spec = spec
        self._called = called
        self._whole = frozenset(column.name for column in spec.schema if pa.types.is_integer(column.type))
        self.rows: list[Reject] = []

    def add(self, row: dict[str, Any], reason: str, column: str = "") -> None:
        """Keep one row. Its identity is its key; without a key its whole content."""
        # A source may send numbers as text; the same row has the same identity whoever sends it.
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
                at=datetime.now(UTC).isoformat(timespec="milliseconds"),
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
        """Raise ``RowsRejected`` where there are more than allowed; ``outcome`` is what became of the slice."""
        if len(self.rows) <= allowed:
            return
        first = self.rows[0]
        column = f" in column {first.column!r}" if first.column else ""
        error = RowsRejected(
            f"the target refused {len(self.rows):,} row{'s' if len(self.rows) > 1 else ''}{column} "
            f"(the first: key {first.key}: {first.reason}); max_rejects allows {max(0, allowed):,} more, so {outcome}.",
            remedy="`retl rejects` shows them all; correct them at the source, filter them with where, or raise max_rejects.",
        )
        error.rejects = list(self.rows)
        raise error


def _short(value: Any) -> Any:
    """A long value's beginning: a reject is kept for people, and must fit into one request."""
    if isinstance(value, str | bytes) and len(value) > _LONGEST_VALUE:
        start = json_text(value[:_LONGEST_VALUE])
        return f"{msgspec.json.decode(start)}… ({len(value):,} in all)"
    return value


def _number(value: Any) -> Any:
    """A whole number that is told as text; what is not written as one stays as it came."""
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    return value


def plain_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows as Python values, whatever their types: what Python cannot hold is text."""
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
    """A batch of a source; rows with text that is no UTF-8, which no target takes as it is, are rejects of their scan."""
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
        # A key of these rows is told, in their rejects.
        shown = [row[name] for row in plain_rows(batch.select([name]))]
        batch = batch.set_column(batch.schema.get_field_index(name), name, pa.array(shown, batch.column(name).type))
    return with_rejects(batch, rejects)


def bisect(first: int, last: int, most: int) -> Generator[tuple[int, int], str | None, list[tuple[int, str]]]:
    """Which rows of ``first..last`` are refused: yields ranges to try, is sent the error of each or ``None``.

    A range that is refused must be undone by the caller before the next one is tried; one
    that is taken stays. Returns ``(row, reason)`` of the refused ones, at most ``most + 1``.
    """
    refused: list[tuple[int, str]] = []
    stack = [(first, last)]
    while stack and len(refused) <= most:
        low, high = stack.pop()
        reason = yield low, high
        if reason is None:
            continue
        if low == high:
            refused.append((low, reason))
            continue
        middle = (low + high) // 2
        stack.extend(((middle + 1, high), (low, middle)))
    return refused
