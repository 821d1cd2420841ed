"""What holds for every test: async tests simply run, and no test leaves anything behind."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import inspect
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import PurePath

import psutil
import pytest
from blockbuster import BlockBuster

from retl.engine import timetable
from retl.model import hidden

pytest_plugins = [
    "tests.tiers",
    "tests.servers.fixtures",
    "tests.routes.fixtures",
    "tests.fake_s3.fixtures",
    "tests.fake_yuque.fixtures",
]

# Its assertions show their values as those of the tests do, whoever imports it first.
pytest.register_assert_rewrite("retl.testing")

# Threads, and the files that they hold, end a moment after whoever closed them has returned.
GRACE_SECONDS = 3.0
DATABASE_SUFFIXES = frozenset({".db", ".duckdb", ".db-wal", ".db-shm", ".wal"})

# Frames below which a blocking call is no fault of ours: each runs once for a process, not once for a scan.
ALLOWED_FRAMES = (
    ("<frozen importlib._bootstrap>", {"_find_and_load"}),
    ("importlib/metadata/__init__.py", {"entry_points"}),
    ("linecache.py", {"checkcache", "updatecache"}),
    ("zoneinfo/_common.py", {"load_data", "load_tzdata"}),
    # The driver looks for certificates and passwords in the user's folder, as libpq does, before it connects.
    ("asyncpg/connect_utils.py", {"_parse_connect_arguments"}),
    ("zoneinfo/_tzpath.py", {"find_tzfile"}),
    # The driver of PostgreSQL looks for a password and a certificate in the home folder.
    ("asyncpg/connect_utils.py", {"_parse_connect_dsn_and_args"}),
    # A test that looks at the files while a scan is held at one of its events.
    ("tests/support.py", {"_hear"}),
)


# A shell starts what it puts into the background deaf to Ctrl-C, and so would be every child of the tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> None:
    """Make every ``async def`` test run and be watched, without a mark on it."""
    if not collector.istestfunction(obj, name):
        return
    hypothesis = getattr(obj, "hypothesis", None)
    if inspect.iscoroutinefunction(hypothesis.inner_test if hypothesis else obj):
        for mark in (pytest.mark.anyio, pytest.mark.usefixtures("no_task_left", "no_blocking_call")):
            mark(obj)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What was collected stays to the end: nobody looks for garbage in it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def blockbuster() -> BlockBuster:
    """The detector of calls that block the event loop: only calls made by retl itself count."""
    # The suites of retl.testing are tests, although they live in the package.
    suites = ["retl.testing"] if importlib.util.find_spec("retl.testing") else []
    detector = BlockBuster("retl", excluded_modules=suites)
    for function in detector.functions.values():
        for filename, names in ALLOWED_FRAMES:
            function.can_block_in(filename, names)
    return detector


@pytest.fixture
def no_blocking_call(blockbuster: BlockBuster) -> Iterator[None]:
    blockbuster.activate()
    try:
        yield
    finally:
        blockbuster.deactivate()


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fail if the test leaves an asyncio task behind."""
    before = _tasks()
    yield
    # Tasks that were just cancelled, and the clean-up of asynchronous generators, get a few turns of the loop.
    for _ in range(10):
        await asyncio.sleep(0)
    left = _tasks() - before
    assert not left, f"The test left tasks behind: {left}"


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline that is not asked to spread its start begins at once, so that no test waits for its name's share."""
    monkeypatch.setattr(timetable, "LONGEST_JITTER", 0.0)


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """Fail if the test leaves a worker thread of retl or an open database file behind."""
    threads, files = _worker_threads(), _database_files()
    yield
    _assert_gone(lambda: _worker_threads() - threads, "worker threads")
    _assert_gone(lambda: _database_files() - files, "open database files")


@pytest.fixture(autouse=True)
def nothing_hidden() -> Iterator[None]:
    """What one test hides from messages is an ordinary word of another one."""
    yield
    hidden._shown_as.clear()


def _tasks() -> set[asyncio.Task[object]]:
    # The pytest plugin runs every phase of a test in a new task of its own.
    tasks = asyncio.all_tasks()
    return {task for task in tasks if getattr(task.get_coro(), "__name__", "") != "_call_in_runner_task"}


def _worker_threads() -> set[threading.Thread]:
    return {
        thread for thread in threading.enumerate() if thread.name.startswith("retl-") and thread.name != "retl-output"
    }


def _database_files() -> set[tuple[str, int]]:
    opened = psutil.Process().open_files()
    return {(file.path, file.fd) for file in opened if PurePath(file.path).suffix in DATABASE_SUFFIXES}


def _assert_gone(left: Callable[[], set[threading.Thread] | set[tuple[str, int]]], what: str) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    while (remaining := left()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not remaining, f"The test left {what} behind: {remaining}"
