"""A folder of files into a table of each system, file by file."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from retl.model.errors import ConfigError, GuardStopped, SchemaDrift
from tests.integration.files.folder import Folder
from tests.routes.ends import DuckDBEnd, SqlEnd
from tests.routes.fixtures import make_end

TARGETS = ("sqlite", "duckdb", "mysql", "mariadb", "postgres", "postgres15")


@pytest.fixture(params=TARGETS)
def folder(request: pytest.FixtureRequest, tmp_path: Path, at_once: None) -> Iterator[Folder]:
    with ExitStack() as stack:
        yield Folder(tmp_path, make_end(request.param, "app", request, tmp_path, stack))


async def test_files_become_rows_that_know_where_they_came_from(folder: Folder) -> None:
    folder.write("a.csv", "id,city", "1,Rome", "2,Oslo")
    folder.write("b.csv", "id,city", "3,Lima")
    report = await folder.scan()
    assert (report.status, report.rows, report.rejects) == ("done", 3, 0)
    assert folder.rows("id", "city", "_file", "_row") == [
        (1, "Rome", "a.csv", 1),
        (2, "Oslo", "a.csv", 2),
        (3, "Lima", "b.csv", 1),
    ]
    assert folder.entries() == [("a.csv", 2), ("b.csv", 1)]


@pytest.mark.by_target
async def test_several_patterns_fill_one_table(folder: Folder) -> None:
    folder.pattern = "sales"
    folder.words |= {
        "files": ["eu/{day:%Y-%m-%d}.csv", "us/{state}/*.csv", "us/**/{day:%Y-%m-%d}.csv"],
        "vanished": "delete",
        "max_shrink": "50%",
    }
    gone = folder.write("eu/2024-05-01.csv", "id", "1")
    folder.write("us/NY/2024-05-02.csv", "id", "2")  # the first pattern that matches a name takes it
    folder.write("us/2024-05-03.csv", "id", "3")
    folder.write("asia/2024-05-04.csv", "id", "4")
    assert (await folder.scan()).rows == 3
    gone.unlink()
    folder.write("us/CA/a.csv", "id", "5")

    assert (await folder.scan()).rows == 1

    assert [(id_, day and str(day)[:10], *rest) for id_, day, *rest in folder.rows("id", "day", "state", "_file")] == [
        (2, None, "NY", "us/NY/2024-05-02.csv"),
        (3, "2024-05-03", None, "us/2024-05-03.csv"),
        (5, None, "CA", "us/CA/a.csv"),
    ]
    assert folder.entries() == [("us/2024-05-03.csv", 1), ("us/CA/a.csv", 1), ("us/NY/2024-05-02.csv", 1)]


async def test_an_unchanged_folder_is_not_read_again(folder: Folder) -> None:
    folder.write("a.csv", "id", "1")
    await folder.scan()
    report = await folder.scan()
    assert (report.status, report.rows, report.slices) == ("done", 0, 0)


async def test_a_changed_file_replaces_its_own_rows_and_no_others(folder: Folder) -> None:
    folder.write("a.csv", "id", "1", "2", "3")
    folder.write("b.csv", "id", "4")
    await folder.scan()
    folder.write("a.csv", "id", "1", "9")
    report = await folder.scan()
    assert report.rows == 2
    assert folder.rows() == [(1, "a.csv", 1), (4, "b.csv", 1), (9, "a.csv", 2)]
    assert folder.entries() == [("a.csv", 2), ("b.csv", 1)]


async def test_a_file_that_only_looks_changed_keeps_its_rows_where_contents_are_compared(folder: Folder) -> None:
    folder.words["identity"] = "content"
    wide = "x" * 300  # a file of more than a megabyte is read in another way
    large = [f"{number},{wide}" for number in range(1_000, 5_000)]
    for name, lines in (("a.csv", ["1,"]), ("b.csv", ["2,"]), ("c.csv", ["3,"]), ("large.csv", large)):
        folder.write(name, "id,text", *lines)
    assert (await folder.scan()).rows == len(large) + 3
    for name, lines in (("a.csv", ["1,"]), ("b.csv", ["4,"]), ("c.csv", ["3,"]), ("large.csv", large)):
        folder.write(name, "id,text", *lines)
    assert (await folder.scan()).rows == 1
    assert folder.rows()[:3] == [(1, "a.csv", 1), (3, "c.csv", 1), (4, "b.csv", 1)]
    assert len(folder.rows()) == len(large) + 3
    assert folder.entries() == [("a.csv", 1), ("b.csv", 1), ("c.csv", 1), ("large.csv", len(large))]
    folder.write("a.csv", "id,text", "1,")  # alone
    assert (await folder.scan()).rows == 0
    folder.write("large.csv", "id,text", "5,")
    folder.write("c.csv", "id,text", "x,")
    assert (await folder.failed()).rows == 1
    assert folder.rows() == [(1, "a.csv", 1), (3, "c.csv", 1), (4, "b.csv", 1), (5, "large.csv", 1)]
    folder.write("c.csv", "id,text", "3,")
    assert (await folder.scan()).rows == 0
    assert (await folder.scan()).slices == 0


async def test_a_file_that_is_gone_keeps_its_rows(folder: Folder) -> None:
    path = folder.write("a.csv", "id", "1")
    folder.write("b.csv", "id", "2")
    await folder.scan()
    path.unlink()
    assert (await folder.scan()).rows == 0
    assert folder.rows() == [(1, "a.csv", 1), (2, "b.csv", 1)]


async def test_a_file_that_is_gone_loses_its_rows_where_that_is_asked_for(folder: Folder) -> None:
    folder.words["vanished"] = "delete"
    path = folder.write("a.csv", "id", "1")
    folder.write("b.csv", "id", "2")
    await folder.scan()
    path.unlink()
    assert (await folder.scan()).status == "done"
    assert folder.rows() == [(2, "b.csv", 1)]
    assert folder.entries() == [("b.csv", 1)]


async def test_an_empty_listing_deletes_nothing_unless_that_is_allowed(folder: Folder) -> None:
    folder.words["vanished"] = "delete"
    path = folder.write("a.csv", "id", "1")
    await folder.scan()
    path.unlink()
    with pytest.raises(GuardStopped, match="1 files are gone, with 1 of the 1 rows"):
        await folder.scan()
    assert folder.rows() == [(1, "a.csv", 1)]
    folder.words["max_shrink"] = "100%"
    await folder.scan()
    assert folder.rows() == folder.entries() == []


async def test_a_bad_file_keeps_its_old_rows_and_stops_no_other(folder: Folder) -> None:
    for name in "abc":
        folder.write(f"{name}.csv", "id,n", f"{ord(name)},1")
    await folder.scan()
    folder.write("a.csv", "id,n", "1,1")
    folder.write("b.csv", "id,n", "2,1", "two,2")
    folder.write("c.csv", "id,n", "3,1")
    report = await folder.failed()
    assert folder.rows() == [(1, "a.csv", 1), (3, "c.csv", 1), (98, "b.csv", 1)]
    assert re.search(r"1 file could not be read.*b\.csv", report.error or "")
    assert "line 3" in (report.error or "") and "two" in (report.error or "")
    assert any("b.csv" in warning for warning in report.warnings)
    assert folder.entries() == [("a.csv", 1), ("b.csv", 1), ("c.csv", 1)]
    folder.write("b.csv", "id,n", "2,1")
    assert (await folder.scan()).rows == 1
    assert folder.rows() == [(1, "a.csv", 1), (2, "b.csv", 1), (3, "c.csv", 1)]


async def test_rows_that_do_not_fit_are_rejects_as_far_as_that_is_allowed(folder: Folder) -> None:
    folder.words["max_rejects"] = 1
    folder.write("a.csv", "id,n", "1,1", "2,2")
    await folder.scan()
    folder.write("b.csv", "id,n", "3,1", "4,x", "5,3")
    report = await folder.scan()
    assert (report.rows, report.rejects) == (3, 1)
    assert folder.rows() == [(1, "a.csv", 1), (2, "a.csv", 2), (3, "b.csv", 1), (5, "b.csv", 3)]


async def test_rows_that_the_target_rejects_leave_out_their_file_alone(folder: Folder) -> None:
    folder.target.create("sales", {"_file": "text", "_row": "int"})
    folder.write("a.csv", "id", "1")
    folder.write("b.csv", "id", "7", "7")
    folder.write("c.csv", "id", "3")
    report = await folder.failed()
    assert folder.rows() == [(1, "a.csv", 1), (3, "c.csv", 1)]
    assert "b.csv" in (report.error or "")
    assert folder.entries() == [("a.csv", 1), ("c.csv", 1)]
    folder.write("b.csv", "id", "7", "8")
    await folder.scan()
    assert folder.rows() == [(1, "a.csv", 1), (3, "c.csv", 1), (7, "b.csv", 1), (8, "b.csv", 2)]


async def test_values_are_read_as_the_types_that_the_target_has(folder: Folder) -> None:
    folder.target.create("sales", {"code": "text", "_file": "text", "_row": "int"}, key=False)
    folder.write("a.csv", "id,code", "1,007", "2,008")
    folder.write("b.csv", "id,code", "x,009")
    report = await folder.failed()
    assert folder.rows("id", "code", "_row") == [(1, "007", 1), (2, "008", 2)]
    assert "b.csv" in (report.error or "")


INDEXES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'sales' AND sql IS NOT NULL",
    "mysql": "SELECT DISTINCT index_name FROM information_schema.statistics WHERE table_schema = DATABASE() "
    "AND table_name = 'sales' AND index_name <> 'PRIMARY'",
    "postgres": "SELECT indexname FROM pg_indexes WHERE tablename = 'sales' AND indexdef NOT LIKE '%UNIQUE%'",
}


def indexes(folder: Folder) -> list[str]:
    """The names of the table's indexes besides that of its key."""
    question = INDEXES[folder.target.connector().type_name]
    assert isinstance(folder.target, SqlEnd)
    return [str(name) for (name,) in folder.target.run(question)]


@pytest.mark.parametrize("there", [False, True])
async def test_the_column_of_the_file_gets_one_index(folder: Folder, there: bool) -> None:
    if isinstance(folder.target, DuckDBEnd):
        pytest.skip("one pass over a column is the best way there")
    if there:
        folder.target.create("sales", {"n": "int", "_file": "text", "_row": "int"})
    folder.words["key"] = "id"
    folder.write("a.csv", "id,n", "1,1")
    await folder.scan()
    (name,) = indexes(folder)
    assert "_file" in name
    folder.write("b.csv", "id,n", "2,2")
    await folder.scan()
    assert indexes(folder) == [name]


async def test_a_key_that_begins_with_the_file_needs_no_other_index(folder: Folder) -> None:
    if isinstance(folder.target, DuckDBEnd):
        pytest.skip("one pass over a column is the best way there")
    folder.write("a.csv", "id", "1")
    await folder.scan()
    assert indexes(folder) == []


async def test_an_index_is_demanded_by_name_where_none_may_be_created(folder: Folder) -> None:
    folder.target.create("sales", {"_file": "text", "_row": "int"})
    folder.write("a.csv", "id", "1")
    if isinstance(folder.target, DuckDBEnd):
        await folder.pipeline(blacklist=["CREATE"]).run_once()
        return
    with pytest.raises(ConfigError, match=r"no index that begins with '_file'.*the blacklist forbids CREATE") as caught:
        await folder.pipeline(blacklist=["CREATE"]).run_once()
    assert isinstance(folder.target, SqlEnd)
    demanded = re.search(r"(CREATE INDEX .*\))\.", caught.value.remedy)
    assert demanded is not None
    folder.target.run(demanded[1].replace("CONCURRENTLY ", ""))
    await folder.pipeline(blacklist=["CREATE"]).run_once()
    assert folder.rows() == [(1, "a.csv", 1)]


async def test_a_key_that_stands_in_two_files_leaves_the_second_one_out(folder: Folder) -> None:
    folder.words["key"] = "id"
    folder.write("a.csv", "id,n", "1,10", "2,20")
    folder.write("b.csv", "id,n", "2,99", "3,30")
    report = await folder.failed()
    assert folder.rows("id", "n", "_file") == [(1, 10, "a.csv"), (2, 20, "a.csv")]
    assert "b.csv" in (report.error or "")


async def test_the_newest_file_has_a_key_that_stands_in_two(folder: Folder) -> None:
    folder.words.update(key="id", key_conflict="newest", vanished="delete")
    folder.write("z.csv", "id,n", "1,10", "2,20")
    newer = folder.write("a.csv", "id,n", "2,21", "3,30")
    await folder.scan()
    assert folder.rows("id", "n", "_file") == [(1, 10, "z.csv"), (2, 21, "a.csv"), (3, 30, "a.csv")]
    folder.write("m.csv", "id,n", "3,31")
    assert (await folder.scan()).rows == 1
    assert folder.rows("id", "n") == [(1, 10), (2, 21), (3, 31)]
    newer.unlink()
    await folder.scan()
    assert folder.rows("id", "n", "_file") == [(1, 10, "z.csv"), (2, 20, "z.csv"), (3, 31, "m.csv")]


async def test_a_file_that_is_written_to_while_it_is_watched_waits(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.words["quiet"] = "1h"
    folder.write("a.csv", "id", "1")
    folder.write("b.csv", "id", "2")
    hour, others = [lambda: folder.write("a.csv", "id", "3"), lambda: None], anyio.sleep

    async def sleep(seconds: float) -> None:
        if seconds > 3_000:
            await anyio.to_thread.run_sync(hour.pop(0))
        else:
            await others(seconds)

    monkeypatch.setattr(anyio, "sleep", sleep)
    report = await folder.scan()
    assert (report.status, folder.rows()) == ("done", [(2, "b.csv", 1)])
    assert any("a.csv" in warning and "changed" in warning for warning in report.warnings)
    await folder.scan()
    assert folder.rows() == [(2, "b.csv", 1), (3, "a.csv", 1)]


async def test_a_young_file_waits(folder: Folder) -> None:
    folder.words["min_age"] = "1h"
    folder.write("a.csv", "id", "1")
    young = folder.write("b.csv", "id", "2")
    os.utime(young)
    await folder.scan()
    assert folder.rows() == [(1, "a.csv", 1)]


async def test_names_become_columns(folder: Folder) -> None:
    folder.pattern = "{region}/sales-{day:%Y-%m-%d}.csv"
    folder.write("north/sales-2024-05-31.csv", "id", "1")
    folder.write("south/sales-2024-06-01.csv", "id", "2")
    await folder.scan()
    found = [
        (number, region, dt.date.fromisoformat(str(day)[:10]))
        for number, region, day in folder.rows("id", "region", "day")
    ]
    assert found == [(1, "north", dt.date(2024, 5, 31)), (2, "south", dt.date(2024, 6, 1))]


async def test_folders_of_a_partitioned_tree_become_columns(folder: Folder) -> None:
    folder.pattern = "**/*.csv"
    folder.words["hive"] = True
    folder.write("year=2024/month=05/a.csv", "id", "1")
    folder.write("year=2024/month=__HIVE_DEFAULT_PARTITION__/a.csv", "id", "2")
    await folder.scan()
    assert folder.rows("id", "year", "month") == [(1, "2024", "05"), (2, "2024", None)]
    folder.write("year=2025/month=01/a.csv", "id", "3")
    await folder.scan()
    assert folder.rows("id", "year", "month")[-1] == (3, "2025", "01")


async def test_provenance_has_the_names_of_choice(folder: Folder) -> None:
    folder.words["provenance"] = "cc"
    folder.write("a.csv", "id", "1")
    await folder.scan()
    assert folder.rows("id", "__cc_src_file", "__cc_src_url") == [(1, "a.csv", f"{folder.root}/a.csv")]
    folder.write("a.csv", "id", "2")
    await folder.scan()
    assert folder.rows("id", "__cc_src_file") == [(2, "a.csv")]


async def test_provenance_tells_hash_and_time(folder: Folder) -> None:
    folder.words["provenance"] = {"hash": "sha", "modified": "at"}
    folder.write("a.csv", "id", "1")
    await folder.scan()
    ((number, digest),) = folder.rows("id", "sha")
    assert (number, digest) == (1, hashlib.sha256(b"id\n1\n").hexdigest())


async def test_hidden_and_unfinished_files_are_left_alone(folder: Folder) -> None:
    folder.pattern = "**"
    for name in (".a.csv", "b.csv.tmp", "c.csv.part", "_SUCCESS", ".git/d.csv", "_temporary/e.csv", "f.csv~"):
        folder.write(name, "id", "99")
    folder.write("a.csv", "id", "1")
    await folder.scan()
    assert folder.rows() == [(1, "a.csv", 1)]


async def test_upsert_by_key_needs_no_other_words(folder: Folder) -> None:
    folder.words = {"key": "id"}
    folder.write("a.csv", "id,n", "1,10", "2,20")
    await folder.scan()
    folder.write("a.csv", "id,n", "2,21", "3,30")
    await folder.scan()
    assert folder.rows("id", "n") == [(1, 10), (2, 21), (3, 30)]


async def test_without_key_and_truncate_the_error_says_what_to_do(folder: Folder) -> None:
    folder.words = {}
    folder.write("a.csv", "id", "1")
    with pytest.raises(ConfigError, match="truncate"):
        await folder.scan()


@pytest.mark.parametrize("words", [{"pre_action": "truncate"}, {"key": "id", "vanished": "delete"}])
async def test_no_row_of_a_file_is_deleted_where_the_blacklist_forbids_it(
    folder: Folder, words: dict[str, str]
) -> None:
    folder.write("a.csv", "id", "1")
    await folder.scan()
    folder.words = words
    folder.write("a.csv", "id", "2")
    with pytest.raises(ConfigError, match="deletes the rows of a file, and the blacklist forbids DELETE"):
        await folder.pipeline(blacklist=["DELETE"]).run_once()
    assert folder.rows() == [(1, "a.csv", 1)]


async def test_to_delete_the_rows_of_a_file_is_not_to_truncate(folder: Folder) -> None:
    folder.write("a.csv", "id", "1")
    folder.write("b.csv", "id", "2")
    await folder.pipeline(blacklist=["TRUNCATE"]).run_once()
    folder.write("a.csv", "id", "3")
    await folder.pipeline(blacklist=["TRUNCATE"]).run_once()
    assert folder.rows() == [(2, "b.csv", 1), (3, "a.csv", 1)]


@pytest.mark.parametrize("pre_action", ["swap", "mirror", "rename_and_create"])
async def test_a_table_that_is_replaced_holds_all_files_again(folder: Folder, pre_action: str) -> None:
    folder.words = {"pre_action": pre_action}
    path = folder.write("a.csv", "id", "1")
    folder.write("b.csv", "id", "2")
    await folder.scan()
    assert (await folder.scan()).rows == 0
    path.unlink()
    folder.write("c.csv", "id", "3")
    assert (await folder.scan()).rows == 2
    assert folder.rows() == [(2, "b.csv", 1), (3, "c.csv", 1)]
    assert folder.entries() == [("b.csv", 1), ("c.csv", 1)]
    assert (await folder.scan()).rows == 0


async def test_a_table_that_is_replaced_by_nothing_stops_each_time_unless_that_is_allowed(folder: Folder) -> None:
    folder.words = {"pre_action": "swap"}
    path = folder.write("a.csv", "id", "1")
    await folder.scan()
    path.unlink()
    for _ in range(2):
        with pytest.raises(GuardStopped, match=r'the source has no rows.*max_shrink = "100%"'):
            await folder.scan()
        assert folder.rows() == [(1, "a.csv", 1)]
    folder.words["max_shrink"] = "100%"
    await folder.scan()
    assert (folder.rows(), folder.entries()) == ([], [])


async def test_a_bad_file_leaves_a_table_that_is_replaced_as_it_was(folder: Folder) -> None:
    folder.words = {"pre_action": "swap"}
    folder.write("a.csv", "id", "1")
    folder.write("b.csv", "id", "2")
    await folder.scan()
    folder.write("a.csv", "id", "x")
    folder.write("b.csv", "id", "3")
    await folder.failed()
    assert folder.rows() == [(1, "a.csv", 1), (2, "b.csv", 1)]
    folder.write("a.csv", "id", "4")
    await folder.scan()
    assert folder.rows() == [(3, "b.csv", 1), (4, "a.csv", 1)]


async def test_a_column_of_a_later_file_is_added(folder: Folder) -> None:
    folder.write("a.csv", "id", "1")
    await folder.scan()
    folder.write("b.csv", "id,city", "2,Rome")
    report = await folder.scan()
    assert (report.status, report.rows) == ("done", 1)
    assert folder.rows("id", "city", "_file") == [(1, None, "a.csv"), (2, "Rome", "b.csv")]


async def test_a_column_of_a_later_file_is_added_to_a_table_that_is_replaced(folder: Folder) -> None:
    folder.words = {"pre_action": "swap"}
    folder.write("a.csv", "id", "1")
    await folder.scan()
    folder.write("b.csv", "id,city", "2,Rome")
    report = await folder.scan()
    assert (report.status, report.rows) == ("done", 2)
    assert folder.rows("id", "city", "_file") == [(1, None, "a.csv"), (2, "Rome", "b.csv")]


async def test_a_wider_type_that_the_target_lacks_stops_the_scan_and_names_the_column(folder: Folder) -> None:
    folder.words["new_types"] = "widen"
    folder.write("a.csv", "id,n", "1,10")
    await folder.scan()
    folder.write("b.csv", "id,n", "2,ten")
    with pytest.raises(SchemaDrift, match=r"column 'n' of the source is string.*change the target's column"):
        await folder.scan()
    assert folder.rows("id", "n") == [(1, 10)]


async def test_a_table_that_was_lost_is_loaded_again_where_that_is_allowed(folder: Folder) -> None:
    folder.words["lost_target"] = "reload"
    folder.write("a.csv", "id", "1")
    folder.write("b.csv", "id", "2")
    await folder.scan()
    folder.target.drop("sales")
    (folder.root / "b.csv").unlink()
    await folder.scan()
    assert folder.rows() == [(1, "a.csv", 1)]
    assert folder.entries() == [("a.csv", 1)]


async def test_a_folder_without_files_is_no_error_and_makes_no_table(folder: Folder) -> None:
    report = await folder.scan()
    assert (report.status, report.rows) == ("done", 0)
    assert any("no file matches *.csv" in warning for warning in report.warnings)
    assert "sales" not in folder.target.tables()


async def test_many_files_are_few_commits(folder: Folder) -> None:
    for number in range(250):
        folder.write(f"{number:04}.csv", "id", str(number))
    report = await folder.scan()
    assert (report.rows, report.slices) == (250, 1)
    assert folder.rows("id") == [(number,) for number in range(250)]


async def test_a_plan_tells_columns_rows_and_what_has_changed(folder: Folder) -> None:
    folder.write("a.csv", "id,city", "1,Rome")
    folder.write("b.csv", "id,city", "2,Oslo")
    await folder.scan()
    folder.write("b.csv", "id,city", "3,Lima", "4,Bonn")
    (plan,) = await folder.pipeline().plan()
    assert plan.preview[0] == "0 new, 1 changed, 1 unchanged, 0 vanished, 0 waiting, 0 archived"
    assert "column city: string" in plan.preview
    assert plan.preview[-1] == "row id = 1, city = Rome, _file = a.csv, _row = 1"
    assert folder.entries() == [("a.csv", 1), ("b.csv", 1)]
