"""Do what a pipeline's hooks ask: call functions, and run statements."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio

from retl.calls import REMEDY, call_user, failure, user_worker
from retl.connectors.base import Source, Target
from retl.engine.config import PipelineConfig
from retl.engine.context import StopSignal
from retl.model.duration import format_duration
from retl.model.errors import ConfigError, HookFailed, RetlError, TransientError, UnsupportedError
from retl.model.hooks import FACTS, MOMENTS, SQL, BeforeRun, BeforeScan, Hook, Hooks, Moment
from retl.model.report import RunReport, ScanReport
from retl.model.typed import wrong_type
from retl.pulse import unhurried

_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds before statements are tried again after an error that may pass."""


def checked_hooks(given: Hooks | None, source: Source, target: Target) -> Hooks:
    """The hooks of a pipeline. Raises ``ConfigError`` for statements that could never run."""
    if given is not None and not isinstance(given, Hooks):
        raise wrong_type("hooks", given, "retl.Hooks(after_scan=...)")
    hooks = given or Hooks()
    for moment in MOMENTS:
        for name, hook in hooks.at(moment):
            if isinstance(hook, SQL):
                _check(name, hook, moment, source if hook.on == "source" else target)
    return hooks


def _check(name: str, hook: SQL, moment: Moment, system: Source | Target) -> None:
    if not system.runs_sql:
        raise UnsupportedError(
            f"the hook {name} is SQL for the {hook.on}, but a {system.system} {hook.on} runs none.",
            remedy="remove it, or run it on the other side; in Python, give a function of yours.",
            system=system.system,
        )
    for number, sql in enumerate(hook.statements):
        try:
            system.statement(sql, dict.fromkeys(FACTS[moment], ""))
        except ConfigError as error:
            error.message = f"the hook {_numbered(name, hook, number)}: {error.message}"
            raise


def planned(hooks: Hooks) -> dict[str, tuple[str, ...]]:
    """The statements of each moment that has some, for people: ``source: REFRESH ...``."""
    found: dict[str, tuple[str, ...]] = {
        moment: tuple(
            f"{hook.on}: {sql.strip()}"
            for _, hook in hooks.at(moment)
            if isinstance(hook, SQL)
            for sql in hook.statements
        )
        for moment in MOMENTS
    }
    return {moment: statements for moment, statements in found.items() if statements}


class HookCalls:
    """Calls the hooks of a pipeline. What they raise is a ``RetlError``: their own, or ``HookFailed``."""

    def __init__(
        self, config: PipelineConfig, stop: StopSignal, sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    ) -> None:
        self._stop = stop
        self._sleep = sleep
        self._hooks = config.hooks
        self._limit = config.stall_timeout
        self._systems: Mapping[str, Source | Target] = {"source": config.source, "target": config.target}

    async def before_run(self, what: BeforeRun) -> None:
        await self._call("before_run", what)

    async def before_scan(self, what: BeforeScan) -> None:
        await self._call("before_scan", what)

    async def after_scan(self, report: ScanReport) -> None:
        await self._call("after_scan", report, went_well=report.status == "done")

    async def after_run(self, report: RunReport) -> None:
        await self._call("after_run", report, went_well=report.ok)

    async def _call(self, moment: Moment, argument: Any, *, went_well: bool = True) -> None:
        for name, hook in self._hooks.at(moment):
            if not isinstance(hook, SQL):
                await self._in_time(name, _call_function, name, hook, argument)
            elif went_well or hook.always:
                facts = {fact: getattr(argument, fact) for fact in FACTS[moment]}
                # A scan is tried again as a whole, when the others have had their turn.
                pauses = () if moment == "before_scan" else _PAUSES
                await self._in_time(name, self._run_statements, name, hook, facts, pauses)

    async def _run_statements(self, name: str, hook: SQL, facts: Mapping[str, Any], pauses: Sequence[float]) -> None:
        """Run statements in one session, each once; after an error that may pass, in another one from where it came."""
        system, left = self._systems[hook.on], list(enumerate(hook.statements))
        for pause in (*pauses, None):
            try:
                async with system.open_sql() as run:
                    while left:
                        await run(system.statement(left[0][1], facts))
                        left.pop(0)
                return
            except Exception as error:
                if pause is None or self._stop.requested or not isinstance(error, TransientError):
                    place = f"the hook {_numbered(name, hook, left[0][0] if left else 0)} failed on the {hook.on}"
                    raise _told(error, place, system.system) from error
            await self._sleep(pause)

    async def _in_time(self, name: str, call: Callable[..., Any], *arguments: Any) -> None:
        # Its time is limited here, and counts for no stall of the scan.
        with unhurried(), anyio.move_on_after(self._limit or None) as scope:
            await call(*arguments)
        if scope.cancelled_caught:
            raise HookFailed(
                f"the hook {name} has not ended within {format_duration(self._limit)}, so it was given up.",
                remedy="look for what it waits for, or raise stall_timeout.",
            )


async def _call_function(name: str, hook: Hook[Any], argument: Any) -> None:
    def failed(call: Callable[..., Any], error: BaseException) -> HookFailed:
        return HookFailed(failure(f"the hook {name}", call, error), remedy=REMEDY)

    assert not isinstance(hook, SQL)
    worker = user_worker()
    try:
        await call_user(worker, failed, hook, argument)
    finally:
        worker.close()


def _numbered(name: str, hook: SQL, number: int) -> str:
    return name if len(hook.statements) == 1 else f"{name} (sql[{number}])"


def _told(error: Exception, place: str, system: str) -> RetlError:
    """What failed, and where. An error that may pass stays one."""
    if isinstance(error, TransientError):
        told = copy.copy(error)
        told.message = f"{place}: {error.message}"
        return told.with_context(system=system)
    said, remedy = f"{type(error).__name__}: {error}", ""
    if isinstance(error, RetlError):
        said, remedy = error.message, error.remedy
    try_it = f"run the statement in {system} as the same user; correct it, or give the user the rights that it lacks."
    return HookFailed(f"{place}: {said}", remedy=f"{try_it} {remedy[:1].upper()}{remedy[1:]}".strip(), system=system)
