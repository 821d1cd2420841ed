"""Two questions about a service: must this process be started again, and is it fit for work?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from retl.host import Running
from retl.model.status import Probe
from retl.pipeline import Pipeline

Jobs = Running | Mapping[str, Pipeline] | Iterable[Pipeline]

FAILURES = 3
"""How many failures one after the other are no reason yet to call a pipeline unready."""


def liveness(jobs: Jobs) -> Probe:
    """Whether this process still moves; where not, start it again.

    Not so where the owner's heart or a run has stopped, or a pipeline has ended by a fault of retl. A source, a target or
    a store that fails is no reason: a new process would not help. From memory, at once.
    """
    ended = jobs.ended if isinstance(jobs, Running) else {}
    faults = {name: f"it has ended: {type(error).__name__}" for name, error in ended.items() if error is not None}
    return _answer(jobs, lambda pipeline: faults.get(pipeline.name) or pipeline.snapshot().stuck)


def readiness(jobs: Jobs, *, failures: int = FAILURES) -> Probe:
    """Whether each pipeline runs here or stands by, its store answers, and it has not failed more than ``failures`` times
    one after the other. From memory, at once.
    """
    ended = jobs.ended if isinstance(jobs, Running) else {}
    return _answer(jobs, lambda pipeline: "it has ended" if pipeline.name in ended else _unready(pipeline, failures))


def _unready(pipeline: Pipeline, most: int) -> str | None:
    found = pipeline.snapshot()
    if found.reachable is False:
        return "its state store does not answer"
    if found.state == "stopped":
        return "it does not run"
    if found.failures > most:
        return f"it has failed {found.failures} times one after the other"
    return None


def _answer(jobs: Jobs, why_not: Callable[[Pipeline], str | None]) -> Probe:
    pipelines = jobs.values() if isinstance(jobs, Mapping) else jobs
    found = {pipeline.name: why_not(pipeline) for pipeline in pipelines}
    reasons = {name: reason for name, reason in found.items() if reason is not None}
    return Probe(ok=not reasons, reasons=reasons)
