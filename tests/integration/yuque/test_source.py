"""The source as its contract wants it: its tables and columns, several scans at once, scans that are left early.

The suite for sources makes tables of columns of its own, which a book cannot have; these are its sentences for one that
has its columns already, and finds its slices by the manifest.
"""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing

import anyio
import pytest

from retl.connectors import Yuque
from retl.connectors.base import Source, SourceScan
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError, RetlError, UnsupportedError
from retl.testing import manifest_of, read_slice, table_spec
from tests.fake_yuque import FakeYuque


@pytest.fixture
async def source(yuque: FakeYuque) -> AsyncIterator[Source]:
    opened = Yuque(yuque.url, token=yuque.token).source()
    yield opened
    await opened.aclose()


def _filled(yuque: FakeYuque, number: int = 50) -> list[str]:
    book = yuque.library.book("team/handbook")
    return [book.write(f"page {n:02}", f"text {n}").title for n in range(number)]


async def _titles(scan: SourceScan) -> list[str]:
    found: list[str] = []
    async with aclosing(scan.slices()) as slices:
        async for slice_ in slices:
            found += (await read_slice(scan, slice_)).column("title").to_pylist()
    return sorted(found)


async def test_ping_says_who_answers(yuque: FakeYuque, source: Source) -> None:
    info = await source.ping()
    assert (info.product, info.detail, info.warnings) == ("Yuque", "as me", ())
    assert yuque.asked[0].headers["User-Agent"] == "retl"


async def test_tables_are_the_books_of_the_owner_and_of_the_groups_sorted(yuque: FakeYuque, source: Source) -> None:
    yuque.library.owner("me", type="User")
    for name in ("team/b", "team/a", "me/notes", "other/z"):
        yuque.library.book(name)
    assert await source.list_tables() == ["me/notes", "other/z", "team/a", "team/b"]


async def test_describe_names_columns_and_key(yuque: FakeYuque, source: Source) -> None:
    _filled(yuque, 1)
    schema = await source.describe("team/handbook")
    assert schema is not None
    assert (schema.key, schema.hidden) == (("id",), frozenset({"extra"}))
    assert schema.names[:3] == ["id", "type", "book_id"]


@pytest.mark.parametrize("name", ["team/nothing", "nothing/at-all", "424242"])
async def test_a_book_that_is_not_there_is_the_users_error(yuque: FakeYuque, source: Source, name: str) -> None:
    _filled(yuque, 1)
    assert await source.describe(name) is None
    async with source.open_scan(table_spec(name), Checkpoint(), manifest_of()) as scan:
        with pytest.raises(ConfigError, match=name):
            await _titles(scan)


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("team/handbook", ["handbook"]),
        ("team", ["faq", "guide", "handbook"]),
        ("team/*", ["faq", "guide", "handbook"]),
        ("team/[fg]*", ["faq", "guide"]),
        ("me", ["notes"]),
        ("*/*", ["faq", "guide", "handbook", "notes"]),
        ("team/faq, me/notes", ["faq", "notes"]),
    ],
)
async def test_books_are_chosen_by_name_and_found_by_pattern(
    yuque: FakeYuque, source: Source, name: str, titles: list[str]
) -> None:
    for book in ("team/handbook", "team/guide", "team/faq", "me/notes"):
        yuque.library.book(book).write(book.partition("/")[2], "text")
    async with source.open_scan(table_spec(name), Checkpoint(), manifest_of()) as scan:
        assert await _titles(scan) == titles


@pytest.mark.parametrize("name", ["", " , ", "/handbook", "team/handbook/page"])
def test_a_name_that_is_no_book_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="names no books"):
        Yuque(token="t0k3n-of-nobody").source().narrowed(table_spec(name or " "))


@pytest.mark.parametrize(
    "words",
    [
        {"cursor": "updated_at"},
        {"query": "x"},
        {"where": "x"},
        {"expressions": {"a": "b"}},
        {"format": {"type": "csv"}},
    ],
)
def test_words_that_mean_nothing_here_are_refused(words: dict[str, object]) -> None:
    with pytest.raises(UnsupportedError, match="has no meaning for Yuque"):
        Yuque(token="t0k3n-of-nobody").source().narrowed(table_spec("team/handbook", **words))


@pytest.mark.parametrize(
    "words",
    [{"columns": ["idd"]}, {"exclude": ["idd"]}, {"rename": {"titel": "n"}}, {"key": "no"}, {"columns": ["title"]}],
)
async def test_a_column_that_is_not_there_is_refused(source: Source, words: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        async with source.open_scan(table_spec("team/handbook", **words), Checkpoint(), manifest_of()):
            pass


async def test_columns_are_chosen_renamed_and_left_out(yuque: FakeYuque, source: Source) -> None:
    _filled(yuque, 1)
    table = table_spec("team/handbook", columns=["title", "id"], rename={"title": "label"})
    async with source.open_scan(table, Checkpoint(), manifest_of()) as scan:
        assert (scan.plan.schema.names, scan.plan.key) == (["label", "id"], ("id",))
        slices = [slice_ async for slice_ in scan.slices()]
        (number,) = yuque.library.documents
        assert (await read_slice(scan, slices[0])).to_pylist() == [{"label": "page 00", "id": number}]
    async with source.open_scan(table_spec("team/handbook", exclude=["body_raw"]), Checkpoint(), manifest_of()) as scan:
        assert "body_raw" not in scan.plan.schema.names


async def test_slices_are_small_values_that_can_be_pickled_and_read_again(yuque: FakeYuque, source: Source) -> None:
    titles = _filled(yuque)
    async with source.open_scan(table_spec("team/handbook"), Checkpoint(), manifest_of()) as scan:
        found: list[str] = []
        async with aclosing(scan.slices()) as slices:
            async for slice_ in slices:
                assert pickle.loads(pickle.dumps(slice_)) == slice_
                first, again = await read_slice(scan, slice_), await read_slice(scan, slice_)
                assert first == again
                delivered = scan.delivered(slice_)
                assert delivered is not None and delivered.manifest is not None
                assert [entry.name for entry in delivered.manifest.put] == [
                    str(n) for n in first.column("id").to_pylist()
                ]
                found += first.column("title").to_pylist()
        assert found == titles


async def test_two_scans_of_one_table_read_side_by_side(yuque: FakeYuque, source: Source) -> None:
    titles = _filled(yuque)
    found: list[list[str]] = []

    async def read() -> None:
        async with source.open_scan(table_spec("team/handbook"), Checkpoint(), manifest_of()) as scan:
            found.append(await _titles(scan))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(read)
    assert found == [titles] * 3


@pytest.mark.parametrize("how", ["error", "cancel"])
async def test_a_scan_that_is_left_early_holds_nothing_any_more(yuque: FakeYuque, source: Source, how: str) -> None:
    titles = _filled(yuque)
    yuque.moods.silent = 0.01
    with anyio.CancelScope() as cancelling:
        try:
            async with AsyncExitStack() as stack:
                table = table_spec("team/handbook")
                scan = await stack.enter_async_context(source.open_scan(table, Checkpoint(), manifest_of()))
                slices = await stack.enter_async_context(aclosing(scan.slices()))
                slice_ = await anext(slices)
                if how == "error":
                    raise LookupError
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(read_slice, scan, slice_)
                    await anyio.sleep(0.03)
                    cancelling.cancel()
                    await anyio.sleep_forever()
        except LookupError:
            pass
    yuque.moods.silent = 0
    async with source.open_scan(table_spec("team/handbook"), Checkpoint(), manifest_of()) as scan:
        assert await _titles(scan) == titles


async def test_a_source_that_was_closed_may_be_used_again(yuque: FakeYuque, source: Source) -> None:
    await source.ping()
    await source.aclose()
    await source.aclose()
    assert (await source.ping()).product == "Yuque"


async def test_a_preview_says_what_there_is_to_do_and_reads_no_document(yuque: FakeYuque, source: Source) -> None:
    _filled(yuque, 3)
    async with source.open_scan(table_spec("team/handbook"), Checkpoint(), manifest_of()) as scan:
        told = await scan.preview()
        assert told.lines == ("book team/handbook: Handbook", "3 new, 0 changed, 0 moved, 0 unchanged, 0 vanished")
        assert yuque.documents_read() == []


async def test_errors_are_those_of_retl(yuque: FakeYuque, source: Source) -> None:
    _filled(yuque, 1)
    for body in (b"", b"[]", b"{", b'"text"', b"null", b'{"data": 3}'):
        yuque.moods.body = body
        async with source.open_scan(table_spec("team/handbook"), Checkpoint(), manifest_of()) as scan:
            with pytest.raises(RetlError):
                await _titles(scan)
