"""One question to several pipelines at once."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import anyio

from retl.cli.exit_codes import exit_code, worst
from retl.cli.render import print_error
from retl.config import load_jobs
from retl.model.errors import ConfigError, RetlError
from retl.pipeline import Pipeline

T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What one pipeline answered."""

    pipeline: Pipeline
    value: T


def selected(arguments: argparse.Namespace) -> list[Pipeline]:
    """The pipelines of the job file, restricted by ``--only``."""
    return load_jobs(arguments.jobs).select(arguments.only)


def having(pipelines: Sequence[Pipeline], tables: Sequence[str]) -> list[Pipeline]:
    """The pipelines that have one of these tables; all of them where none is named. Raises ``ConfigError`` if one is nowhere."""
    for table in tables:
        if not any(pipeline.declares(table) for pipeline in pipelines):
            every = "; ".join(f"{pipeline.name} has {', '.join(pipeline.declared)}" for pipeline in pipelines)
            raise ConfigError(f"no pipeline has a table {table!r}.", remedy=f"{every}.")
    return [pipeline for pipeline in pipelines if not tables or any(map(pipeline.declares, tables))]


def fan_out(pipelines: Sequence[Pipeline], question: Callable[[Pipeline], Awaitable[T]]) -> tuple[list[Answer[T]], int]:
    """Ask all pipelines concurrently; returns the answers and the exit code. Errors are printed."""
    return anyio.run(_fan_out, pipelines, question)


async def _fan_out(
    pipelines: Sequence[Pipeline], question: Callable[[Pipeline], Awaitable[T]]
) -> tuple[list[Answer[T]], int]:
    answers: dict[str, Answer[T]] = {}
    errors: dict[str, RetlError] = {}

    async def one(pipeline: Pipeline) -> None:
        async with pipeline:
            try:
                answers[pipeline.name] = Answer(pipeline, await question(pipeline))
            except RetlError as error:
                error.with_context(pipeline=pipeline.name)
                errors[pipeline.name] = error

    async with anyio.create_task_group() as tasks:
        for pipeline in pipelines:
            tasks.start_soon(one, pipeline)
    for pipeline in pipelines:
        if pipeline.name in errors:
            print_error(errors[pipeline.name])
    answered = [answers[pipeline.name] for pipeline in pipelines if pipeline.name in answers]
    return answered, worst(exit_code(error) for error in errors.values())
