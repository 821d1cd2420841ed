"""A worker runs blocking calls in a thread of its own, and cancelling one is prompt and clean."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator

import anyio
import pytest

from retl.threads import CallFailed, Worker, apart

FOREVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


class Database:
    """A connection whose statements tell when they begin and end."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", check_same_thread=False)
        self.begun = threading.Event()
        self.running = False
        self.outcome = ""

    def execute(self, sql: str) -> list[tuple[int]]:
        self.running = True
        self.connection.set_progress_handler(self._note, 100)
        try:
            rows = self.connection.execute(sql).fetchall()
            self.outcome = "done"
            return rows
        except sqlite3.OperationalError as error:
            self.outcome = str(error)
            raise
        finally:
            self.running = False

    def _note(self) -> int:
        self.begun.set()
        return 0


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    made = Database()
    yield made
    made.connection.close()


async def seen(event: threading.Event) -> None:
    await asyncio.to_thread(event.wait, 10)
    assert event.is_set()


async def test_a_call_gives_its_result_in_a_thread_of_its_own() -> None:
    worker = Worker("test")

    def call(left: int, right: int) -> tuple[int, str]:
        return left + right, threading.current_thread().name

    results = [await worker.run(call, 1, 2) for _ in range(3)]
    assert {total for total, _ in results} == {3}
    (name,) = {thread for _, thread in results}
    assert name.startswith("retl-test")
    assert name != threading.current_thread().name
    worker.close()


async def test_calls_never_overlap_and_keep_their_order() -> None:
    worker = Worker("test")
    inside: list[int] = []
    order: list[int] = []

    def call(number: int) -> int:
        inside.append(number)
        assert len(inside) == 1
        order.append(number)
        inside.pop()
        return number * number

    assert await asyncio.gather(*(worker.run(call, number) for number in range(20))) == [n * n for n in range(20)]
    assert order == list(range(20))
    worker.close()


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("no"), sqlite3.OperationalError("no")])
async def test_an_error_passes_through_as_it_is(error: Exception) -> None:
    worker = Worker("test")

    def call() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await worker.run(call)
    assert caught.value is error
    assert await worker.run(lambda: "still works") == "still works"
    worker.close()


@pytest.mark.parametrize(
    "error", [StopIteration, StopAsyncIteration, GeneratorExit, SystemExit, asyncio.CancelledError]
)
async def test_what_no_coroutine_can_raise_is_carried_by_an_error_that_it_can(error: type[BaseException]) -> None:
    worker = Worker("test")

    def call() -> None:
        raise error

    with pytest.raises(CallFailed, match=error.__name__) as caught:
        async with asyncio.timeout(10):
            await worker.run(call)
    assert isinstance(caught.value.__cause__, error)
    assert await worker.run(lambda: "still works") == "still works"
    worker.close()


async def test_work_apart_is_cancelled_once_and_may_clean_up() -> None:
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            cleaned.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(apart, work())
        await begun.wait()
        tasks.cancel_scope.cancel()
    assert cleaned.is_set()


async def test_the_loop_is_free_while_a_call_runs() -> None:
    worker = Worker("test")
    release = threading.Event()
    task = asyncio.create_task(worker.run(release.wait, 10))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    release.set()
    assert await task is True
    worker.close()


async def test_cancellation_interrupts_the_running_call_and_waits_for_its_end(database: Database) -> None:
    worker = Worker("test", database.connection.interrupt)
    task = asyncio.create_task(worker.run(database.execute, FOREVER))
    await seen(database.begun)
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 2
    assert not database.running
    assert database.outcome == "interrupted"
    assert await worker.run(database.execute, "SELECT 7") == [(7,)]
    worker.close()


async def test_a_second_cancellation_does_not_cut_the_first_short() -> None:
    release, begun, interrupted = threading.Event(), threading.Event(), threading.Event()
    worker = Worker("test", interrupted.set)
    ended: list[str] = []

    def call() -> None:
        begun.set()
        release.wait(10)
        ended.append("call")

    async def run() -> None:
        try:
            await worker.run(call)
        finally:
            ended.append("run")

    task = asyncio.create_task(run())
    await seen(begun)
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert interrupted.is_set()
    assert ended == []
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["call", "run"]
    worker.close()


async def test_an_interrupt_that_comes_too_early_is_repeated() -> None:
    begun, enough = threading.Event(), threading.Event()
    interrupts: list[float] = []

    def interrupt() -> None:
        interrupts.append(time.monotonic())
        if len(interrupts) == 3:
            enough.set()

    def call() -> None:
        begun.set()
        assert enough.wait(10)

    worker = Worker("test", interrupt)
    task = asyncio.create_task(worker.run(call))
    await seen(begun)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(interrupts) == 3
    worker.close()


async def test_a_cancelled_scope_of_anyio_leaves_the_loop_in_peace() -> None:
    begun, enough = threading.Event(), threading.Event()
    interrupts = 0

    def interrupt() -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts == 3:
            enough.set()

    def call() -> None:
        begun.set()
        assert enough.wait(10)

    worker = Worker("test", interrupt)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run, call)
        await seen(begun)
        began = time.monotonic()
        tasks.cancel_scope.cancel()
    # The third interrupt comes a tenth of a second after the first, not two turns of the loop later.
    assert time.monotonic() - began > 0.05
    assert interrupts == 3
    worker.close()


async def test_a_call_that_has_not_begun_is_taken_back(database: Database) -> None:
    worker = Worker("test", database.connection.interrupt)
    running = asyncio.create_task(worker.run(database.execute, FOREVER))
    await seen(database.begun)
    called: list[str] = []
    waiting = asyncio.create_task(worker.run(called.append, "x"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert database.running  # the call in front of it was not disturbed
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await worker.run(called.append, "y")
    assert called == ["y"]
    worker.close()


async def test_the_call_after_a_cancelled_one_is_never_interrupted() -> None:
    first_may_end, second_begun, second_may_end = threading.Event(), threading.Event(), threading.Event()
    running: list[str] = []
    hit: list[str] = []
    worker = Worker("test", lambda: hit.extend(running))
    first_begun = threading.Event()

    def first() -> None:
        running[:] = ["first"]
        first_begun.set()
        assert first_may_end.wait(10)

    def second() -> str:
        running[:] = ["second"]
        second_begun.set()
        assert second_may_end.wait(10)
        return "whole"

    one = asyncio.create_task(worker.run(first))
    await seen(first_begun)
    two = asyncio.create_task(worker.run(second))
    await asyncio.sleep(0)
    # Within one turn of the loop: the first call ends, the second begins, the first is cancelled.
    first_may_end.set()
    assert second_begun.wait(10)
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    second_may_end.set()
    assert await two == "whole"
    assert hit == []
    worker.close()


async def test_a_call_without_an_interrupt_is_waited_for() -> None:
    begun, release = threading.Event(), threading.Event()
    worker = Worker("test")
    ended: list[bool] = []

    def call() -> None:
        begun.set()
        ended.append(release.wait(10))

    task = asyncio.create_task(worker.run(call))
    await seen(begun)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]
    worker.close()


async def test_what_an_interrupted_call_raises_is_not_reported_anywhere(database: Database) -> None:
    reported: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    worker = Worker("test", database.connection.interrupt)
    task = asyncio.create_task(worker.run(database.execute, FOREVER))
    await seen(database.begun)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    assert reported == []
    worker.close()
