"""What exists there: groups, books, their tables of contents, and their documents as lists show them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from retl.connectors.yuque.answers import Object, as_number, as_object, as_objects, as_text, as_time
from retl.connectors.yuque.connection import Tell, YuqueConnection, decoded
from retl.connectors.yuque.errors import NotThere, UnknownParameter

PAGE = 100
OVERLAP = timedelta(minutes=1)
"""What changed so shortly before the last change that was seen is listed again."""
_FUTURE = "2999-01-01T00:00:00.000Z"
_PASSES = 3
"""How often a book is listed until all its documents were seen."""
_IDENTITY = ("content_updated_at", "updated_at", "published_at", "title", "slug", "public", "status", "type")


@dataclass(frozen=True, slots=True)
class Book:
    """A book, and whose it is."""

    id: int
    namespace: str
    """``group/slug``."""
    name: str
    owner_login: str
    owner_name: str

    @property
    def what(self) -> str:
        return f"the book {self.namespace!r}"


@dataclass(frozen=True, slots=True)
class Listed:
    """A document as a list shows it. An entry of the manifest has its id for a name."""

    id: int
    book: Book
    identity: str
    """Changes with anything that its row holds, but for its place in the table of contents."""
    changed: datetime | None
    kind: str
    slug: str
    draft: bool
    """Whether it has never been published."""

    @property
    def name(self) -> str:
        return str(self.id)

    @property
    def what(self) -> str:
        return f"the document {self.book.namespace}/{self.slug} ({self.id})"


class Catalog:
    """The lists of the service, for one scan."""

    def __init__(self, connection: YuqueConnection, tell: Tell) -> None:
        self._connection = connection
        self._tell = tell

    async def get(self, path: str, what: str, query: Mapping[str, str] = {}) -> bytes:
        """An answer as it came."""
        return await self._connection.get(path, query, what, self._tell)

    async def ask(self, path: str, what: str, query: Mapping[str, str] = {}) -> Object:
        """An answer, decoded."""
        return as_object(await decoded(await self.get(path, what, query), what))

    async def user(self) -> Object:
        """Whose token it is: a user or a group."""
        return as_object((await self.ask("/user", "the owner of the token")).get("data"))

    # Books ------------------------------------------------------------------

    async def book(self, name: str) -> Book:
        """A book by ``group/slug`` or by its id. Raises ``NotThere``."""
        what = f"the book {name!r}"
        answer = await self.ask(f"/repos/{quote(name, safe='/')}", what)
        found = _book(as_object(answer.get("data")))
        if found is None:
            raise NotThere(f"{what}: the service shows no such book.", remedy="check the name.")
        return found

    async def books(self, owner: str) -> list[Book]:
        """All books of a group or a user, by login."""
        try:
            return await self._books_of("groups", owner)
        except NotThere:
            return await self._books_of("users", owner)

    async def _books_of(self, kind: str, owner: str) -> list[Book]:
        path = f"/{kind}/{quote(owner, safe='')}/repos"
        found: dict[int, Book] = {}
        async with aclosing(self._pages(path, f"the books of {owner!r}", {"limit": str(PAGE)})) as pages:
            async for page, _ in pages:
                found.update({book.id: book for item in page if (book := _book(item)) is not None})
        return list(found.values())

    async def owners(self) -> list[str]:
        """The logins of the token's owner, and of the groups that it belongs to."""
        user = await self.user()
        login = as_text(user.get("login")) or ""
        found = dict.fromkeys([login] if login else [])
        if user.get("type") != "Group":
            path = f"/users/{user.get('id')}/groups"
            async with aclosing(self._pages(path, "the groups of the token's owner", {})) as pages:
                async for page, _ in pages:
                    found.update(dict.fromkeys(text for item in page if (text := as_text(item.get("login")))))
        return list(found)

    # Documents --------------------------------------------------------------

    async def contents(self, book: Book) -> dict[int, str]:
        """The place of each document in the table of contents, for those that are in it."""
        what = f"the table of contents of {book.what}"
        return _paths_of(as_objects((await self.ask(f"/repos/{book.id}/toc", what)).get("data")))

    async def knows_changes(self, book: Book) -> bool:
        """Whether the installation can tell what has changed: asked with a time to come, it must find nothing."""
        query = {"offset": "0", "limit": "1", "changed_at_gte": _FUTURE}
        try:
            answer = await self.ask(f"/repos/{book.id}/docs", f"the changes of {book.what}", query)
        except UnknownParameter:
            return False
        return _total(answer) == 0 and not as_objects(answer.get("data"))

    async def documents(self, book: Book, since: datetime | None = None) -> tuple[dict[int, Listed], bool]:
        """The documents of a book, or those that changed since a time; and whether all of them were seen.

        Pages shift while documents come and go, so it is listed again until two passes agree.
        """
        query = {"limit": str(PAGE)} | ({} if since is None else {"changed_at_gte": since_text(since)})
        seen: dict[int, Listed] = {}
        before: set[int] | None = None
        for _ in range(_PASSES):
            found, steady = await self._pass(book, query)
            # Twice the same is steady too: some installations count documents that they do not show.
            if steady or found.keys() == before:
                return found, True
            seen |= found
            before = set(found)
        return seen, False

    async def _pass(self, book: Book, query: Mapping[str, str]) -> tuple[dict[int, Listed], bool]:
        """What one pass through the pages shows, and whether they were the same all the while."""
        found: dict[int, Listed] = {}
        shown = 0
        totals: set[int] = set()
        async with aclosing(self._pages(f"/repos/{book.id}/docs", f"the documents of {book.what}", query)) as pages:
            async for page, total in pages:
                ones = [one for item in page if (one := listed(item, book)) is not None]
                shown += len(ones)
                totals |= set() if total is None else {total}
                found.update({one.id: one for one in ones})
        return found, len(found) == shown and totals <= {len(found)}

    async def deleted(self, book: Book) -> set[int] | None:
        """The documents in the bin of a book; ``None`` where the installation has no such view."""
        found: set[int] = set()
        query = {"limit": str(PAGE), "deleted": "true"}
        try:
            async with aclosing(self._pages(f"/repos/{book.id}/docs", f"the bin of {book.what}", query)) as pages:
                async for page, _ in pages:
                    # An older installation passes over the word, and shows what is there.
                    if any(not item.get("deleted_at") for item in page):
                        return None
                    found.update(number for item in page if (number := as_number(item.get("id"))) is not None)
        except UnknownParameter:
            return None
        return found

    async def document(
        self, book_id: int, number: int, what: str, *, page: int = 1, page_size: int | None = None
    ) -> bytes:
        """A document as the service answers it. ``page`` counts the rows of a data table."""
        query = {} if page_size is None else {"page": str(page), "page_size": str(page_size)}
        return await self.get(f"/repos/{book_id}/docs/{number}", what, query)

    async def _pages(
        self, path: str, what: str, query: Mapping[str, str]
    ) -> AsyncGenerator[tuple[list[Object], int | None], None]:
        """Pages up to an empty one: a short one is not the last; each with how many there are, where that is told."""
        offset = 0
        seen: set[Any] = set()
        while True:
            answer = await self.ask(path, what, {"offset": str(offset), **query})
            page = as_objects(answer.get("data"))
            new = {item.get("id") for item in page} - seen
            if not new:  # the end; or an installation that passes over the offset
                return
            seen |= new
            yield page, _total(answer)
            offset += len(page)


def _total(answer: Object) -> int | None:
    return as_number(as_object(answer.get("meta")).get("total"))


def _book(item: Object) -> Book | None:
    number = as_number(item.get("id"))
    if number is None:
        return None
    owner = as_object(item.get("user") or item.get("group"))
    slug = as_text(item.get("slug")) or str(number)
    login = as_text(owner.get("login")) or ""
    namespace = as_text(item.get("namespace")) or (f"{login}/{slug}" if login else slug)
    login = login or namespace.rpartition("/")[0]
    return Book(number, namespace, as_text(item.get("name")) or slug, login, as_text(owner.get("name")) or login)


def listed(item: Object, book: Book) -> Listed | None:
    """A document of a list; ``None`` where it has no id."""
    number = as_number(item.get("id"))
    if number is None:
        return None
    times = [found for word in ("updated_at", "content_updated_at") if (found := as_time(item.get(word))) is not None]
    return Listed(
        id=number,
        book=book,
        identity=_identity(item),
        changed=max(times, default=None),
        kind=as_text(item.get("type")) or "Doc",
        slug=as_text(item.get("slug")) or str(number),
        draft=is_draft(item),
    )


def is_draft(item: Object) -> bool:
    """Whether a document has never been published."""
    return as_text(item.get("status")) == "0" and not (item.get("published_at") or item.get("first_published_at"))


def _identity(item: Object) -> str:
    content = as_text(item.get("content_updated_at")) or as_text(item.get("updated_at")) or ""
    return f"{content}#{digest(*(as_text(item.get(word)) or '' for word in _IDENTITY))}"


def place(book: Book, path: str | None) -> str:
    """What changes when a document stands elsewhere: its book, the book's names, its path in it."""
    return digest(str(book.id), book.namespace, book.name, book.owner_login, book.owner_name, path or "")


def digest(*parts: str) -> str:
    """A short fingerprint of some texts."""
    text = "\0".join(parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def since_text(time: datetime) -> str:
    """A time as the service reads it, less the overlap, cut to milliseconds."""
    earlier = time.astimezone(UTC) - OVERLAP
    return f"{earlier:%Y-%m-%dT%H:%M:%S}.{earlier.microsecond // 1000:03}Z"


def _paths_of(nodes: Sequence[Object]) -> dict[int, str]:
    """The path of each document: the titles above it and its own, with ``/`` between.

    A ``/`` or a ``\\`` in a title has a ``\\`` before it. A document that stands in two places has the first.
    """
    by_uuid = {uuid: node for node in nodes if (uuid := as_text(node.get("uuid")))}
    found: dict[int, str] = {}
    for node in nodes:
        number = as_number(node.get("doc_id")) or as_number(node.get("id"))
        if number and node.get("type") in ("DOC", None):
            found.setdefault(number, _path(node, by_uuid))
    return found


def _path(node: Object, by_uuid: dict[str, Object]) -> str:
    titles: list[str] = []
    seen: set[str] = set()
    at: Object | None = node
    while at is not None:
        titles.append(_escaped(as_text(at.get("title")) or ""))
        above = as_text(at.get("parent_uuid")) or ""
        if above in seen:  # a circle
            break
        seen.add(above)
        at = by_uuid.get(above)
    return "/".join(reversed(titles))


def _escaped(title: str) -> str:
    return title.replace("\\", "\\\\").replace("/", "\\/")
