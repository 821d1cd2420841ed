"""The stand-in's server: strict about what it is asked, with moods in which it answers as the real one does on bad days."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from tests.fake_yuque.library import Book, Document, Library

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_PAGED = {"offset", "limit"}
_LEGACY = {"raw"}
"""A word of earlier versions that every older client sends; it changes nothing any more."""
_PARAMETERS: tuple[tuple[str, set[str]], ...] = (
    (r"/hello|/user", set()),
    (r"/users/[^/]+/groups", {"role", "offset"}),
    (r"/(?:groups|users)/[^/]+/repos", {*_PAGED, "type", "filterByAbility"}),
    (r"/repos/docs/[^/]+|/repos/\d+/docs/[^/]+|/repos/[^/]+/[^/]+/docs/[^/]+", {"page", "page_size", *_LEGACY}),
    (r"/repos/\d+/docs|/repos/[^/]+/[^/]+/docs", {*_PAGED, "deleted", "changed_at_gte", "optional_properties"}),
    (r"/repos/\d+/toc|/repos/[^/]+/[^/]+/toc", set()),
    (r"/repos/\d+|/repos/[^/]+/[^/]+", set()),
)


@dataclass
class Moods:
    """How the service is today."""

    old: str | None = None
    """An installation without the two filters: it ``"ignores"`` them, or ``"refuses"`` them."""
    arrays: bool = False
    """Arrays where objects are promised."""
    expired: bool = False
    """The token is valid no longer."""
    quota: int | None = None
    """How many requests there are, until ``refill``."""
    retry_after: str | None = "3600"
    """What a 429 says."""
    refill_after: float | None = None
    """After so many seconds of a spent quota it is full again."""
    failing: dict[str, list[int]] = field(default_factory=dict)
    """By pattern of a path: the statuses of its next answers."""
    refused: dict[int, int] = field(default_factory=dict)
    """By document: the status that it always gets."""
    silent: float = 0.0
    """Seconds before each answer."""
    on_page: Callable[[str, int], None] | None = None
    """Called with the path and the offset before a page is made: for documents that come and go meanwhile."""
    page: int = 100
    """Short pages: no more than so many documents, whatever is asked for."""
    body: bytes | None = None
    """What every answer is."""
    location: str | None = None
    """Where every answer leads."""


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    status: int


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


class FakeYuque:
    """``with FakeYuque() as yuque``: a server on a free port, in a thread of its own."""

    def __init__(self, token: str = "t0k3n-of-the-tests") -> None:
        self.token = token
        self.library = Library()
        self.moods = Moods()
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self.url = ""
        self._at_once = 0
        self._spent_at: float | None = None
        self._used = 0
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    # Life -------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        await self._over.wait()
        await runner.cleanup()

    def reset(self) -> None:
        """As at the beginning, but for the address."""
        self.library, self.moods = Library(), Moods()
        self.forget()

    def forget(self) -> None:
        """Forget what was asked."""
        self.asked.clear()
        self.most_at_once = self._used = 0
        self._spent_at = None

    def paths(self, pattern: str = ".*") -> list[str]:
        """The paths that were asked for, which match a pattern."""
        return [one.path for one in self.asked if re.fullmatch(pattern, one.path)]

    def documents_read(self) -> list[int]:
        """The ids of the documents that were read, in order."""
        return [int(path.rpartition("/")[2]) for path in self.paths(r"/repos/\d+/docs/\d+")]

    # Requests ---------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        path = request.path.removeprefix("/api/v2")
        try:
            if self.moods.silent:
                await asyncio.sleep(self.moods.silent)
            answer = self._answer(request, path)
        except Refusal as refusal:
            body = {"status": refusal.status, "message": refusal.message}
            answer = web.json_response(body, status=refusal.status, headers=refusal.headers)
        finally:
            self._at_once -= 1
        self.asked.append(Asked(path, dict(request.query), dict(request.headers), answer.status))
        if self.moods.quota is not None:
            answer.headers["X-RateLimit-Limit"] = str(self.moods.quota)
            answer.headers["X-RateLimit-Remaining"] = str(max(0, self.moods.quota - self._used))
        return answer

    def _answer(self, request: web.Request, path: str) -> web.Response:
        self._check(request, path)
        if self.moods.location is not None:
            return web.Response(status=302, headers={"location": self.moods.location})
        if self.moods.body is not None:
            return web.Response(body=self.moods.body, content_type="text/html")
        found = self._found(path, request.query)
        if self.moods.arrays:
            found = _with_arrays(found)
        # Not ASCII: characters come as they are, and half ones as escapes.
        return web.Response(body=json.dumps(found).encode(), content_type="application/json")

    def _check(self, request: web.Request, path: str) -> None:
        if not request.path.startswith("/api/v2/"):
            raise Refusal(404, "Not Found")
        if request.headers.get("X-Auth-Token") != self.token or self.moods.expired:
            raise Refusal(401, "Unauthorized")
        if not request.headers.get("User-Agent"):
            raise Refusal(403, "User-Agent is required")
        self._check_quota()
        for pattern, statuses in self.moods.failing.items():
            if statuses and re.fullmatch(pattern, path):
                raise Refusal(statuses.pop(0), "on purpose")
        if request.method != "GET":
            raise Refusal(405, "Method Not Allowed")
        known = next((words for pattern, words in _PARAMETERS if re.fullmatch(pattern, path)), None)
        if known is None:
            raise Refusal(404, "Not Found")
        if self.moods.old == "refuses":
            known = known - {"deleted", "changed_at_gte"}
        unknown = sorted(set(request.query) - known)
        if unknown:
            raise Refusal(422, f"Validation Failed: {unknown[0]} is not allowed")
        _check_values(request.query)

    def _check_quota(self) -> None:
        moods = self.moods
        if moods.quota is None:
            return
        if self._used >= moods.quota:
            now = time.monotonic()
            self._spent_at = self._spent_at or now
            if moods.refill_after is not None and now - self._spent_at >= moods.refill_after:
                self._used, self._spent_at = 0, None
            else:
                headers = {} if moods.retry_after is None else {"Retry-After": moods.retry_after}
                raise Refusal(429, "Too Many Requests", headers)
        self._used += 1

    # Answers ----------------------------------------------------------------

    def _found(self, path: str, query: Mapping[str, str]) -> Any:
        parts = path.strip("/").split("/")
        if parts[0] == "hello":
            return {"data": {"message": f"Hello {self.library.me.name}"}}
        if parts[0] == "user":
            return {"data": self.library.me.json()}
        if parts[0] in ("users", "groups"):
            return self._of_owner(parts, query)
        if parts[1] == "docs":
            return self._detail(self._document(parts[2], None), query)
        book, rest = self._book_in(parts[1:])
        if not rest:
            return {"data": {**book.json(), "toc_yml": ""}}
        if rest[0] == "toc":
            return {"data": book.toc()}
        if len(rest) == 1:
            return self._list(path, book, query)
        return self._detail(self._document(rest[1], book), query)

    def _of_owner(self, parts: list[str], query: Mapping[str, str]) -> Any:
        owner = self._owner(parts[1])
        if owner is None or (parts[0] == "groups") != (owner.type == "Group"):
            raise Refusal(404, "Not Found")
        offset, limit = int(query.get("offset", 0)), int(query.get("limit", 100))
        if parts[2] == "groups":
            groups = [one for one in self.library.owners.values() if one.type == "Group"]
            return {"data": [one.json() for one in groups[offset : offset + 100]]}
        books = [book.json() for book in self.library.books.values() if book.owner is owner and not book.gone]
        return {"data": books[offset : offset + limit]}

    def _owner(self, name: str) -> Any:
        return next((one for one in self.library.owners.values() if name in (one.login, str(one.id))), None)

    def _book_in(self, parts: list[str]) -> tuple[Book, list[str]]:
        if parts[0].isdecimal():
            book, rest = self.library.books.get(int(parts[0])), parts[1:]
        else:
            named = "/".join(parts[:2])
            book = next((one for one in self.library.books.values() if one.namespace == named and not one.gone), None)
            rest = parts[2:]
        if book is None or book.gone:
            raise Refusal(404, "Not Found")
        return book, rest

    def _document(self, name: str, book: Book | None) -> Document:
        """By its id or its slug; in the bin it is not there, and once it is deleted for ever it is gone."""
        found = self.library.documents.get(int(name)) if name.isdecimal() else None
        if found is None and book is not None:
            found = next((one for one in self.library.of(book) if one.slug == name and one.deleted is None), None)
        if found is None or (book is not None and found.book is not book) or found.book.gone:
            raise Refusal(404, "Not Found")
        if found.id in self.moods.refused:
            raise Refusal(self.moods.refused[found.id], "on purpose")
        if found.purged:
            raise Refusal(410, "Gone")
        if found.deleted is not None:
            raise Refusal(404, "Not Found")
        return found

    def _list(self, path: str, book: Book, query: Mapping[str, str]) -> Any:
        offset, limit = int(query.get("offset", 0)), int(query.get("limit", 100))
        if self.moods.on_page is not None:
            self.moods.on_page(path, offset)
        old = self.moods.old is not None
        bin_ = query.get("deleted") == "true" and not old
        found = [one for one in self.library.of(book) if (one.deleted is not None) == bin_]
        since = query.get("changed_at_gte")
        if since is not None and not old:
            moment = datetime.fromisoformat(since)
            found = [one for one in found if max(one.updated, one.content_updated) >= moment]
        page = found[offset : offset + min(limit, self.moods.page)]
        return {"meta": {"total": len(found)}, "data": [one.listed() for one in page]}

    def _detail(self, document: Document, query: Mapping[str, str]) -> Any:
        self.library.reads += 1
        found = document.detail()
        if document.type == "Table":
            page, size = int(query.get("page", 1)), int(query.get("page_size", 100))
            records = document.bodies.get("records", [])
            cells = {
                "totalCount": len(records),
                "records": records[(page - 1) * size : page * size],
                "pageSize": size,
                "page": page,
            }
            found["body_table"] = json.dumps(cells)
        return {"data": found}


def _check_values(query: Mapping[str, str]) -> None:
    bounds = {"offset": (0, 10**9), "limit": (1, 100), "page": (1, 10**9), "page_size": (1, 200)}
    for word, (low, high) in bounds.items():
        value = query.get(word)
        if value is not None and not (value.isdecimal() and low <= int(value) <= high):
            raise Refusal(422, f"Validation Failed: {word} must be between {low} and {high}")
    if query.get("deleted", "true") not in ("true", "false"):
        raise Refusal(422, "Validation Failed: deleted must be a boolean")
    since = query.get("changed_at_gte")
    if since is not None and not _TIME.fullmatch(since):
        raise Refusal(400, "changed_at_gte must be YYYY-MM-DDTHH:mm:ss.sssZ")


def _with_arrays(found: Any) -> Any:
    """The same with arrays where single objects are promised."""
    if not isinstance(found, dict) or "data" not in found:
        return found
    data = found["data"]
    if isinstance(data, dict):
        nested = {word: [value] if isinstance(value, dict) else value for word, value in data.items()}
        return {**found, "data": [{**nested, "tags": [{"id": 1, "title": "a tag"}], "unheard_of": {"deep": [1, 2]}}]}
    return {**found, "data": [{**item, "tags": [], "last_editor": [item.get("last_editor")]} for item in data]}
