"""The servers of these tests: they answer, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.servers import elasticsearch
from tests.servers.cache import DOWNLOAD_SECONDS
from tests.servers.search import Refused, SearchServer

pytestmark = pytest.mark.timeout(DOWNLOAD_SECONDS + 300)


def processes(marker: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if marker in " ".join(_command_line(process))]


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _ended(process: psutil.Process) -> bool:
    try:
        # Where nobody takes care of orphans they stay as zombies.
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_it_answers(elasticsearch_server: SearchServer) -> None:
    found = await elasticsearch_server.run("GET", "/")
    assert found["version"]["number"] == elasticsearch_server.version
    assert (found["version"].get("distribution") == "opensearch") == (elasticsearch_server.product == "OpenSearch")
    with pytest.raises(Refused, match="index_not_found_exception") as refused:
        elasticsearch_server.ask("GET", "/no-such-index/_search")
    assert refused.value.status == 404
    assert elasticsearch_server.ask("GET", "/no-such-index/_search", allow=(404,))["status"] == 404


def test_documents_come_back_to_the_byte(elasticsearch_server: SearchServer, prefix: str) -> None:
    text = '{ "größe": 1.10, "n": 12345678901234567890, "n2": {"a.b": [null, "\\u00e9"]} }'.encode()
    elasticsearch_server.ask("PUT", f"/{prefix}", {"mappings": {"dynamic": False}})
    elasticsearch_server.put(prefix, {"1": text, "2": {"b": 2}})
    elasticsearch_server.put(prefix, {"3": {}}, routing="somewhere")
    assert elasticsearch_server.texts(prefix) == {"1": text, "2": b'{"b": 2}', "3": b"{}"}
    assert elasticsearch_server.documents(prefix)["1"]["n"] == 12345678901234567890
    assert {hit.id: hit.routing for hit in elasticsearch_server.hits(prefix)} == {
        "1": None,
        "2": None,
        "3": "somewhere",
    }


def test_more_documents_than_one_page_holds(elasticsearch_server: SearchServer, prefix: str) -> None:
    documents = {f"d{number}": {"n": number} for number in range(4500)}
    elasticsearch_server.put(prefix, documents)
    assert elasticsearch_server.documents(prefix) == documents


def test_a_document_that_is_there_twice_is_noticed(elasticsearch_server: SearchServer, prefix: str) -> None:
    elasticsearch_server.put(f"{prefix}-a", {"1": {}})
    elasticsearch_server.put(f"{prefix}-b", {"1": {}})
    with pytest.raises(AssertionError, match="1 is twice"):
        elasticsearch_server.texts(f"{prefix}-*")


def test_a_document_that_is_refused_is_noticed(elasticsearch_server: SearchServer, prefix: str) -> None:
    elasticsearch_server.ask("PUT", f"/{prefix}", {"mappings": {"properties": {"n": {"type": "integer"}}}})
    with pytest.raises(AssertionError, match="failed to parse field"):
        elasticsearch_server.put(prefix, {"1": {"n": "no number"}})


def test_each_test_has_names_of_its_own(elasticsearch_server: SearchServer) -> None:
    server = elasticsearch_server
    with server.fresh_names() as one, server.fresh_names() as other:
        assert one != other
        for name in (one, other):
            server.ask("PUT", f"/{name}-plain", {"aliases": {f"{name}-alias": {}}})
            server.ask("PUT", f"/.{name}-hidden", {"settings": {"index.hidden": True}})
            server.ask(
                "PUT",
                f"/_index_template/{name}",
                {"index_patterns": [f"{name}-stream"], "data_stream": {}, "priority": 500},
            )
            server.put(f"{name}-stream", {"1": {"@timestamp": "2024-05-06T07:08:09.123456789Z"}}, op="create")
            assert server.documents(f"{name}-stream") == {"1": {"@timestamp": "2024-05-06T07:08:09.123456789Z"}}
    for name in (one, other):
        left = server.ask("GET", f"/_resolve/index/{name}*,.{name}*,retl-{name}*?expand_wildcards=all")
        # Our build of Elasticsearch has no way to delete a data stream: it goes with the server.
        assert not [each["name"] for each in left["indices"] if "data_stream" not in each] and not left["aliases"]


@pytest.mark.large
def test_a_server_that_does_not_start_shows_its_log() -> None:
    with (
        pytest.raises(RuntimeError, match=r"unknown setting \[no.such.setting\]"),
        elasticsearch.started(settings={"no.such.setting": 1}),
    ):
        pass


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[str]]:
    """Another process that has started a server and told where; it lasts until it is killed."""
    code = (
        "from tests.servers.elasticsearch import started\n"
        "from tests.integration.elasticsearch.test_servers import _folder\n"
        "with started() as server:\n"
        "    print(_folder(server), flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as process:
        yield process
        process.kill()


@pytest.mark.large
def test_a_server_ends_with_tests_that_are_killed(victim: subprocess.Popen[str]) -> None:
    assert victim.stdout is not None
    folder = Path(victim.stdout.readline().strip())
    own = processes(str(folder))
    # The server, its launcher, and who guards them.
    assert len(own) >= 3, own
    servers = [process for process in own if "java" in process.name()]
    assert len(servers) == 2 and "root" not in {process.username() for process in servers}
    os.kill(victim.pid, signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while not all(map(_ended, own)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert all(map(_ended, own))
    assert not folder.exists()


def _folder(server: SearchServer) -> Path:
    """Everything that the server writes lies below it."""
    (node,) = server.ask("GET", "/_nodes/settings")["nodes"].values()
    (folder,) = [each for each in Path(node["settings"]["path"]["logs"]).parents if each.name.startswith("retl-")]
    return folder
