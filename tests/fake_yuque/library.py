"""What the stand-in holds: groups, books, documents and their tables of contents."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

_BEGIN = datetime(2024, 5, 1, 8, 0, 0, 123_000, tzinfo=UTC)


def time_text(moment: datetime | None) -> str | None:
    """A time as the service writes it: UTC, milliseconds."""
    if moment is None:
        return None
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


@dataclass(eq=False)
class Owner:
    """A group or a user."""

    id: int
    login: str
    name: str
    type: str

    def json(self) -> dict[str, Any]:
        return {"id": self.id, "type": self.type, "login": self.login, "name": self.name, "avatar_url": "", "public": 1}


@dataclass(eq=False)
class Document:
    """A document, as it is now."""

    library: Library
    book: Book
    id: int
    slug: str
    title: str
    type: str
    format: str
    bodies: dict[str, Any]
    created: datetime
    updated: datetime
    content_updated: datetime
    published: datetime | None
    status: int = 1
    public: int = 1
    deleted: datetime | None = None
    purged: bool = False
    more: dict[str, Any] = field(default_factory=dict)
    """Fields that the service adds, or answers otherwise."""

    def change(self, **words: Any) -> None:
        """Change it; a body changes the time of the content, too."""
        now = self.library.tick()
        self.updated = now
        for word, value in words.items():
            if word.startswith("body"):
                self.bodies[word] = value
                self.content_updated = now
            else:
                setattr(self, word, value)

    def delete(self) -> None:
        """Put it into the bin: its slug is free again."""
        self.deleted = self.library.tick()

    def restore(self) -> None:
        self.deleted = None
        self.updated = self.library.tick()

    def purge(self) -> None:
        """Delete it for ever: it lies in no bin."""
        self.purged = True

    def move(self, book: Book) -> None:
        """Move it to another book."""
        self.book = book
        self.updated = self.library.tick()

    def listed(self) -> dict[str, Any]:
        """It as lists show it."""
        return {
            "id": self.id,
            "type": self.type,
            "slug": self.slug,
            "title": self.title,
            "description": str(self.bodies.get("body") or "")[:50],
            "cover": None,
            "user_id": self.book.owner.id,
            "book_id": self.book.id,
            "last_editor_id": 77,
            "public": self.public,
            "status": str(self.status),
            "likes_count": 0,
            "read_count": self.library.reads,
            "comments_count": 0,
            "word_count": len(str(self.bodies.get("body") or "")),
            "created_at": time_text(self.created),
            "updated_at": time_text(self.updated),
            "content_updated_at": time_text(self.content_updated),
            "published_at": time_text(self.published),
            "first_published_at": time_text(self.published),
            "last_editor": {"id": 77, "type": "User", "login": "editor", "name": "编辑 Editor"},
            **({"deleted_at": time_text(self.deleted), "deleted_slug": self.slug} if self.deleted else {}),
            **self.more,
        }

    def detail(self) -> dict[str, Any]:
        """It as a whole, but for the cells of a data table."""
        found = {**self.listed(), "format": self.format, "creator_id": 76}
        found |= {"creator": {"id": 76, "type": "User", "login": "author", "name": "作者 Author"}}
        found |= {"book": self.book.json(), "user": self.book.owner.json(), "body_draft": "UNPUBLISHED DRAFT"}
        found |= {word: value for word, value in self.bodies.items() if word != "records"}
        return {**found, **self.more}


@dataclass(eq=False)
class Book:
    """A book, with its table of contents as nested titles and documents."""

    library: Library
    id: int
    slug: str
    name: str
    owner: Owner
    contents: list[Any] = field(default_factory=list)
    """Documents, and ``(title, [...])`` for a title with what is below it; ``("link", url)`` for a link."""
    gone: bool = False

    @property
    def namespace(self) -> str:
        return f"{self.owner.login}/{self.slug}"

    def json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "Book",
            "slug": self.slug,
            "name": self.name,
            "user_id": self.owner.id,
            "public": 1,
            "namespace": self.namespace,
            "user": self.owner.json(),
        }

    def write(self, title: str, body: str | None = None, **words: Any) -> Document:
        """A new document, published, at the end of the table of contents."""
        document = self.library.add(self, title, body, **words)
        self.contents.append(document)
        return document

    def toc(self) -> list[dict[str, Any]]:
        nodes: list[dict[str, Any]] = []
        self._nodes(self.contents, "", 0, nodes)
        return nodes

    def _nodes(self, items: list[Any], above: str, level: int, nodes: list[dict[str, Any]]) -> None:
        for number, item in enumerate(items):
            uuid = f"{above or 'n'}-{number}"
            node = {"uuid": uuid, "parent_uuid": above, "level": level, "visible": 1, "open_window": 0}
            if isinstance(item, Document):
                if item.deleted is not None or item.purged or item.book is not self:
                    continue
                nodes.append(node | {"type": "DOC", "title": item.title, "doc_id": item.id, "url": item.slug})
            elif isinstance(item[1], list):
                nodes.append(node | {"type": "TITLE", "title": item[0], "doc_id": "", "url": ""})
                self._nodes(item[1], uuid, level + 1, nodes)
            else:
                nodes.append(node | {"type": "LINK", "title": item[0], "doc_id": "", "url": item[1]})


class Library:
    """Everything that the stand-in knows. Its clock stands still, unless something is changed."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1_000_001, 7)
        self.now = _BEGIN
        self.reads = 0
        self.me = Owner(1, "me", "Me Myself", "User")
        self.owners: dict[str, Owner] = {"me": self.me}
        self.books: dict[int, Book] = {}
        self.documents: dict[int, Document] = {}

    def tick(self, seconds: float = 1.001) -> datetime:
        """Later."""
        self.now += timedelta(seconds=seconds)
        return self.now

    def owner(self, login: str, *, type: str = "Group") -> Owner:
        if login not in self.owners:
            self.owners[login] = Owner(next(self._numbers), login, f"{login.title()} Group", type)
        return self.owners[login]

    def book(self, namespace: str, name: str | None = None) -> Book:
        """The book of that name, made where there is none."""
        login, _, slug = namespace.partition("/")
        for book in self.books.values():
            if book.namespace == namespace and not book.gone:
                return book
        book = Book(self, next(self._numbers), slug, name or slug.title(), self.owner(login))
        self.books[book.id] = book
        return book

    def add(self, book: Book, title: str, body: str | None = None, **words: Any) -> Document:
        now = self.tick()
        number = words.pop("id", None) or next(self._numbers)
        kind = words.pop("type", "Doc")
        bodies = {word: words.pop(word) for word in list(words) if word.startswith("body") or word == "records"}
        if body is not None:
            bodies["body"] = body
        document = Document(
            library=self,
            book=book,
            id=number,
            slug=words.pop("slug", None) or f"d{number}",
            title=title,
            type=kind,
            format=words.pop("format", "lakesheet" if kind == "Sheet" else "markdown"),
            bodies=bodies,
            created=now,
            updated=now,
            content_updated=now,
            published=words.pop("published", now),
            **words,
        )
        self.documents[number] = document
        return document

    def of(self, book: Book) -> list[Document]:
        """The documents of a book, the last changed first; those in the bin too."""
        found = [one for one in self.documents.values() if one.book is book and not one.purged]
        return sorted(found, key=lambda one: (one.updated, one.id), reverse=True)
