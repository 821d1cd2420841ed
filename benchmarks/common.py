"""What every benchmark needs: a process of its own with its peak memory, versions, and a table at the end."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil


class NoPandas:
    """Finds no pandas, as where it is not installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is hidden", name=name)


def in_own_process(module: str, function: str, *arguments: Any) -> dict[str, Any]:
    """Call ``module.function(*arguments)`` in a fresh interpreter; its dict, plus ``peak_mb`` of that process.

    The peak is that of the resident set, as the kernel remembers it (``VmHWM``). Arrow allocates by the C library,
    whose freed memory goes back to the system sooner than that of Arrow's own allocator. pandas is hidden, which Arrow
    imports where it finds it, and retl does not need.
    """
    script = (
        "import importlib, json, sys; from benchmarks.common import NoPandas; sys.meta_path.insert(0, NoPandas()); "
        f"result = getattr(importlib.import_module({module!r}), {function!r})(*json.loads(sys.argv[1])); "
        "peak = [line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')]; "
        "result['peak_mb'] = round(int(peak[0]) / 1024) if peak else None; "
        "print('\\n' + json.dumps(result))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"},
    )
    if done.returncode:
        raise RuntimeError(f"{module}.{function}{arguments}: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert isinstance(found, dict)
    return found


T = TypeVar("T")


def wanted(contenders: Sequence[tuple[str, T]]) -> list[tuple[str, T]]:
    """Those contenders that ``RETL_BENCH_ONLY`` names by a part of their names; several words have commas between them."""
    only = [word.lower() for word in os.environ.get("RETL_BENCH_ONLY", "").split(",") if word]
    return [(name, run) for name, run in contenders if not only or any(word in name.lower() for word in only)]


def kept(found: dict[str, Any]) -> dict[str, Any]:
    """What was measured, with what earlier calls have kept in the file that ``RETL_BENCH_KEPT`` names."""
    path = os.environ.get("RETL_BENCH_KEPT")
    if not path:
        return found
    file = Path(path)
    before = json.loads(file.read_text()) if file.exists() else {}
    found = {**before, **found}
    file.write_text(json.dumps(found, indent=1))
    return found


def versions(*packages: str) -> str:
    """Interpreter, machine and packages in one line."""
    named = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    return ", ".join(
        [
            f"Python {platform.python_version()}",
            f"{os.cpu_count()} cores",
            f"{round(psutil.virtual_memory().total / 2**30)} GiB",
            f"SQLite {sqlite3.sqlite_version}",
            *named,
        ]
    )


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> None:
    """Print a Markdown table."""
    texts = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[place]) for row in texts) for place in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in texts
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print(f"\n## {title}\n")
    print("\n".join(lines))
    if note:
        print(f"\n{note}")
    sys.stdout.flush()


def verdict(value: float, goal: float, *, at_least: bool) -> str:
    """Whether a goal is met, in a word."""
    return "met" if (value >= goal if at_least else value <= goal) else "MISSED"


def remove(*paths: Path) -> None:
    """Remove files and SQLite's companions of them."""
    for path in paths:
        for suffix in ("", "-wal", "-shm", "-journal", ".wal"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)


class StallWatch:
    """The longest time that an event loop did not get its turn, measured inside it."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._last = 0.0

    async def watch(self, sleep: Callable[[float], Any], every: float = 0.001) -> None:
        """Run as a task beside the work."""
        self._last = time.perf_counter()
        while True:
            await sleep(every)
            now = time.perf_counter()
            self.longest = max(self.longest, now - self._last - every)
            self._last = now


def busy_cores() -> float:
    """How busy the machine is before a measurement, in cores: anything above 0.2 blurs the figures."""
    return round(sum(psutil.cpu_percent(interval=0.5, percpu=True)) / 100, 2)
