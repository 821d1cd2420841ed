"""Whatever a user's function raises ends in one typed error that names it; a cancel is only what somebody asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import retl
from retl.connectors import FunctionTarget, IteratorSource
from tests.integration.function.service import Api, expected, into_sqlite, order, orders, rows_in


class Odd(BaseException):
    """Not an Exception."""


ERRORS = [StopIteration, StopAsyncIteration, asyncio.CancelledError, GeneratorExit, SystemExit, Odd, ValueError]


def plain_function(error: BaseException) -> Callable[..., Any]:
    def fetch(*arguments: Any) -> Any:
        raise error

    return fetch


def coroutine_function(error: BaseException) -> Callable[..., Any]:
    async def fetch(*arguments: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        raise error

    return fetch


def plain_iterator(error: BaseException) -> Callable[..., Any]:
    class Fetch:
        def __init__(self) -> None:
            self.number = 0

        def __iter__(self) -> Iterator[Any]:
            return self

        def __next__(self) -> Any:
            self.number += 1
            if self.number > 3:
                raise error
            return order(self.number)

    def fetch() -> Any:
        return Fetch()

    return fetch


def async_generator(error: BaseException) -> Callable[..., Any]:
    async def fetch() -> AsyncIterator[Any]:
        yield order(1)
        await anyio.lowlevel.checkpoint()
        raise error

    return fetch


def lazy_page(error: BaseException) -> Callable[..., Any]:
    async def fetch() -> AsyncIterator[Any]:
        yield map(plain_function(error), [1])

    return fetch


def _means_the_end(make: Callable[..., Any], error: type[BaseException]) -> bool:
    """Of an iterator ``StopIteration`` is the end, not an error."""
    return error is StopIteration and make in (plain_iterator, lazy_page)


READERS = [plain_function, coroutine_function, plain_iterator, async_generator, lazy_page]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("make", READERS)
async def test_what_a_source_raises_is_its_error(
    make: Callable[..., Any], error: type[BaseException], tmp_path: Path
) -> None:
    if _means_the_end(make, error):
        return
    pipeline = into_sqlite(IteratorSource(make(error("gone")), key="id"), tmp_path / "app.db")
    with (
        anyio.fail_after(20),
        pytest.raises(retl.SourceError, match=r"the function that reads \(.*fetch\) failed") as caught,
    ):
        await pipeline.run_once()
    assert caught.value.table == "orders"
    assert (await pipeline.status()).tables[0].watermark is None
    await pipeline.aclose()


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("make", [plain_function, coroutine_function])
async def test_what_a_target_or_a_clock_raises_is_its_error(
    make: Callable[..., Any], error: type[BaseException], tmp_path: Path
) -> None:
    broken = make(error("gone"))
    source = Api(orders([1, 2])).source()
    push = retl.Pipeline(
        "push", source=source, target=FunctionTarget(broken), tables=["orders"], state=retl.MemoryStore()
    )
    with anyio.fail_after(20), pytest.raises(retl.TargetError, match=r"the function that writes \(.*fetch\) failed"):
        await push.run_once()
    timed = into_sqlite(Api(orders([1, 2])).source(clock=broken), tmp_path / "app.db", settle="1s")
    with anyio.fail_after(20), pytest.raises(retl.SourceError, match=r"the clock \(.*fetch\) failed"):
        await timed.run_once()
    for pipeline in (push, timed):
        await pipeline.aclose()


async def test_a_service_goes_on_after_a_cancel_that_nobody_asked_for() -> None:
    """``run_forever`` ends only when it is asked to."""
    taken: list[int] = []
    failed, delivered = anyio.Event(), anyio.Event()

    async def write(rows: list[dict[str, Any]]) -> None:
        if not failed.is_set():
            failed.set()
            task = asyncio.ensure_future(anyio.sleep(30))
            task.cancel()
            await task
        taken.extend(row["id"] for row in rows)
        delivered.set()

    pipeline = retl.Pipeline(
        "push",
        source=Api(orders([1, 2])).source(),
        target=FunctionTarget(write, rows=True),
        tables=["orders"],
        interval=0.05,
        state=retl.MemoryStore(),
    )
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pipeline.run_forever)
            await delivered.wait()
            pipeline.stop()
    assert set(taken) == {1, 2}


async def test_a_generator_may_hold_scopes_and_task_groups_open_where_it_yields(tmp_path: Path) -> None:
    async def read() -> AsyncIterator[dict[str, Any]]:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.lowlevel.checkpoint)
                for row in orders(range(1, 301)):
                    yield row
                    if row["id"] % 50 == 0:
                        await anyio.lowlevel.checkpoint()

    pipeline = into_sqlite(IteratorSource(read, key="id"), tmp_path / "app.db")
    assert (await pipeline.run_once()).rows == 300
    assert rows_in(tmp_path / "app.db") == expected(orders(range(1, 301)))


async def test_a_time_limit_of_the_generators_own_is_its_error(tmp_path: Path) -> None:
    async def read() -> AsyncIterator[dict[str, Any]]:
        with anyio.fail_after(0.05):
            yield order(1)
            await anyio.sleep(30)

    pipeline = into_sqlite(IteratorSource(read, key="id"), tmp_path / "app.db")
    with anyio.fail_after(20), pytest.raises(retl.SourceError, match=r"read\) failed: TimeoutError"):
        await pipeline.run_once()


async def test_errors_of_a_users_task_group_are_told_one_by_one(tmp_path: Path) -> None:
    calls = 0

    async def fail() -> None:
        raise retl.TransientError("503") if calls == 1 else KeyError("id")

    async def write(rows: list[dict[str, Any]]) -> None:
        nonlocal calls
        calls += 1
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)

    target = FunctionTarget(write, rows=True)
    source = Api(orders([1, 2])).source()
    pipeline = retl.Pipeline("push", source=source, target=target, tables=["orders"], state=retl.MemoryStore())
    with pytest.raises(retl.TargetError, match=r"failed: KeyError: 'id'"):
        await pipeline.run_once()
    assert calls == 2  # the first one was tried again
