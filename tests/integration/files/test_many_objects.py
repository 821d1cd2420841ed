"""Trees of many objects: the second scan costs the listing and a few statements, whatever their number."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import retl
from benchmarks.common import in_own_process
from retl.connectors.base import Source
from retl.connectors.files.source import FileSource
from retl.model.events import ScanFinished
from tests import tiers
from tests.fake_s3 import FakeS3, Object
from tests.integration.files.buckets import s3_files
from tests.integration.files.stores import Endless
from tests.routes.ends import PostgresEnd
from tests.routes.fixtures import make_end
from tests.servers.postgres import PostgresServer
from tests.servers.postgres_statements import log_statements, sent
from tests.support import running

MOST_STATEMENTS = 10
NOT_OF_THE_SCAN = ("BEGIN", "COMMIT", "SET", "UPDATE retl_leases SET beat")
LIVENESS = "SELECT 1"
"""Heartbeats, and questions whether an idle connection lives, come by the clock."""
MOST_MEMORY_MB = 250


@pytest.fixture
async def target(request: pytest.FixtureRequest, tmp_path: Path, at_once: None) -> AsyncIterator[PostgresEnd]:
    with ExitStack() as stack:
        end = make_end("postgres", "app", request, tmp_path, stack)
        assert isinstance(end, PostgresEnd)
        yield end


def pipeline(source: Source, target: PostgresEnd) -> retl.Pipeline:
    table = retl.Table("tree/*.csv", to="sales", pre_action=retl.PreAction.TRUNCATE)
    return retl.Pipeline("many", source=source, target=target.connector(), tables=[table])


@pytest.mark.timeout(1800)
async def test_a_second_scan_of_an_unchanged_tree_is_a_listing_and_a_few_statements(
    target: PostgresEnd, postgres_server: PostgresServer
) -> None:
    endless = Endless(100_000 if tiers.every_step() else 2_000)
    log_statements(postgres_server, target.server.user)
    service = pipeline(FileSource(endless), target)
    async with running(service, patience=20 if endless.files < 10_000 else 600) as after:
        first = await after(ScanFinished, service.trigger)
        assert isinstance(first, ScanFinished)
        assert (first.report.rows, first.report.slices) == (endless.files, endless.files // 1_000)
        assert target.run("SELECT count(*), count(DISTINCT _file) FROM sales") == [(endless.files, endless.files)]
        endless.listings = 0
        with sent(postgres_server) as found:
            second = await after(ScanFinished, service.trigger)
    assert isinstance(second, ScanFinished)
    assert (second.report.status, second.report.rows, endless.listings) == ("done", 0, 1)
    asked = [one for one in found.statements if not one.startswith(NOT_OF_THE_SCAN) and one != LIVENESS]
    assert len(asked) <= MOST_STATEMENTS, "\n".join(asked)


async def test_an_unchanged_bucket_costs_a_request_for_a_thousand_objects(target: PostgresEnd, fake_s3: FakeS3) -> None:
    lake = fake_s3.buckets.setdefault("lake", {})
    lake.update({f"tree/{number:06}.csv": Object(b"id\n%d\n" % number) for number in range(2_500)})
    for gets in (2_500, 0):
        fake_s3.asked.clear()
        made = pipeline(s3_files(fake_s3, "s3://lake/").source(), target)
        (report,) = (await made.run_once()).scans
        await made.aclose()
        assert (report.status, report.rows) == ("done", gets)
        listings = [asked for asked in fake_s3.asked if not asked.key]
        assert len(fake_s3.asked) - len(listings) in (gets, gets + 5)  # a few are sampled first
        assert len(listings) <= 3 + 1
    assert target.run("SELECT count(*), sum(id) FROM sales") == [(2_500, sum(range(2_500)))]


@pytest.mark.large
@pytest.mark.timeout(1800)
def test_a_larger_manifest_takes_no_more_memory(tmp_path: Path) -> None:
    """Each in a process of its own; a page of the manifest is full in both."""
    peaks = []
    for number in (150_000, 1_000_000 if tiers.every_step() else 300_000):
        path = str(tmp_path / f"{number}.db")
        filled = in_own_process("benchmarks.many_files_runs", "fill", path, number)
        found = in_own_process("benchmarks.many_files_runs", "compare", path, number, filled["checkpoint"])
        assert found["changed"] == 0
        peaks.append(found["peak_mb"])
    print(f"{peaks} MB, longest stall {found['stall_ms']} ms")
    assert peaks[1] < min(MOST_MEMORY_MB, peaks[0] + 30)
