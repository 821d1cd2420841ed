"""Real servers as hosts: uvicorn, alone, and four workers of it under gunicorn."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support import Database

ROOT = Path(__file__).parents[3]
APP = "tests.integration.host.app:app"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def serving(*command: str, folder: Path, **words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    environment = {**os.environ, "RETL_HOST_FOLDER": str(folder), **words}
    bind = [word.replace("PORT", str(port)) for word in command]
    with subprocess.Popen(
        [sys.executable, "-m", *bind],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            if process.poll() is None:
                process.kill()


def asked(url: str, method: str = "GET") -> Any:
    request = urllib.request.Request(url, method=method)  # our own server
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


def until(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        try:
            if holds():
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.05)
    pytest.fail("it did not come to that within a minute")


def _tables(path: Path) -> set[str]:
    return {name for (name,) in Database(path).run("SELECT name FROM sqlite_master")}


UVICORN = ("uvicorn", APP, "--host", "127.0.0.1", "--port", "PORT", "--log-level", "warning")


def test_uvicorn_ends_at_the_first_signal_although_a_function_hangs(tmp_path: Path) -> None:
    with serving(*UVICORN, folder=tmp_path, RETL_HOST_HANGS="1") as (process, url):
        until(lambda: asked(f"{url}/snapshot")[0]["last_success"] is not None, process)
        until(lambda: asked(f"{url}/snapshot")[1]["state"] == "scanning", process)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    assert out == ""
    assert process.returncode in (0, -signal.SIGTERM)  # uvicorn raises the signal again at its end
    assert Database(tmp_path / "app.db").rows("people") == [(1, "Ann")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_open_stream_of_events_does_not_hold_up_the_shutdown(tmp_path: Path, number: signal.Signals) -> None:
    with serving(*UVICORN, folder=tmp_path) as (process, url):
        until(lambda: asked(f"{url}/snapshot")[0]["last_success"] is not None, process)
        with urllib.request.urlopen(f"{url}/events", timeout=30) as stream:
            told = json.loads(stream.readline().removeprefix(b"data: "))
            assert told["pipeline"] == "people" and datetime.fromisoformat(told["at"]).tzinfo is not None
            process.send_signal(number)
            stream.read()  # to its end
        out, _ = process.communicate(timeout=30)
    assert out == ""
    assert process.returncode in (0, -number)


def test_one_pipeline_that_ends_leaves_the_other_and_the_service(tmp_path: Path) -> None:
    with serving(*UVICORN, folder=tmp_path) as (process, url):
        until(lambda: all(one["last_success"] is not None for one in asked(f"{url}/snapshot")), process)
        asked(f"{url}/stop", "POST")
        until(lambda: asked(f"{url}/snapshot")[1]["state"] == "stopped", process)
        before = asked(f"{url}/snapshot")[0]["last_success"]
        until(lambda: asked(f"{url}/snapshot")[0]["last_success"] > before, process)


def test_two_pipelines_of_one_name_keep_the_service_from_starting(tmp_path: Path) -> None:
    with serving(*UVICORN, folder=tmp_path, RETL_HOST_NAMES="same,same") as (process, _):
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "two of the pipelines are named 'same'" in out
    assert not (tmp_path / "app.db").exists()


def test_of_four_workers_one_runs_and_another_follows_when_it_is_killed(tmp_path: Path) -> None:
    command = (
        "gunicorn",
        APP,
        "-w",
        "4",
        "-k",
        "uvicorn_worker.UvicornWorker",
        "-b",
        "127.0.0.1:PORT",
        "--log-level",
        "error",
    )
    with serving(*command, folder=tmp_path) as (process, url):

        def states() -> dict[int, str]:
            found: dict[int, str] = {}
            for _ in range(40):
                told = asked(f"{url}/struct")
                found[told["worker"]] = told["state"]
            return found

        def owners() -> list[int]:
            return [worker for worker, state in states().items() if state in ("idle", "scanning")]

        until(lambda: len(states()) == 4 and len(owners()) == 1, process)
        until(lambda: _tables(tmp_path / "app.db") >= {"people"}, process)
        (owner,) = owners()
        os.kill(owner, signal.SIGKILL)
        until(lambda: owner not in states() and len(owners()) == 1, process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert Database(tmp_path / "app.db").rows("people") == [(1, "Ann")]
