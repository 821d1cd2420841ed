"""How many statements a scan of a library sends: few, whatever its size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from retl.model.events import ScanFinished
from tests.fake_embeddings import EmbeddingService
from tests.integration.embeddings.test_documents import Library
from tests.routes.ends import PostgresEnd
from tests.routes.fixtures import make_end
from tests.servers.postgres import PostgresServer
from tests.servers.postgres_statements import Sent, log_statements, sent
from tests.support import running

MOST_IDLE = 8
MOST_CHANGED = 20
NOT_OF_THE_SCAN = ("BEGIN", "COMMIT", "UPDATE retl_leases SET beat", "SELECT 1 FROM retl_leases")


@pytest.fixture
def library(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    service: EmbeddingService,
    postgres_server: PostgresServer,
    at_once: None,
) -> Iterator[Library]:
    with ExitStack() as stack:
        end = make_end("postgres", "app", request, tmp_path, stack)
        assert isinstance(end, PostgresEnd)
        postgres_server.query("CREATE EXTENSION vector", database=end.database)
        log_statements(postgres_server, end.server.user)
        yield Library(tmp_path, end, service)


async def test_a_scan_asks_nothing_twice_and_needs_few_connections(
    library: Library, postgres_server: PostgresServer
) -> None:
    for number in range(40):
        library.write(f"{number:02}.md", f"# {number}\n\nbread and butter {number}", f"# More\n\ntrains {number}")
    service = library.pipeline(interval=3600)
    with sent(postgres_server) as before:
        async with running(service, patience=60) as after:
            await after(ScanFinished, service.trigger)
            library.write("03.md", "# 3\n\nanother text")
            await after(ScanFinished, service.trigger)
            with sent(postgres_server) as idle:
                await after(ScanFinished, service.trigger)
            library.write("07.md", "# 7\n\nthe first change")
            library.write("21.md", "# 21\n\nthe second one")
            with sent(postgres_server) as changed:
                found = await after(ScanFinished, service.trigger)
    assert isinstance(found, ScanFinished)
    assert (found.report.status, found.report.slices) == ("done", 1)
    chunks = library.chunks()
    assert {name for name, _, _ in chunks} == {f"{number:02}.md" for number in range(40)}
    assert [text for name, _, text in chunks if name in ("07.md", "21.md")] == [
        "# 7\n\nthe first change",
        "# 21\n\nthe second one",
    ]
    library.check_vectors()
    assert _own(idle) <= MOST_IDLE, "\n".join(idle.statements)
    assert _own(changed) <= MOST_CHANGED, "\n".join(changed.statements)
    saved = [statement for statement in changed.statements if "retl_checkpoints SET" in statement]
    assert len(saved) == 1, "the end of the scan is saved with its last slice"
    assert len(before.processes) <= 3, "a load, a question and a heartbeat have a connection each"


def _own(found: Sent) -> int:
    """The statements of the scan itself, without those that keep the lease and the connection alive."""
    return sum(not statement.startswith(NOT_OF_THE_SCAN) for statement in found.statements)
