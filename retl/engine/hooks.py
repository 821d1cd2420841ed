"""Call a pipeline's hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from retl.calls import REMEDY, call_user, failure, user_worker
from retl.model.duration import format_duration
from retl.model.errors import HookFailed
from retl.model.hooks import BeforeRun, BeforeScan, Hooks
from retl.model.report import RunReport, ScanReport
from retl.pulse import unhurried


class HookCalls:
    """Calls hooks. What they raise is a ``RetlError``: their own, or ``HookFailed``. ``limit``: most seconds, 0 for any."""

    def __init__(self, hooks: Hooks, limit: float) -> None:
        self._hooks = hooks
        self._limit = limit

    async def before_run(self, what: BeforeRun) -> None:
        await self._call("before_run", self._hooks.before_run, what)

    async def after_run(self, report: RunReport) -> None:
        await self._call("after_run", self._hooks.after_run, report)

    async def before_scan(self, what: BeforeScan) -> None:
        await self._call("before_scan", self._hooks.before_scan, what)

    async def after_scan(self, report: ScanReport) -> None:
        await self._call("after_scan", self._hooks.after_scan, report)

    async def _call(self, name: str, hook: Callable[[Any], Any] | None, argument: Any) -> None:
        if hook is None:
            return
        worker = user_worker()
        try:
            # Its time is limited here, and counts for no stall of the scan.
            with unhurried(), anyio.move_on_after(self._limit or None) as scope:
                await call_user(worker, lambda call, error: _failed(name, call, error), hook, argument)
        finally:
            worker.close()
        if scope.cancelled_caught:
            raise HookFailed(
                f"the hook {name} has not ended within {format_duration(self._limit)}, so it was given up.",
                remedy="look for what it waits for, or raise stall_timeout.",
            )


def _failed(name: str, call: Callable[..., Any], error: BaseException) -> HookFailed:
    return HookFailed(failure(f"the hook {name}", call, error), remedy=REMEDY)
