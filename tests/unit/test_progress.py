"""How far a scan is, and how long a failure is waited out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from retl.engine.schedule import backoff
from retl.model.report import Progress


def progress(rows: int, planned: int | None, seconds: float) -> Progress:
    return Progress(rows=rows, rows_planned=planned, bytes=0, slices=0, slices_planned=1, seconds=seconds)


def test_rate_and_time_left() -> None:
    found = progress(250, 1000, 5.0)
    assert (found.rate, found.seconds_left) == (50.0, 15.0)


def test_more_rows_than_were_planned_leave_no_time() -> None:
    assert progress(1200, 1000, 5.0).seconds_left == 0.0


def test_a_time_left_that_nobody_knows_is_none() -> None:
    for unknown in (progress(250, None, 5.0), progress(0, 1000, 5.0), progress(250, 1000, 0.0)):
        assert unknown.seconds_left is None


@given(attempt=st.integers(1, 10_000))
def test_a_wait_doubles_up_to_its_most_and_at_least_half_of_it_is_kept(attempt: int) -> None:
    longest = min(30.0, 0.5 * 2 ** min(attempt - 1, 100))
    waits = [backoff(attempt) for _ in range(20)]
    assert all(longest / 2 <= wait <= longest for wait in waits)
    assert len(set(waits)) > 1, "a fleet of services would come back all at once"
