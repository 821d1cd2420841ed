"""Whether a pipeline's own machinery still moves: if not, no retry helps, but a new process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from retl.engine.bus import EventBus
from retl.engine.lease import Lease
from retl.engine.scan import Scan
from retl.model import events
from retl.model.duration import format_duration
from retl.model.status import PipelineState

_LATE_SECONDS = 60.0
"""How much later than its limit something may be on a busy machine."""


class Motion:
    """Watches the heart, the events and the scans of a pipeline."""

    def __init__(
        self,
        lease: Lease,
        bus: EventBus,
        *,
        ttl: float,
        stall_timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lease = lease
        self._ttl = ttl
        self._stall_timeout = stall_timeout
        self._clock = clock
        self._moved = clock()
        bus.watch(self._hear)

    def _hear(self, event: events.Event) -> None:
        pause = event.delay if isinstance(event, events.RetryScheduled) else 0.0
        self._moved = max(self._moved, self._clock() + pause)

    def stuck(self, state: PipelineState, scans: Iterable[Scan]) -> str | None:
        """What has stopped, for people: the heart of an owner, or a run that should have been given up."""
        silence = self._lease.silence
        if silence > self._ttl + _LATE_SECONDS:
            return f"the lease has had no sign of life for {format_duration(silence)}"
        if state != "scanning" or not self._stall_timeout:
            return None
        still = min([self._clock() - self._moved, *(scan.pulse.still for scan in scans if scan.pulse is not None)])
        if still > self._stall_timeout + _LATE_SECONDS:
            return f"nothing has moved in a run for {format_duration(still)}"
        return None
