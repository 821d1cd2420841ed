"""Whether as many rows came as a source has counted: what cuts its answers must not be taken for all there is."""

from __future__ import annotations

from retl.model.errors import SourceError, TransientError
from retl.model.plan import SourcePlan
from retl.model.window import Slice

_LATE_SHARE = 0.01
"""The share of the rows of a slice that may be missing, where its source still has more than it sent: a few may be new."""


def check_slice(plan: SourcePlan, slice_: Slice, rows: int) -> None:
    """Refuse a slice that brought more or fewer rows than were counted in the snapshot that was read."""
    if plan.exact_rows and slice_.rows is not None and rows != slice_.rows:
        raise _other_count(slice_.rows, rows, "slice")


def check_all_slices(plan: SourcePlan, rows: int) -> None:
    """The same for all slices together."""
    if plan.exact_rows and plan.rows is not None and rows != plan.rows:
        raise _other_count(plan.rows, rows, "scan")


def _other_count(counted: int, came: int, what: str) -> SourceError:
    return SourceError(
        f"the source counted {counted:,} rows for this {what} and sent {came:,}; nothing of it was committed.",
        remedy="look for what limits or filters its answers: a setting such as a row limit, a proxy, a rule on the table.",
    )


def falls_short(came: int, counted: int) -> bool:
    """Whether so many of the counted rows are missing that the source must be asked again."""
    return counted - came > counted * _LATE_SHARE


def cut_answer(there: int, came: int) -> TransientError:
    """The error of a source that has more rows than it sends."""
    return TransientError(
        f"the source has {there:,} rows for this slice and sent {came:,}; the slice was not committed.",
        remedy="look for what limits or filters its answers: a setting such as a row limit, a proxy, a rule on the table.",
    )
