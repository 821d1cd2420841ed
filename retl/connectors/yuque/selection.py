"""Which books make a table: chosen by name, or found by a pattern."""

from __future__ import annotations

import fnmatch
import re

from retl.connectors.yuque.catalog import Book, Catalog
from retl.connectors.yuque.errors import NotThere
from retl.model.errors import ConfigError
from retl.model.table import TableSpec

_SPECIAL = re.compile(r"[*?\[]")
_ALL = "*"


class NoSuchBook(ConfigError):
    """A book, a group or a user is named that is not there, or that the token does not see."""


class Selection:
    """The books of one table. Its name is a list, with commas, of:

    ``group/book``, a book's id, ``group`` (all its books), and patterns of these such as ``group/guide-*`` and ``*/*``.
    """

    def __init__(self, table: TableSpec) -> None:
        self._patterns = [text.strip() for text in table.name.split(",") if text.strip()]
        self._ignore = table.files.ignore
        if not self._patterns or any(text.count("/") > 1 or text.startswith("/") for text in self._patterns):
            raise ConfigError(
                f"{table.name!r} names no books.",
                remedy='write "group/book", "group/*", or several of them with commas.',
            )

    async def books(self, catalog: Catalog) -> list[Book]:
        """The books, in the order of their ids. Raises ``ConfigError`` for one that is named and not there."""
        found: dict[int, Book] = {}
        for pattern in self._patterns:
            for book in await self._found(catalog, pattern):
                if not self.ignores(book.namespace):
                    found[book.id] = book
        return [found[number] for number in sorted(found)]

    def has(self, book: Book) -> bool:
        """Whether a book belongs to the table by its name."""
        names = {book.namespace, str(book.id), book.owner_login, book.namespace.rpartition("/")[0]}
        wanted = any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in self._patterns)
        return wanted and not self.ignores(book.namespace)

    def ignores(self, name: str) -> bool:
        """Whether ``ignore`` leaves out a book, ``group/book``, or a document, ``group/book/slug``."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self._ignore)

    async def _found(self, catalog: Catalog, pattern: str) -> list[Book]:
        owner, slash, slug = pattern.partition("/")
        if not slash and not owner.isdecimal():
            slug = _ALL  # a group or a user
        try:
            if not _SPECIAL.search(owner + slug):
                return [await catalog.book(pattern)]
            if not _SPECIAL.search(owner):
                return _matching(await catalog.books(owner), f"{owner}/{slug}")
        except NotThere as error:
            raise NoSuchBook(error.message, remedy=error.remedy) from None
        owners = [one for one in await catalog.owners() if fnmatch.fnmatchcase(one, owner)]
        return [book for one in owners for book in _matching(await catalog.books(one), f"{one}/{slug}")]


def _matching(books: list[Book], pattern: str) -> list[Book]:
    # The list of a group may name it otherwise than it was asked for: by another case, or by its id.
    slug = pattern.partition("/")[2]
    return [book for book in books if fnmatch.fnmatchcase(book.namespace.rpartition("/")[2], slug)]
