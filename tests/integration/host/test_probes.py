"""Liveness and readiness: when a process must be started again, and when it is fit for work."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families

import retl
from retl import events
from retl.cli import main
from retl.cli.listen import parse_address
from retl.connectors import IteratorSource, SQLite
from retl.model.checkpoint import Fence
from retl.model.report import ScanReport
from retl.observe.probes import liveness, readiness
from retl.state.base import LeaseRow
from tests.support import Recorder, running, state_is


class Store(retl.MemoryStore):
    """A store that fails, or hangs at some call, when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.hangs = ""
        self.hung = anyio.Event()

    async def _hang(self, call: str) -> None:
        if self.hangs == call:
            self.hung.set()
            await anyio.sleep_forever()

    async def read_lease(self, pipeline: str) -> LeaseRow:
        if self.down:
            raise retl.ConnectionFailed("the store is down")
        return await super().read_lease(pipeline)

    async def beat(self, fence: Fence) -> bool:
        await self._hang("beat")
        return await super().beat(fence)

    async def add_report(self, report: ScanReport) -> None:
        await self._hang("add_report")
        await super().add_report(report)


class Api:
    down = False

    def read(self) -> Iterator[dict[str, Any]]:
        if self.down:
            raise retl.SourceError("the API is down")
        yield {"id": 1}


def job(path: Path, store: Store, api: Api | None = None, **words: Any) -> retl.Pipeline:
    return retl.Pipeline(
        "p",
        source=IteratorSource((api or Api()).read, key="id"),
        target=SQLite(str(path / "app.db")),
        tables=["t"],
        state=store,
        **{"interval": "manual"} | words,
    )


def later(pipeline: retl.Pipeline, seconds: float, *, moving: bool = True) -> None:
    """As if so much time had gone by without an event, and without a move of a scan if it is not moving."""
    for scan in pipeline._runner.scans.values():
        if scan.pulse is not None and not moving:
            scan.pulse._moved -= seconds
    lease, motion = pipeline._runner.lease, pipeline._runner.motion
    clock = lease._clock
    lease._clock = motion._clock = lambda: clock() + seconds


async def test_an_owner_and_a_standby_are_ready(tmp_path: Path) -> None:
    store = Store()
    one, two = job(tmp_path, store), job(tmp_path, store)
    two._runner.lease._owner = "elsewhere/1//1/x"  # as another process would be
    assert readiness([one]).reasons == {"p": "it does not run"}
    assert liveness([one])
    async with retl.running(one) as owner, retl.running(two) as standby:
        await state_is(two, "standby")
        assert readiness(owner) and readiness(standby) and liveness(owner) and liveness(standby)
        assert readiness(owner).to_dict() == {"ok": True, "reasons": {}}
        one.stop()
        with anyio.fail_after(20):
            await owner.wait_ended()
        assert readiness(owner).reasons == {"p": "it has ended"}
        assert liveness(owner), "somebody has stopped it"


async def test_what_fails_again_and_again_is_not_ready_and_needs_no_new_process(tmp_path: Path) -> None:
    api = Api()
    pipeline = job(tmp_path, Store(), api)
    api.down = True
    async with running(pipeline) as after:
        seen = []
        for _ in range(5):
            await after(events.ScanFailed, pipeline.trigger)
            seen.append((bool(readiness([pipeline])), bool(readiness([pipeline], failures=1))))
        assert seen == [(True, True), (True, False), (True, False), (False, False), (False, False)]
        assert readiness([pipeline]).reasons == {"p": "it has failed 5 times one after the other"}
        assert liveness([pipeline])
        api.down = False
        await after(events.ScanFinished, pipeline.trigger)
        assert readiness([pipeline])


async def test_a_store_that_fails_or_is_silent_is_not_ready(tmp_path: Path) -> None:
    store = Store()
    pipeline = job(tmp_path, store, lease_ttl="300ms")
    store.down = True
    async with running(pipeline) as after:
        await after(events.RunFailed)
        assert readiness([pipeline]).reasons == {"p": "its state store does not answer"}
        waits = pipeline.snapshot()
        assert (waits.state, waits.waits_for) == ("standby", "its state store")
        store.down = False
        await after(events.LeaseAcquired)
        assert readiness([pipeline])
        store.hangs = "beat"
        await store.hung.wait()
        assert readiness([pipeline]), "it may just be slow"
        later(pipeline, 6)
        assert readiness([pipeline]).reasons == {"p": "its state store does not answer"}
        assert liveness([pipeline])


async def test_a_heart_that_has_stopped_needs_a_new_process(tmp_path: Path) -> None:
    store = Store()
    pipeline = job(tmp_path, store, lease_ttl="300ms")
    store.hangs = "beat"
    async with retl.running(pipeline) as jobs:
        await store.hung.wait()
        later(pipeline, 59)
        assert liveness(jobs)
        later(pipeline, 120)
        assert liveness(jobs).reasons == {"p": "the lease has had no sign of life for 2m 59s"}


async def test_a_run_that_hangs_where_nobody_gives_it_up_needs_a_new_process(tmp_path: Path) -> None:
    store = Store()
    pipeline = job(tmp_path, store, stall_timeout="5m", lease_ttl="1h")
    store.hangs = "add_report"
    async with retl.running(pipeline, grace="100ms") as jobs:
        pipeline.trigger()
        with anyio.fail_after(20):
            await store.hung.wait()
        later(pipeline, 300, moving=False)
        assert liveness(jobs)
        later(pipeline, 65, moving=False)
        assert liveness(jobs).reasons == {"p": "nothing has moved in a run for 6m 5s"}


async def test_a_scan_that_moves_and_a_retry_that_waits_are_alive(tmp_path: Path) -> None:
    """A scan may take hours without an event; what counts is that it moves."""
    pipeline = job(tmp_path, Store(), stall_timeout="5m", lease_ttl="1h")
    seen: list[bool] = []

    def look(_: events.Event) -> None:
        later(pipeline, 400)
        seen.append(bool(liveness([pipeline])))

    heard = Recorder(pipeline)
    heard.when(events.ScanPlanned, look)
    await pipeline.run_once()
    assert seen == [True]
    pipeline._runner.motion._hear(
        events.RetryScheduled(pipeline="p", table="t", error="not now", attempt=1, delay=300.0)
    )
    pipeline._runner.state = "scanning"
    later(pipeline, 600)
    assert liveness([pipeline])
    later(pipeline, 100)
    assert not liveness([pipeline])


async def test_a_pipeline_that_ended_by_a_fault_needs_a_new_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = job(tmp_path, Store())

    breaks = anyio.Event()

    async def broken(begun: Callable[[], None]) -> None:
        begun()
        await breaks.wait()
        raise AssertionError("a fault of retl")

    monkeypatch.setattr(pipeline._runner, "forever", broken)
    async with retl.running(pipeline) as jobs:
        assert liveness(jobs)
        breaks.set()
        with anyio.fail_after(20):
            await jobs.wait_ended()
        assert liveness(jobs).reasons == {"p": "it has ended: AssertionError"}


# retl run --listen -------------------------------------------------------------------------

JOBS = """\
[pipelines.shop]
source = { type = "sqlite", path = "warehouse.db" }
target = { type = "sqlite", path = "app.db" }
interval = "1h"
tables = [{ name = "orders", key = "id" }]
"""


def asked(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("jobs.toml").write_text(JOBS)
    return tmp_path


@pytest.mark.processes
def test_retl_run_answers_probes_and_shows_metrics(jobs: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", "import sqlite3; sqlite3.connect('warehouse.db').execute('CREATE TABLE orders (id)')"],
        check=True,
    )
    command = [sys.executable, "-m", "retl", "run", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.fullmatch(r"listening on (http://127\.0\.0\.1:\d+)\n", process.stdout.readline())
        assert found is not None
        assert any("shop.orders: 0 rows" in line for line in iter(process.stdout.readline, ""))
        assert asked(f"{found[1]}/live") == (200, '{"ok": true, "reasons": {}}')
        assert asked(f"{found[1]}/ready") == (200, '{"ok": true, "reasons": {}}')
        code, text = asked(f"{found[1]}/metrics")
        families = {family.name: family.samples for family in text_string_to_metric_families(text)}
        assert code == 200
        assert [(one.labels, one.value) for one in families["retl_lease_owner"]] == [({"pipeline": "shop"}, 1)]
        assert asked(f"{found[1]}/")[0] == 404
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, ""), out


def test_a_port_that_is_taken_is_said_and_nothing_runs(jobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["run", "--once", "--listen", f"127.0.0.1:{port}"]) == 2
    shown = capsys.readouterr()
    assert f"--listen 127.0.0.1:{port}: it cannot listen there" in shown.err
    assert "ss -tlnp" in shown.err
    assert not (jobs / "app.db").exists()


def test_addresses(jobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [str(parse_address(text)) for text in ("8080", "0.0.0.0:1", "localhost:80", "[::1]:8080")] == [
        "127.0.0.1:8080",
        "0.0.0.0:1",
        "localhost:80",
        "[::1]:8080",
    ]
    for wrong in ("localhost", "localhost:web", "a:99999", "http://a:80", "a:80/x", "u@a:80"):
        with pytest.raises(retl.ConfigError, match="this is no address"):
            parse_address(wrong)
    assert main(["run", "--listen", "nowhere"]) == 2
    assert "write HOST:PORT" in capsys.readouterr().err


def test_the_answer_is_what_an_endpoint_returns() -> None:
    assert json.dumps(liveness([]).to_dict()) == '{"ok": true, "reasons": {}}'
