"""Files into an index, file by file: no transaction, but the same documents however often a scan begins again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from retl.connectors.elasticsearch.target.by_file import FileDocuments
from retl.model.errors import ConfigError, TargetError, TransientError, UnsupportedError
from tests.integration.files.folder import Folder
from tests.routes.ends import SearchEnd
from tests.routes.fixtures import make_end
from tests.servers.search import SearchServer


class Files:
    """A folder, and the index that it becomes."""

    def __init__(self, folder: Folder, end: SearchEnd) -> None:
        self.folder = folder
        self.server = end.server
        self.index = end.called("sales")
        self.write = folder.write
        self.scan = folder.scan
        self.words = folder.words

    def documents(self) -> dict[str, dict[str, Any]]:
        return self.server.documents(self.index)

    def rows(self, *columns: str) -> list[tuple[Any, ...]]:
        names = columns or ("id", "_file", "_row")
        return sorted(tuple(document.get(name) for name in names) for document in self.documents().values())

    def create(self, **properties: Any) -> None:
        body = {"settings": {"number_of_replicas": 0}, "mappings": {"properties": properties}}
        self.server.ask("PUT", f"/{self.index}", body)


@pytest.fixture
def files(
    elasticsearch_server: SearchServer, request: pytest.FixtureRequest, tmp_path: Path, at_once: None
) -> Iterator[Files]:
    with ExitStack() as stack:
        end = make_end("elasticsearch", "app", request, tmp_path, stack)
        assert isinstance(end, SearchEnd)
        yield Files(Folder(tmp_path, end), end)


async def test_a_changed_file_replaces_its_own_documents_and_no_others(files: Files) -> None:
    files.write("a.csv", "id,city", "1,Rome", "2,Oslo", "3,Lima")
    files.write("b.csv", "id,city", "4,Cairo")
    report = await files.scan()
    assert (report.status, report.rows) == ("done", 4)
    first = files.documents()
    assert sorted(first) == ['["a.csv","1"]', '["a.csv","2"]', '["a.csv","3"]', '["b.csv","1"]']
    files.write("a.csv", "id,city", "1,Roma", "9,Pisa")
    report = await files.scan()
    assert (report.status, report.rows) == ("done", 2)
    assert files.rows("id", "city", "_file", "_row") == [
        (1, "Roma", "a.csv", 1),
        (4, "Cairo", "b.csv", 1),
        (9, "Pisa", "a.csv", 2),
    ]
    now = files.documents()
    assert now['["b.csv","1"]'] == first['["b.csv","1"]']
    report = await files.scan()
    assert (report.rows, report.slices) == (0, 0)


async def test_a_file_that_is_gone_loses_its_documents_where_that_is_asked_for(files: Files) -> None:
    files.words["vanished"] = "delete"
    path = files.write("a.csv", "id", "1", "2")
    files.write("b.csv", "id", "3")
    await files.scan()
    path.unlink()
    await files.scan()
    assert files.rows() == [(3, "b.csv", 1)]
    assert (await files.scan()).rows == 0


async def test_upserted_documents_of_a_file_that_is_gone_go_too(files: Files) -> None:
    files.words.clear()
    files.words.update(key="id", vanished="delete")
    path = files.write("a.csv", "id,n", "1,10", "2,20")
    files.write("b.csv", "id,n", "3,30")
    await files.scan()
    path.unlink()
    await files.scan()
    assert files.rows("id", "n") == [(3, 30)]


async def test_a_scan_that_stops_before_the_old_documents_are_deleted_is_made_good_by_the_next(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write("a.csv", "id", "1", "2", "3")
    await files.scan()
    files.write("a.csv", "id", "7")
    with monkeypatch.context() as patched:

        async def lost(*_: object) -> None:
            raise TransientError("the line was cut.")

        patched.setattr(FileDocuments, "delete_others", lost)
        with pytest.raises(TransientError):
            await files.scan()
    # As documented: until then, what is new stands beside what is old.
    assert files.rows() == [(2, "a.csv", 2), (3, "a.csv", 3), (7, "a.csv", 1)]
    assert (await files.scan()).status == "done"
    assert files.rows() == [(7, "a.csv", 1)]


async def test_a_scan_that_stops_before_its_checkpoint_writes_the_same_documents_again(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write("a.csv", "id", "1", "2")
    await files.scan()
    files.write("a.csv", "id", "7", "8", "9")
    with monkeypatch.context() as patched:

        async def lost(*_: object) -> None:
            raise TransientError("the line was cut.")

        patched.setattr("retl.connectors.elasticsearch.state.store.ElasticsearchStore.save", lost)
        with pytest.raises(TransientError):
            await files.scan()
    before = set(files.documents())
    await files.scan()
    assert files.rows() == [(7, "a.csv", 1), (8, "a.csv", 2), (9, "a.csv", 3)]
    assert set(files.documents()) == before


async def test_rows_without_a_key_are_known_by_their_place_in_the_file(files: Files) -> None:
    files.words["provenance"] = "cc"
    files.write("a.csv", "id", "1", "2", "3")
    files.write("b.csv", "id", "4")
    await files.scan()
    assert sorted(files.documents()) == ['["a.csv","1"]', '["a.csv","2"]', '["a.csv","3"]', '["b.csv","1"]']
    files.write("a.csv", "id", "5", "6")
    await files.scan()
    assert files.rows("id", "__cc_src_file") == [(4, "b.csv"), (5, "a.csv"), (6, "a.csv")]


async def test_a_key_that_stands_in_two_files_is_a_reject_of_the_later_one(files: Files) -> None:
    files.words["key"] = "id"
    files.write("a.csv", "id,n", "1,10", "2,20")
    await files.scan()
    files.write("b.csv", "id,n", "2,99")
    report = await files.folder.failed()
    assert "b.csv: the target rejected 1 row" in (report.error or "")
    assert "its key is that of a document of the file 'a.csv'" in (report.error or "")
    assert files.rows("id", "n", "_file") == [(1, 10, "a.csv"), (2, 20, "a.csv")]
    files.write("a.csv", "id,n", "1,11", "3,30")
    await files.folder.failed()  # b.csv is tried again
    await files.scan()
    assert files.rows("id", "n", "_file") == [(1, 11, "a.csv"), (2, 99, "b.csv"), (3, 30, "a.csv")]


async def test_a_key_that_stands_twice_in_one_file_is_a_reject(files: Files) -> None:
    files.words["key"] = "id"
    files.write("a.csv", "id,n", "1,10", "1,20")
    report = await files.folder.failed()
    assert "its key stands twice in the file" in (report.error or "")


async def test_the_newest_file_has_a_key_that_stands_in_two(files: Files) -> None:
    files.words.update(key="id", key_conflict="newest", vanished="delete")
    files.write("z.csv", "id,n", "1,10", "2,20")
    newer = files.write("a.csv", "id,n", "2,21", "3,30")
    await files.scan()
    assert files.rows("id", "n", "_file") == [(1, 10, "z.csv"), (2, 21, "a.csv"), (3, 30, "a.csv")]
    newer.unlink()
    await files.scan()
    assert files.rows("id", "n", "_file") == [(1, 10, "z.csv"), (2, 20, "z.csv")]


async def test_a_name_that_no_id_can_hold_is_written_all_the_same(files: Files) -> None:
    files.folder.pattern = "**/*.csv"
    name = "/".join(["x" * 200] * 4) + "/a.csv"
    files.write(name, "id", "1", "2")
    await files.scan()
    files.write(name, "id", "3")
    await files.scan()
    assert files.rows() == [(3, name, 1)]


async def test_a_field_that_is_searched_by_words_finds_no_file(files: Files) -> None:
    files.create(_file={"type": "text"})
    files.write("a.csv", "id", "1")
    with pytest.raises(ConfigError, match="maps '_file', the name of the file, as text"):
        await files.scan()


async def test_a_view_of_the_field_that_is_exact_will_do_for_names_that_it_holds(files: Files) -> None:
    files.create(_file={"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 10}}})
    files.write("a.csv", "id", "1", "2")
    await files.scan()
    files.write("a.csv", "id", "3")
    await files.scan()
    assert files.rows() == [(3, "a.csv", 1)]
    files.write("a-long-name.csv", "id", "4")
    with pytest.raises(ConfigError, match=r"names of more than 10 characters, such as 'a-long-name.csv'"):
        await files.scan()


async def test_what_cannot_be_written_over_is_refused(files: Files) -> None:
    files.write("a.csv", "id", "1")
    with pytest.raises(ConfigError, match="the blacklist forbids UPDATE"):
        await files.folder.pipeline(blacklist=["UPDATE"]).run_once()
    for number in range(2):
        alias = {"aliases": {files.index: {"is_write_index": number == 1}}}
        files.server.ask("PUT", f"/{files.index}-{number}", alias)
    with pytest.raises(UnsupportedError, match="an alias of 2 indices"):
        await files.scan()


async def test_documents_that_lose_the_mark_are_not_deleted(files: Files) -> None:
    files.write("a.csv", "id", "1", "2")
    await files.scan()
    pipeline = {"processors": [{"remove": {"field": "_retl_scan", "ignore_missing": True}}]}
    files.server.ask("PUT", f"/_ingest/pipeline/{files.index}", pipeline)
    files.server.ask("PUT", f"/{files.index}/_settings", {"index.final_pipeline": files.index})
    files.write("a.csv", "id", "3")
    with pytest.raises(TargetError, match="do not have the field '_retl_scan'"):
        await files.scan()
    assert (3, "a.csv", 1) in files.rows()
