"""The service's limits are kept, and what passes is waited for; what does not becomes an error that says what to do."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

import retl
from retl import events
from retl.connectors import Yuque
from retl.connectors.yuque.wire import pause_of
from retl.model.errors import ConfigError, ConnectionFailed
from tests.fake_yuque import FakeYuque
from tests.integration.yuque.handbook import handbook
from tests.support import Recorder


def _written(yuque: FakeYuque, number: int) -> list[str]:
    book = yuque.library.book("team/handbook")
    return [book.write(f"page {n:03}", f"text {n}").title for n in range(number)]


async def test_what_the_service_asks_to_wait_is_waited_in_full_and_told(yuque: FakeYuque, tmp_path: Path) -> None:
    titles = _written(yuque, 30)
    yuque.moods.quota, yuque.moods.retry_after, yuque.moods.refill_after = 20, "2", 1.9
    async with handbook(yuque, tmp_path) as table:
        heard = Recorder(table.job)
        began = time.monotonic()
        report = await table.scan()
        assert time.monotonic() - began >= 2.0
        assert table.titles() == titles
        (warning,) = report.warnings
        assert "the quota of requests (20) is used up: waiting until 20" in warning
        # It was told while it waited, not when all was over.
        kinds = [type(event) for event in heard.events]
        assert kinds.index(events.Warned) < len(kinds) - 1 - kinds[::-1].index(events.SliceCommitted)
        # Nobody asked while the quota was used up, but those who were under way.
        assert sum(one.status == 429 for one in yuque.asked) <= 3


async def test_a_longer_wait_than_is_allowed_ends_the_scan_and_the_next_one_goes_on_behind_it(
    yuque: FakeYuque, tmp_path: Path
) -> None:
    titles = _written(yuque, 70)
    yuque.moods.quota = 50
    async with handbook(yuque, tmp_path, options={"longest_wait": "1s"}) as table:
        report = await table.attempt()
        assert report.error_type == "QuotaUsedUp"
        assert "longest_wait" in str(report.error)
        there = table.titles()
        assert there and len(there) % 20 == 0
        before = len(yuque.asked)
        assert (await table.attempt()).error_type == "QuotaUsedUp"
        assert (before, len(yuque.asked)) == (before, 0)  # it knows, and does not ask
    yuque.moods.quota = None
    async with handbook(yuque, tmp_path) as table:
        report = await table.scan()
        assert table.titles() == titles
        assert len(yuque.documents_read()) == report.rows == 70 - len(there)


async def test_a_first_load_of_many_hours_reads_no_document_twice(yuque: FakeYuque, tmp_path: Path) -> None:
    titles = _written(yuque, 120)
    yuque.moods.quota, yuque.moods.retry_after, yuque.moods.refill_after = 40, "0.3", 0.25
    async with handbook(yuque, tmp_path) as table:
        await table.scan()
        assert table.titles() == titles
        read = [int(one.path.rpartition("/")[2]) for one in yuque.asked if one.status == 200 and "/docs/" in one.path]
        assert sorted(read) == sorted(yuque.library.documents)


async def test_a_refusal_that_names_no_time_is_tried_again_with_growing_pauses(
    yuque: FakeYuque, tmp_path: Path
) -> None:
    _written(yuque, 3)
    yuque.moods.failing = {r"/repos/\d+/docs/\d+": [429, 429]}
    async with handbook(yuque, tmp_path) as table:
        assert (await table.scan()).rows == 3


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_what_passes_is_asked_for_again(yuque: FakeYuque, tmp_path: Path, status: int) -> None:
    _written(yuque, 3)
    yuque.moods.failing = {r"/repos/\d+/docs/\d+": [status], r"/repos/\d+/toc": [status]}
    async with handbook(yuque, tmp_path) as table:
        assert (await table.scan()).rows == 3


@pytest.mark.parametrize("status", [403, 500])
async def test_a_document_that_cannot_be_read_stops_no_other(yuque: FakeYuque, tmp_path: Path, status: int) -> None:
    _written(yuque, 30)
    refused = next(iter(yuque.library.documents))
    yuque.moods.refused = {refused: status}
    async with handbook(yuque, tmp_path) as table:
        report = await table.attempt()
        assert table.titles() == [f"page {n:03}" for n in range(1, 30)]
        assert f"the document team/handbook/d{refused} ({refused}): the service answers {status}" in str(report.error)
        assert "ignore" in str(report.error)
        yuque.moods.refused = {}
        await table.scan()
        assert yuque.documents_read() == [refused]
        assert len(table.titles()) == 30


async def test_a_document_can_be_left_out_by_its_address(yuque: FakeYuque, tmp_path: Path) -> None:
    book = yuque.library.book("team/handbook")
    refused, _ = book.write("refused", "text", slug="secret"), book.write("read", "text")
    yuque.moods.refused = {refused.id: 403}
    async with handbook(yuque, tmp_path, ignore="team/handbook/secret") as table:
        await table.scan()
        assert table.titles() == ["read"]


async def test_a_service_that_refuses_every_document_is_not_asked_for_all_of_them(
    yuque: FakeYuque, tmp_path: Path
) -> None:
    _written(yuque, 60)
    yuque.moods.refused = dict.fromkeys(yuque.library.documents, 500)
    async with handbook(yuque, tmp_path) as table:
        report = await table.attempt()
        assert "answers 500" in str(report.error)
        assert len(yuque.documents_read()) <= 20


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "make a new token"),
        (403, "let the token's account read it"),
        (404, "check the name"),
        (410, "check the name"),
        (400, "older than its API says"),
        (422, "older than its API says"),
        (500, "open it in the browser"),
    ],
)
async def test_what_is_refused_for_good_says_what_to_do(
    yuque: FakeYuque, tmp_path: Path, status: int, remedy: str
) -> None:
    _written(yuque, 1)
    yuque.moods.failing = {"/repos/team/handbook": [status]}
    async with handbook(yuque, tmp_path) as table:
        report = await table.attempt()
        assert f"the service answers {status}" in str(report.error)
        assert remedy in str(report.error)
        assert len(yuque.asked) == 1


async def test_a_token_that_expires_halfway_keeps_what_is_there_and_is_named_by_no_message(
    yuque: FakeYuque, tmp_path: Path
) -> None:
    _written(yuque, 300)
    yuque.moods.silent = 0.005  # the reader is no more than a few slices ahead

    async with handbook(yuque, tmp_path) as table:
        heard = Recorder(table.job)
        heard.when(events.SliceCommitted, lambda event: setattr(yuque.moods, "expired", True))
        report = await table.attempt()
        assert "make a new token" in str(report.error)
        assert report.error_type == "ConfigError"
        there = len(table.titles())
        assert 20 <= there < 300
        assert yuque.token not in f"{report}{heard.events}{table.job}"
        yuque.moods.expired = False
        await table.scan()
        assert len(table.titles()) == 300
        assert len(yuque.documents_read()) == 300 - there


async def test_no_more_than_three_requests_are_under_way_at_once(yuque: FakeYuque, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        book = yuque.library.book(f"team/{name}")
        for number in range(10):
            book.write(f"page {number}", "text")
    yuque.moods.silent = 0.01
    source = Yuque(yuque.url, token=yuque.token)
    tables = [retl.Table(f"team/{name}", to=name) for name in ("one", "two", "three")]
    job = retl.Pipeline(
        "handbook", source=source, target=retl.connectors.SQLite(str(tmp_path / "app.db")), tables=tables
    )
    try:
        report = await job.run_once()
    finally:
        await job.aclose()
    assert [scan.rows for scan in report.scans] == [10, 10, 10]
    assert yuque.most_at_once == 3


def test_the_time_to_wait_is_read_in_every_form() -> None:
    now = datetime(2024, 5, 1, 12, tzinfo=UTC)
    date = {"date": format_datetime(now, usegmt=True)}
    later = format_datetime(now + timedelta(seconds=90), usegmt=True)
    assert pause_of({"retry-after": "3600"}) == 3600
    assert pause_of({"retry-after": "1.5"}) == 1.5
    assert pause_of({"retry-after": later, **date}) == 90
    assert pause_of({"x-ratelimit-reset": "30"}) == 30
    assert pause_of({"x-ratelimit-reset": str(int(now.timestamp()) + 45), **date}) == 45
    assert pause_of({"retry-after": "soon"}) is None
    assert pause_of({}) is None


async def test_a_server_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    source = Yuque("http://127.0.0.1:9", token="t0k3n-of-nobody").source()
    try:
        with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:9"):
            await source.ping()
    finally:
        await source.aclose()


@pytest.mark.parametrize(
    "url", ["www.yuque.com", "ftp://host", "https://user@host", "https://host?x=1", "https://host:0"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="not the address of a site"):
        Yuque(url, token="t0k3n-of-nobody").login()


@pytest.mark.parametrize("token", [None, "", "with space", "with\nline"])
def test_a_token_that_is_none_is_refused(token: str | None) -> None:
    with pytest.raises(ConfigError, match="needs a token"):
        Yuque(token=token).login()


def test_the_address_may_be_that_of_the_api() -> None:
    login = Yuque("https://team.example.com/api/v2/", token="t0k3n-of-nobody").login()
    assert (login.site, login.api) == ("https://team.example.com", "https://team.example.com/api/v2")
    assert "t0k3n" not in repr(login)
