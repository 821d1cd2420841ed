"""One report of a scan that gave way to others between its slices, and so was several."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from retl.model.embeddings import in_all
from retl.model.report import ScanReport

_SUMS = ("rows", "older", "dropped", "bytes", "rejects", "null_cursor_rows", "slices")


def in_one(parts: Sequence[ScanReport]) -> ScanReport:
    """The report of all parts: it begins with the first, and ends as the last one did."""
    first, last = parts[0], parts[-1]
    if first is last:
        return last
    return replace(
        last,
        started_at=first.started_at,
        seconds=(last.started_at - first.started_at).total_seconds() + last.seconds,
        changed=_sum([part.changed for part in parts]),
        unchanged=_sum([part.unchanged for part in parts]),
        embeddings=in_all([part.embeddings for part in parts if part.embeddings is not None]),
        slices_planned=sum(part.slices for part in parts[:-1]) + last.slices_planned,
        lower=first.lower,
        read_wait=round(sum(part.read_wait for part in parts), 3),
        write_wait=round(sum(part.write_wait for part in parts), 3),
        warnings=tuple(dict.fromkeys(warning for part in parts for warning in part.warnings)),
        **{name: sum(getattr(part, name) for part in parts) for name in _SUMS},
    )


def _sum(counts: Sequence[int | None]) -> int | None:
    return None if None in counts else sum(count for count in counts if count is not None)
