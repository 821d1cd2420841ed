"""Alerts: told once, by the owner, whatever replicas and restarts there are; over a real server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import retl
from retl import events
from retl.config import load_jobs
from retl.connectors import IteratorSource, SQLite
from retl.model.alerts import AlertState, body_of
from retl.model.checkpoint import Fence
from retl.state.base import LeaseRow
from tests.support import Database, Recorder, running


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second attempt of a scan, and short pauses before one of a delivery."""
    monkeypatch.setattr("retl.engine.run.backoff", lambda *_, **__: 100.0)
    monkeypatch.setattr("retl.engine.alerts._FIRST_PAUSE", 0.01)


class Hook:
    """A webhook: a real server that keeps what it is sent, and answers as it is told."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[dict[str, str], str]] = []
        self.answers: list[int] = []
        self.arrived = anyio.Event()

    async def take(self, request: web.Request) -> web.Response:
        self.requests.append((dict(request.headers), await request.text()))
        status = self.answers.pop(0) if self.answers else 200
        if status == 200:
            self.arrived.set()
        headers = {"Location": "/elsewhere"} if status == 302 else {}
        return web.Response(status=status, headers=headers, text="secret-token is what I was sent")

    def told(self) -> list[tuple[str, str, bool]]:
        bodies = [json.loads(body) for _, body in self.requests]
        return [(body["table"], body["condition"], body["recovered"]) for body in bodies]


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    found = Hook()
    app = web.Application()
    app.router.add_post("/{path:.*}", found.take)
    async with TestServer(app) as server:
        found.url = str(server.make_url("/services/secret-token"))
        yield found


class Api:
    """A source that can be down."""

    def __init__(self, *, down: bool = False) -> None:
        self.down = down

    def read(self) -> Iterator[dict[str, Any]]:
        if self.down:
            raise retl.SourceError("the API is down")
        yield {"id": 1}


def job(path: Path, api: Api, *alerts: retl.Alert, **words: Any) -> retl.Pipeline:
    given: dict[str, Any] = {
        "source": IteratorSource(api.read, key="id"),
        "target": SQLite(str(path / "app.db")),
        "tables": ["orders"],
        "interval": "manual",
    }
    return retl.Pipeline("shop", alerts=alerts, **given | words)


async def fail(pipeline: retl.Pipeline, times: int) -> None:
    for _ in range(times):
        await pipeline.run_once(check=False)


# When it tells ----------------------------------------------------------------------------


async def test_it_tells_once_after_n_failures_and_once_that_it_works_again(tmp_path: Path, hook: Hook) -> None:
    api = Api(down=True)
    pipeline = job(tmp_path, api, retl.Alert(webhook=hook.url, failures=3))
    await fail(pipeline, 2)
    assert hook.requests == []
    await fail(pipeline, 3)
    ((headers, body),) = hook.requests
    notice = json.loads(body)
    assert headers["Content-Type"] == "application/json"
    assert (notice["pipeline"], notice["table"], notice["condition"], notice["failures"]) == (
        "shop",
        "orders",
        "failures",
        3,
    )
    assert notice["message"] == notice["text"]
    assert notice["message"].startswith("shop / orders has failed 3 times in a row: ")
    assert "the API is down" in notice["error"]
    assert datetime.fromisoformat(notice["since"]) <= datetime.fromisoformat(notice["at"])
    api.down = False
    await fail(pipeline, 2)
    assert hook.told() == [("orders", "failures", False), ("orders", "failures", True)]
    assert json.loads(hook.requests[1][1])["message"] == "shop / orders works again"
    api.down = True
    await fail(pipeline, 3)
    assert hook.told()[2:] == [("orders", "failures", False)]


async def test_failures_are_counted_over_processes_and_a_restart_tells_nothing_again(
    tmp_path: Path, hook: Hook
) -> None:
    """As a job of cron does, which is a new process each time."""
    api = Api(down=True)
    for _ in range(5):
        await fail(job(tmp_path, api, retl.Alert(webhook=hook.url, failures=3)), 1)
    assert hook.told() == [("orders", "failures", False)]
    api.down = False
    for _ in range(2):
        await fail(job(tmp_path, api, retl.Alert(webhook=hook.url, failures=3)), 1)
    assert hook.told() == [("orders", "failures", False), ("orders", "failures", True)]


async def test_two_replicas_tell_once_also_after_a_takeover(tmp_path: Path, hook: Hook) -> None:
    api = Api(down=True)
    one, two = (
        job(tmp_path, api, retl.Alert(webhook=hook.url, failures=2), interval="50ms", lease_ttl="500ms")
        for _ in range(2)
    )
    two._runner.lease._owner = "elsewhere/1//1/x"  # as another process would be
    heard = Recorder(two)
    async with retl.running(one) as first, retl.running(two):
        with anyio.fail_after(20):
            await hook.arrived.wait()
            one.stop()
            await first.wait_ended()
            failed, works = anyio.Event(), anyio.Event()
            heard.when(
                events.ScanFailed, lambda _: failed.set() if len(heard.of(events.ScanFailed)) > 3 else None, once=False
            )
            await failed.wait()
            assert hook.told() == [("orders", "failures", False)]
            hook.arrived = works
            api.down = False
            await works.wait()
    assert hook.told() == [("orders", "failures", False), ("orders", "failures", True)]


async def test_lag_is_told_when_the_last_success_is_too_long_ago(
    tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = Api()
    await fail(job(tmp_path, api), 1)
    later = datetime.now(UTC) + timedelta(hours=2)
    monkeypatch.setattr("retl.engine.alerts.now", lambda: later)
    api.down = True
    # A new process, which has seen no success itself.
    await fail(job(tmp_path, api, retl.Alert(webhook=hook.url, last_success="1h", recovered=False)), 2)
    assert hook.told() == [("orders", "last_success", False)]
    notice = json.loads(hook.requests[0][1])
    assert notice["message"] == "shop / orders was brought up to date 2h ago for the last time"
    assert notice["age"] == pytest.approx(7200, abs=60)
    monkeypatch.undo()
    api.down = False
    await fail(job(tmp_path, api, retl.Alert(webhook=hook.url, last_success="1h", recovered=False)), 1)
    assert len(hook.requests) == 1, "nobody asked to hear that it is over"


async def test_rejects_over_n_are_told_until_they_are_cleared(tmp_path: Path, hook: Hook) -> None:
    rows = [{"id": number, "name": None} for number in range(4)]
    target = SQLite(str(tmp_path / "app.db"))
    pipeline = retl.Pipeline(
        "shop",
        source=IteratorSource(lambda: [*rows, {"id": 9, "name": "x"}], key="id"),
        target=target,
        tables=[retl.Table("orders", max_rejects=10)],
        alerts=[retl.Alert(webhook=hook.url, rejects=3), retl.Alert(webhook=hook.url, rejects=4)],
    )

    Database(tmp_path / "app.db").run("CREATE TABLE orders (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    await pipeline.run_once()
    await pipeline.run_once()
    assert await pipeline.count_rejects() == 4
    assert hook.told() == [("orders", "rejects", False)]
    assert json.loads(hook.requests[0][1])["rejects"] == 4
    rows.clear()
    await pipeline.clear_rejects()
    await pipeline.run_once()
    assert hook.told() == [("orders", "rejects", False), ("orders", "rejects", True)]


class Store(retl.MemoryStore):
    """A store that can be down."""

    down = False

    async def _fail(self) -> None:
        if self.down:
            raise retl.ConnectionFailed("the store is down")

    async def read_lease(self, pipeline: str) -> LeaseRow:
        await self._fail()
        return await super().read_lease(pipeline)

    async def load(self, pipeline: str) -> Any:
        await self._fail()
        return await super().load(pipeline)

    async def beat(self, fence: Fence) -> bool:
        await self._fail()
        return await super().beat(fence)

    async def save_alerts(self, fence: Fence, state: AlertState) -> None:
        await self._fail()
        await super().save_alerts(fence, state)


async def test_an_outage_of_the_store_is_told_and_remembered_when_it_is_back(tmp_path: Path, hook: Hook) -> None:
    store, api = Store(), Api()
    pipeline = job(tmp_path, api, retl.Alert(webhook=hook.url, failures=2), state=store, interval="50ms")
    async with running(pipeline) as after:
        await after(events.ScanFinished)
        store.down = True
        api.down = True
        with anyio.fail_after(20):
            await hook.arrived.wait()
        assert await super(Store, store).read_alerts("shop") == AlertState()
        store.down = False
        await after(events.ScanFailed)
        with anyio.fail_after(20):
            while not (await store.read_alerts("shop")).told:  # noqa: ASYNC110  # a state is not an event
                await anyio.sleep(0.01)
    assert hook.told() == [("orders", "failures", False)]


async def test_what_failed_while_it_stood_by_is_not_its_to_tell(
    tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retl.engine.runner.backoff", lambda *_, **__: 0.01)
    store = Store()
    await store.take_lease(await store.read_lease("shop"), "elsewhere/1//1/x", 0.2)
    pipeline = job(tmp_path, Api(), retl.Alert(webhook=hook.url, failures=2), state=store, interval="50ms")
    async with running(pipeline) as after:
        await after(events.LeaseHeld)
        store.down = True
        for _ in range(3):
            await after(events.RunFailed)
        store.down = False
        await after(events.ScanFinished)
    assert hook.requests == []


# How it tells -----------------------------------------------------------------------------


async def test_a_delivery_is_tried_again_but_not_for_ever_and_the_address_is_shown_nowhere(
    tmp_path: Path, hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    hook.answers = [503, 429, 500]
    api, alert = Api(down=True), retl.Alert(webhook=hook.url, headers={"X-Key": "another-secret"}, failures=1)
    pipeline = job(tmp_path, api, alert)
    await fail(pipeline, 1)
    assert len(hook.requests) == 4
    assert hook.requests[0][0]["X-Key"] == "another-secret"
    hook.answers = [500] * 100
    api.down = False
    heard = Recorder(pipeline)
    await fail(pipeline, 1)
    assert len(hook.requests) == 4 + 5
    (warned,) = heard.of(events.Warned)
    assert warned.message == "an alert was not delivered: the webhook at 127.0.0.1 answered 500."
    assert pipeline.snapshot().healthy
    stored = await pipeline._store.read_alerts("shop")
    await pipeline.aclose()
    for text in (repr(alert), str(alert), caplog.text, str(stored)):
        assert "secret-token" not in text and "another-secret" not in text


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (302, 1)])
async def test_what_cannot_succeed_is_not_tried_again_and_a_redirect_is_not_followed(
    tmp_path: Path, hook: Hook, status: int, attempts: int
) -> None:
    hook.answers = [status] * 10
    pipeline = job(tmp_path, Api(down=True), retl.Alert(webhook=hook.url, failures=1))
    heard = Recorder(pipeline)
    await fail(pipeline, 1)
    assert len(hook.requests) == attempts
    assert [event.message for event in heard.of(events.Warned)] == [
        f"an alert was not delivered: the webhook at 127.0.0.1 answered {status}. What to do: check its address and template."
    ]


async def test_a_webhook_that_nobody_serves_or_that_is_no_address_ends_nothing(tmp_path: Path) -> None:
    alerts = [retl.Alert(webhook=url, failures=1) for url in ("http://127.0.0.1:9/secret-token", "secret-token")]
    pipeline = job(tmp_path, Api(down=True), *alerts)
    heard = Recorder(pipeline)
    await fail(pipeline, 1)
    said = sorted(event.message for event in heard.of(events.Warned))
    assert "cannot be reached (Connect call failed" in said[0] or "cannot be reached (Connection refused" in said[0]
    assert "the webhook of an alert is no address" in said[1]
    assert not any("secret-token" in message for message in said)


async def test_a_function_may_be_plain_or_async_and_may_fail(tmp_path: Path) -> None:
    told: list[tuple[str, retl.Notice]] = []

    def plain(notice: retl.Notice) -> None:
        told.append(("plain", notice))

    async def slow(notice: retl.Notice) -> None:
        await anyio.lowlevel.checkpoint()
        told.append(("async", notice))

    def broken(notice: retl.Notice) -> None:
        told.append(("broken", notice))
        raise RuntimeError("my pager is broken")

    pipeline = job(tmp_path, Api(down=True), *(retl.Alert(call=call, failures=1) for call in (plain, slow, broken)))
    heard = Recorder(pipeline)
    await fail(pipeline, 1)
    assert sorted(name for name, _ in told) == ["async", *["broken"] * 5, "plain"]
    assert {(notice.table, notice.failures, notice.recovered) for _, notice in told} == {("orders", 1, False)}
    assert [event.message for event in heard.of(events.Warned)] == ["an alert was not delivered: my pager is broken"]


async def test_a_webhook_that_hangs_holds_up_neither_scans_nor_the_stop(tmp_path: Path) -> None:
    called = anyio.Event()

    async def hangs(_: retl.Notice) -> None:
        called.set()
        await anyio.sleep_forever()

    store = retl.MemoryStore()
    pipeline = job(tmp_path, Api(down=True), retl.Alert(call=hangs, failures=2), interval="50ms", state=store)
    with anyio.fail_after(20):
        async with running(pipeline) as after:
            await called.wait()
            for _ in range(3):
                await after(events.ScanFailed)
    # Its successor delivers what it could not.
    told: list[retl.Notice] = []
    began = datetime.now(UTC)
    await fail(job(tmp_path, Api(down=True), retl.Alert(call=told.append, failures=2), state=store), 1)
    assert [(one.table, one.failures, one.at < began) for one in told] == [("orders", 2, True)]


async def test_what_another_owner_took_over_is_told_as_over(tmp_path: Path, hook: Hook) -> None:
    """This one has told of an outage that it could not note down; only it knows that somebody has to hear of the end."""
    store = Store()
    pipeline = job(
        tmp_path, Api(), retl.Alert(webhook=hook.url, failures=1), state=store, interval="50ms", lease_ttl="300ms"
    )
    async with running(pipeline) as after:
        await after(events.ScanFinished)
        store.down = True
        with anyio.fail_after(20):
            await hook.arrived.wait()
            hook.arrived = anyio.Event()
            store.down = False
            fence = await store.take_lease(await store.read_lease("shop"), "elsewhere/1//1/x", 3600.0)
            assert fence is not None
            await hook.arrived.wait()
    assert [recovered for *_, recovered in hook.told()] == [False, True]


# Its words --------------------------------------------------------------------------------


NOTICE = retl.Notice(pipeline="shop", table="orders", condition="failures", message='it said "no"\n', failures=3)


@pytest.mark.parametrize(
    ("template", "body"),
    [
        (
            {"text": "{message}", "tags": ["{table}", 1], "to": {"n": "{failures}"}},
            b'{"text": "it said \\"no\\"\\n", "tags": ["orders", 1], "to": {"n": "3"}}',
        ),
        ('{"text": "{message}"}', b'{"text": "it said \\"no\\"\\n"}'),
        ("{pipeline}/{table}: {message} {error}", 'shop/orders: it said "no"\n '),
        ("a {} and a {{", "a {} and a {{"),
    ],
)
def test_a_template_is_filled_and_json_stays_json(template: Any, body: bytes | str) -> None:
    alert = retl.Alert(call=print, failures=1, template=template)
    assert body_of(alert, NOTICE) == body


def _refused(words: dict[str, Any]) -> Callable[[], retl.Alert]:
    return lambda: retl.Alert(**words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"failures": 1}, "either a webhook or a call"),
        ({"failures": 1, "call": print, "webhook": "http://x"}, "either a webhook or a call"),
        ({"call": "page", "failures": 1}, "call is no function"),
        ({"call": print}, "needs to know when to tell"),
        ({"call": print, "failures": 0}, "failures is 0"),
        ({"call": print, "rejects": -1}, "rejects is -1"),
        ({"call": print, "last_success": "soon"}, "last_success is 'soon'"),
        ({"call": print, "failures": 1, "template": {"a": ["{nobody}"]}}, r"template has \{nobody\}"),
    ],
)
def test_an_alert_that_could_never_tell_anything_is_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(retl.ConfigError, match=message):
        _refused(words)()


JOBS = """\
[[defaults.alerts]]
webhook = "${HOOK}"
failures = 1
template = { text = "{message}" }

[pipelines.shop]
source = { type = "sqlite", path = "warehouse.db" }
target = { type = "sqlite", path = "app.db" }
tables = ["nowhere"]
"""


async def test_a_job_file_declares_them_for_all_pipelines(
    tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", hook.url)
    file = tmp_path / "jobs.toml"
    file.write_text(JOBS)
    jobs = await anyio.to_thread.run_sync(load_jobs, file)
    (pipeline,) = jobs
    again = await anyio.to_thread.run_sync(jobs.reload)
    assert list(again) == [pipeline], "a file that has not changed changes no pipeline"
    await pipeline.run_once(check=False)
    ((_, body),) = hook.requests
    assert json.loads(body)["text"].startswith("shop / nowhere has failed: ")
    file.write_text(JOBS.replace("failures = 1", "failure = 1\nrejects = -1"))
    with pytest.raises(retl.ConfigError) as error:
        await anyio.to_thread.run_sync(load_jobs, file)
    assert "failure: unknown option; did you mean 'failures'?" in str(error.value)
