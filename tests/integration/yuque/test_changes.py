"""What has changed is found, and nothing else is read: by filters where there are some, by lists where not."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from retl.connectors.yuque.listing import Capabilities
from tests.fake_yuque import FakeYuque
from tests.fake_yuque.library import time_text
from tests.integration.yuque.handbook import handbook


async def test_a_scan_where_nothing_has_changed_costs_only_the_lists(yuque: FakeYuque, tmp_path: Path) -> None:
    book = yuque.library.book("team/handbook")
    for number in range(30):
        book.write(f"page {number:02}", f"text {number}")
    yuque.library.tick(3600)
    async with handbook(yuque, tmp_path) as table:
        assert (await table.scan()).rows == 30
        assert table.rows() == [(f"page {number:02}", f"text {number}") for number in range(30)]
        await table.scan()  # learns what the installation can do
        for _ in range(2):
            assert (await table.scan()).rows == 0
            assert yuque.documents_read() == []
            assert [one.path.rpartition("/")[2] for one in yuque.asked] == ["handbook", "toc", "docs", "docs", "docs"]


async def test_changes_are_asked_for_since_the_last_one_that_was_seen_less_a_minute(
    yuque: FakeYuque, tmp_path: Path
) -> None:
    book = yuque.library.book("team/handbook")
    old = book.write("old", "as it was")
    yuque.library.tick(3600)
    new = book.write("new", "as it was")
    async with handbook(yuque, tmp_path) as table:
        await table.scan()
        old.change(body="other")
        report = await table.scan()
        assert (report.rows, yuque.documents_read()) == (1, [old.id])
        since = {query["changed_at_gte"] for query in table.lists() if "changed_at_gte" in query}
        assert since == {"2999-01-01T00:00:00.000Z", time_text(new.updated - timedelta(minutes=1))}
        assert table.rows() == [("new", "as it was"), ("old", "other")]


@pytest.mark.parametrize("how", ["ignores", "refuses"])
async def test_an_older_installation_without_the_filters_is_listed_in_full(
    yuque: FakeYuque, tmp_path: Path, how: str
) -> None:
    yuque.moods.old = how
    book = yuque.library.book("team/handbook")
    kept, changed, gone = (book.write(title, "first") for title in ("kept", "changed", "gone"))
    async with handbook(yuque, tmp_path) as table:
        await table.scan()
        changed.change(body="second")
        gone.delete()
        await table.scan()
        assert table.rows() == [("changed", "second"), ("kept", "first")]
        assert set(table.entries()) == {str(kept.id), str(changed.id)}
        gone.restore()
        kept.purge()
        report = await table.scan()
        assert table.rows() == [("changed", "second"), ("gone", "first")]
        assert report.rows == 1


async def test_documents_that_come_and_go_while_pages_are_listed_are_all_there(
    yuque: FakeYuque, tmp_path: Path
) -> None:
    """The last change stands first, so a document that comes pushes others to the next page, and one that goes pulls one
    over to a page that was read already."""
    book = yuque.library.book("team/handbook")
    documents = [book.write(f"page {number:03}", "text") for number in range(250)]
    coming = iter(range(3))

    def shift(path: str, offset: int) -> None:
        if offset and (number := next(coming, None)) is not None:
            book.write(f"late {number}", "text")
            documents[200 + number].delete()
            documents[230 + number].delete()

    yuque.moods.on_page = shift
    async with handbook(yuque, tmp_path) as table:
        await table.scan()
        yuque.moods.on_page = None
        await table.scan()
        gone = {*range(200, 203), *range(230, 233)}
        expected = [f"late {number}" for number in range(3)]
        expected += [f"page {number:03}" for number in range(250) if number not in gone]
        assert table.titles() == expected


async def test_a_short_page_is_not_the_last_one(yuque: FakeYuque, tmp_path: Path) -> None:
    yuque.moods.page = 7
    book = yuque.library.book("team/handbook")
    for number in range(20):
        book.write(f"page {number:02}", "text")
    async with handbook(yuque, tmp_path) as table:
        await table.scan()
        assert table.titles() == [f"page {number:02}" for number in range(20)]


async def test_a_document_that_a_list_has_missed_is_not_taken_for_deleted(yuque: FakeYuque, tmp_path: Path) -> None:
    """One that is in no list and can be read is there."""
    book = yuque.library.book("team/handbook")
    missed, gone, kept = (book.write(title, "text") for title in ("missed", "gone", "kept"))
    async with handbook(yuque, tmp_path, options={"reconcile": 0}) as table:
        await table.scan()
        listed = missed.library.of
        missed.library.of = lambda book: [one for one in listed(book) if one is not missed]  # type: ignore[method-assign]
        gone.purge()
        await table.scan()
        assert sorted(yuque.documents_read()) == [missed.id, gone.id]
        assert table.titles() == ["kept", "missed"]
        assert kept.id not in yuque.documents_read()


async def test_what_lies_in_the_bin_is_deleted_and_what_comes_out_of_it_comes_back(
    yuque: FakeYuque, tmp_path: Path
) -> None:
    book = yuque.library.book("team/handbook")
    one, _ = book.write("one", "text"), book.write("two", "text")
    async with handbook(yuque, tmp_path) as table:
        await table.scan()
        one.delete()
        await table.scan()
        assert table.titles() == ["two"]
        assert yuque.documents_read() == []
        one.restore()
        await table.scan()
        assert table.titles() == ["one", "two"]


async def test_what_is_gone_for_ever_is_found_by_the_full_list_now_and_then(yuque: FakeYuque, tmp_path: Path) -> None:
    book = yuque.library.book("team/handbook")
    one, _ = yuque.library.add(book, "one", "text"), book.write("two", "text")
    async with handbook(yuque, tmp_path, options={"reconcile": "1h"}) as table:
        await table.scan()
        one.purge()
        await table.scan()
        assert table.titles() == ["one", "two"]  # no list of changes can tell
    async with handbook(yuque, tmp_path, options={"reconcile": 0}) as table:
        await table.scan()
        assert table.titles() == ["two"]


async def test_that_all_were_listed_is_remembered_though_nothing_has_changed(yuque: FakeYuque, tmp_path: Path) -> None:
    yuque.library.book("team/handbook").write("one", "text")
    async with handbook(yuque, tmp_path, options={"reconcile": 0}) as table:
        await table.scan()
        report = await table.scan()
        assert (report.rows, report.slices) == (0, 1)
    async with handbook(yuque, tmp_path, options={"reconcile": "1h"}) as table:
        assert (await table.scan()).slices == 0


async def test_a_target_restored_from_yesterday_is_made_right_by_the_next_scan(
    yuque: FakeYuque, tmp_path: Path
) -> None:
    book = yuque.library.book("team/handbook")
    kept, changed, gone = (book.write(title, "text") for title in ("kept", "changed", "gone"))
    async with handbook(yuque, tmp_path) as table:
        await table.scan()
    backup = (tmp_path / "app.db").read_bytes()
    yuque.library.tick(3600)
    changed.change(body="new text")
    gone.delete()
    book.write("new", "text")
    async with handbook(yuque, tmp_path) as table:
        await table.scan()
        today = table.rows()
    for left in tmp_path.glob("app.db*"):
        left.unlink()
    (tmp_path / "app.db").write_bytes(backup)

    async with handbook(yuque, tmp_path) as table:
        assert table.titles() == ["changed", "gone", "kept"]
        await table.scan()
        assert table.rows() == today == [("changed", "new text"), ("kept", "text"), ("new", "text")]
        assert kept.id not in yuque.documents_read()


async def test_a_slug_that_is_used_again_is_another_document(yuque: FakeYuque, tmp_path: Path) -> None:
    book = yuque.library.book("team/handbook")
    first, other = book.write("first", "text", slug="guide"), book.write("other", "text", slug="other")
    async with handbook(yuque, tmp_path) as table:
        await table.scan()
        first.delete()
        second = book.write("second", "text", slug="guide")
        await table.scan()
        assert table.rows("id, title, slug") == [
            (other.id, "other", "other"),
            (second.id, "second", "guide"),
        ]
    async with handbook(yuque, tmp_path, vanished="keep") as table:
        first.restore()
        await table.scan()
        assert [slug for (slug,) in table.rows("slug")] == ["guide", "guide", "other"]
        assert first.id in [number for (number,) in table.rows("id")]


async def test_a_document_that_moves_in_the_table_of_contents_has_its_new_path(
    yuque: FakeYuque, tmp_path: Path
) -> None:
    book = yuque.library.book("team/handbook")
    moved, _ = book.write("moved/away", "text"), book.write("kept", "text")
    outside = yuque.library.add(book, "in no table of contents", "text")
    yuque.library.tick(3600)
    async with handbook(yuque, tmp_path) as table:
        await table.scan()
        book.contents = [("Part", [("Chapter", [moved])]), ("a link", "https://example.com"), *book.contents[1:]]
        await table.scan()
        assert yuque.documents_read() == [moved.id]
        expected = [("in no table of contents", None), ("kept", "kept"), ("moved/away", "Part/Chapter/moved\\/away")]
        assert table.rows("title, path") == expected
        book.contents[0] = ("Section", book.contents[0][1])
        await table.scan()
        assert ("moved/away", "Section/Chapter/moved\\/away") in table.rows("title, path")
        assert outside.id not in yuque.documents_read()


async def test_a_document_that_moves_to_another_book_of_the_table_stays_one_row(
    yuque: FakeYuque, tmp_path: Path
) -> None:
    here, there = yuque.library.book("team/here"), yuque.library.book("team/there")
    document, _ = here.write("traveller", "text"), there.write("native", "text")
    async with handbook(yuque, tmp_path, name="team/*") as table:
        await table.scan()
        document.move(there)
        await table.scan()
        assert table.rows("title, book") == [("native", "team/there"), ("traveller", "team/there")]


async def test_a_document_that_moves_out_of_the_table_is_gone(yuque: FakeYuque, tmp_path: Path) -> None:
    here, there = yuque.library.book("team/here"), yuque.library.book("team/there")
    document, _ = here.write("traveller", "text"), here.write("native", "text")
    async with handbook(yuque, tmp_path, name="team/here", options={"reconcile": 0}) as table:
        await table.scan()
        document.move(there)
        await table.scan()
        assert table.titles() == ["native"]


async def test_a_book_or_a_group_that_is_renamed_is_renamed_in_every_row(yuque: FakeYuque, tmp_path: Path) -> None:
    book = yuque.library.book("team/handbook", "The Handbook")
    book.write("one", "text")
    book.write("two", "text")
    async with handbook(yuque, tmp_path, name=str(book.id)) as table:
        await table.scan()
        book.slug, book.name, book.owner.name = "guide", "The Guide", "Another Team"
        await table.scan()
        assert table.rows("book, book_name, group_name, title") == [
            ("team/guide", "The Guide", "Another Team", title) for title in ("one", "two")
        ]


async def test_a_book_that_is_new_under_a_pattern_is_read_from_its_beginning(yuque: FakeYuque, tmp_path: Path) -> None:
    yuque.library.book("team/one").write("first", "text")
    late = yuque.library.book("team/two")
    late.write("older than the last change that was seen", "text")
    late.gone = True
    yuque.library.tick(3600)
    yuque.library.book("team/one").write("second", "text")
    async with handbook(yuque, tmp_path, name="team/*") as table:
        await table.scan()
        late.gone = False
        await table.scan()
        assert table.titles() == ["first", "older than the last change that was seen", "second"]


async def test_the_documents_of_a_book_that_is_gone_are_gone(yuque: FakeYuque, tmp_path: Path) -> None:
    yuque.library.book("team/one").write("first", "text")
    book = yuque.library.book("team/two")
    book.write("second", "text")
    async with handbook(yuque, tmp_path, name="team/*") as table:
        await table.scan()
        book.gone = True
        await table.scan()
        assert table.titles() == ["first"]


async def test_a_book_that_the_list_of_its_group_has_missed_keeps_its_documents(
    yuque: FakeYuque, tmp_path: Path
) -> None:
    yuque.library.book("team/one").write("first", "text")
    book = yuque.library.book("team/two")
    book.write("second", "text")
    async with handbook(yuque, tmp_path, name="team/*") as table:
        await table.scan()
        owner, book.owner = book.owner, yuque.library.owner("elsewhere")
        namespace = type(book).namespace
        try:
            type(book).namespace = property(lambda self: f"team/{self.slug}")  # type: ignore[assignment]
            await table.scan()
        finally:
            type(book).namespace = namespace  # type: ignore[method-assign]
            book.owner = owner
        assert table.titles() == ["first", "second"]


async def test_an_empty_list_deletes_nothing(yuque: FakeYuque, tmp_path: Path) -> None:
    book = yuque.library.book("team/handbook")
    for number in range(3):
        book.write(f"page {number}", "text")
    async with handbook(yuque, tmp_path, options={"reconcile": 0}) as table:
        await table.scan()
        for document in yuque.library.documents.values():
            document.purge()
        report = await table.attempt()
        assert report.error_type == "GuardStopped"
        assert "3 documents are gone" in str(report.error)
        assert len(table.titles()) == 3
    async with handbook(yuque, tmp_path, max_shrink="100%", options={"reconcile": 0}) as table:
        await table.scan()
        assert table.titles() == []


async def test_rows_of_documents_that_are_gone_are_kept_unless_told_otherwise(yuque: FakeYuque, tmp_path: Path) -> None:
    book = yuque.library.book("team/handbook")
    one, _ = book.write("one", "text"), book.write("two", "text")
    async with handbook(yuque, tmp_path, vanished=None) as table:
        await table.scan()
        one.delete()
        await table.scan()
        assert table.titles() == ["one", "two"]
        assert all("deleted" not in query for query in table.lists())


async def test_what_nobody_has_published_is_never_read(yuque: FakeYuque, tmp_path: Path) -> None:
    book = yuque.library.book("team/handbook")
    draft = book.write("a draft", "SECRET", status=0, published=None)
    book.write("published", "text")
    async with handbook(yuque, tmp_path, columns=[*_every_column(), "extra"]) as table:
        await table.scan()
        assert table.titles() == ["published"]
        assert draft.id not in yuque.documents_read()
        assert "UNPUBLISHED" not in repr(table.rows("*"))
        draft.change(status=1, published=yuque.library.now)
        await table.scan()
        assert table.titles() == ["a draft", "published"]
        draft.change(status=0, published=None)
        await table.scan()
        assert table.titles() == ["published"]


def _every_column() -> list[str]:
    from retl.connectors.yuque.types import columns

    return [name for name in columns(attachments=False)[0].names if name != "extra"]


async def test_a_document_that_goes_between_the_list_and_its_reading_stops_nothing(
    yuque: FakeYuque, tmp_path: Path
) -> None:
    book = yuque.library.book("team/handbook")
    for number in range(3):
        book.write(f"page {number}", "text")
    async with handbook(yuque, tmp_path) as table:
        yuque.moods.refused = {next(iter(yuque.library.documents)): 404}
        report = await table.scan()
        assert (report.rows, table.titles()) == (2, ["page 1", "page 2"])


async def test_a_document_that_is_gone_for_ever_when_it_is_read_again_is_deleted(
    yuque: FakeYuque, tmp_path: Path
) -> None:
    book = yuque.library.book("team/handbook")
    one, _ = book.write("one", "text"), book.write("two", "text")
    async with handbook(yuque, tmp_path) as table:
        await table.scan()
        one.change(body="other")
        yuque.moods.refused = {one.id: 410}
        await table.scan()
        assert table.titles() == ["two"]
        assert set(table.entries()) == {str(number) for number in yuque.library.documents if number != one.id}


def test_an_installation_is_taken_to_show_its_bin_until_it_does_not() -> None:
    can = Capabilities()
    assert (can.changes, can.bins) == (None, True)
