"""The stand-in is driven by clients of others, which know nothing of it: what they cannot read is mended there.

``yuque-py`` cannot be installed beside other tests (it wants pytest 5.1.1 and requests 2.22.0, to the digit),
``simple-pyyuque`` cannot be imported (its package lacks two of its modules), and ``yuque-mcp`` asks
``https://SPACE.yuque.com`` and no other host.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio.to_thread
import pytest

from tests.fake_yuque import FakeYuque
from tests.fake_yuque.library import Book

pyuque_client = pytest.importorskip("pyuque.client")
toolkit_client = pytest.importorskip("yuque_toolkit.client")
sdk_client = pytest.importorskip("yuque.client")


@pytest.fixture
def book(yuque: FakeYuque) -> Book:
    """A book of 230 documents, in a table of contents of three levels."""
    book = yuque.library.book("team/handbook", "Handbook")
    documents = [book.write(f"page {number}", f"text {number}") for number in range(230)]
    book.contents = [("Part", [("Chapter", documents[:100]), *documents[100:]])]
    return book


@pytest.fixture
def sdk(yuque: FakeYuque, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(sdk_client, "BASE_URL", yuque.url)
    with sdk_client.YuqueClient(token=yuque.token) as client:
        yield client


def test_pyuque_lists_and_reads(yuque: FakeYuque, book: Book) -> None:
    client = pyuque_client.Yuque(token=yuque.token, api_base=f"{yuque.url}/api/v2")
    assert client.user.get()["data"]["login"] == "me"
    assert [group["login"] for group in client.user.list_groups("me")["data"]] == ["team"]
    assert [found["namespace"] for found in client.group.list_repos("team")["data"]] == ["team/handbook"]
    assert client.repo.get("team/handbook")["data"]["id"] == book.id
    assert client.repo.get(str(book.id))["data"]["name"] == "Handbook"
    listed = client.repo.list_docs("team/handbook")
    assert (len(listed["data"]), listed["meta"]["total"]) == (100, 230)
    document = client.doc.get("team/handbook", listed["data"][0]["slug"])["data"]
    assert (document["title"], document["body"], document["format"]) == ("page 229", "text 229", "markdown")
    levels = [node["level"] for node in client.repo.toc("team/handbook")["data"]]
    assert (levels[:3], len(levels)) == ([0, 1, 2], 232)


def test_yuque_sdk_pages_through_a_book_and_reads_documents(yuque: FakeYuque, book: Book, sdk: Any) -> None:
    assert sdk.hello()["data"]["message"] == "Hello Me Myself"
    assert sdk.user.get_me().login == "me"
    assert sdk.repo.get_by_path("team", "handbook")["id"] == book.id
    titles: list[str] = []
    while page := sdk.doc.get_by_repo(book.id, offset=len(titles)):
        assert page.meta.total == 230
        titles += [one["title"] for one in page.data]
        if not page.data:
            break
    assert sorted(titles) == sorted(f"page {number}" for number in range(230))
    first = next(iter(yuque.library.documents.values()))
    assert sdk.doc.get(first.id)["body"] == "text 0"
    assert len(sdk.repo.get_toc(book.id)) == 232
    assert [found["slug"] for found in sdk.repo.get_group_repos("team").data] == ["handbook"]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, "AuthenticationError"),
        (404, "NotFoundError"),
        (422, "ValidationError"),
        (429, "RateLimitError"),
        (502, "ServerError"),
    ],
)
def test_errors_have_the_form_that_yuque_sdk_knows(yuque: FakeYuque, sdk: Any, status: int, error: str) -> None:
    """It raises its transport's errors before it looks at an answer, so the answer is given to it by itself."""
    yuque.moods.failing = {"/hello": [status]}
    answer = sdk._get_sync_client().get("/api/v2/hello")
    with pytest.raises(sdk_client.YuqueError) as caught:
        sdk._handle_response(answer)
    assert type(caught.value).__name__ == error


async def test_yuque_sdk_reads_without_blocking(yuque: FakeYuque, book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdk_client, "BASE_URL", yuque.url)
    client = await anyio.to_thread.run_sync(lambda: sdk_client.YuqueClient(token=yuque.token))
    async with client:
        page = await client.doc.get_by_path_async("team", "handbook", offset=200)
        assert len(page.data) == 30


def test_yuque_toolkit_lists_and_reads(yuque: FakeYuque, book: Book) -> None:
    client = toolkit_client.YuqueClient(yuque.token, yuque.url)
    assert client.get_user()["data"]["name"] == "Me Myself"
    assert client.get_repo("team", "handbook")["data"]["namespace"] == "team/handbook"
    titles: list[str] = []
    while page := client.list_docs("team", "handbook", offset=len(titles), limit=50)["data"]:
        titles += [one["title"] for one in page]
    assert sorted(titles) == sorted(f"page {number}" for number in range(230))
    slug = next(iter(yuque.library.documents.values())).slug
    assert client.get_doc("team", "handbook", slug, raw=1)["data"]["body"] == "text 0"
    assert client.get_toc("team", "handbook")["data"][2]["title"] == "page 0"
    with pytest.raises(RuntimeError, match="404"):
        client.get_doc("team", "handbook", "no-such-page")
    with pytest.raises(RuntimeError, match="422"):
        client.list_docs("team", "handbook", limit=101)
