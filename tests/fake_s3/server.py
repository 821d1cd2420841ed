"""The server: an event loop in a thread of its own, and what tests tell it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qsl, unquote

from aiohttp import web
from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.fake_s3 import objects
from tests.fake_s3.objects import Object
from tests.fake_s3.signature import BadSignature, check
from tests.servers.process import free_port

ACCESS_KEY, SECRET_KEY = "fake-access-key", "fake-secret-key"
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@dataclass(frozen=True)
class Asked:
    """One request, as it came."""

    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass
class Fault:
    """An answer that a test makes up, for requests that it chooses; ``times`` of them."""

    code: str
    status: int
    chosen: Callable[[Asked], bool] = lambda asked: True
    times: int | None = None
    more: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def fits(self, asked: Asked) -> bool:
        if self.times == 0 or not self.chosen(asked):
            return False
        if self.times is not None:
            self.times -= 1
        return True


class FakeS3:
    """Buckets in memory. What is public here may be changed by a test at any time."""

    domain = "s3.fake-s3.test"

    def __init__(self) -> None:
        self.port = free_port()
        self.secrets = {ACCESS_KEY: SECRET_KEY}
        self.expired: set[str] = set()
        """Access keys, or tokens of sessions, that are valid no longer."""
        self.tokens: dict[str, str] = {}
        """The token that an access key must come with."""
        self.region: str | None = None
        """The one that it must be signed for."""
        self.buckets: dict[str, dict[str, Object]] = {}
        self.public: set[str] = set()
        self.denied: tuple[str, ...] = ()
        """Beginnings of keys that may neither be read nor listed."""
        self.page = 1_000
        self.conditions = True
        """Whether it honours If-Match."""
        self.etags = True
        """Whether an answer has an ETag."""
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[None]:
        with start_blocking_portal() as portal:
            runner = portal.call(self._start, portal)
            try:
                yield
            finally:
                portal.call(runner.cleanup)

    async def _start(self, _portal: BlockingPortal) -> web.AppRunner:
        runner = web.ServerRunner(web.Server(self._answer), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, *self.address).start()
        return runner  # type: ignore[return-value]

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        bucket, key = self.place(request)
        query = dict(parse_qsl(request.raw_path.partition("?")[2], keep_blank_values=True))
        asked = Asked(request.method, bucket, key, query, {n.lower(): v for n, v in request.headers.items()})
        self.asked.append(asked)
        for fault in self.faults:
            if fault.fits(asked):
                return _error(fault.code, fault.status, request, headers=fault.headers, more=fault.more)
        return self.refuse(request, asked) or self._allowed(request, asked)

    def place(self, request: web.BaseRequest) -> tuple[str, str]:
        """Bucket and key: of the host, where it is below the domain, else of the path."""
        host = request.headers.get("Host", "").partition(":")[0]
        if host.endswith(f".{self.domain}"):
            return host.removesuffix(f".{self.domain}"), path(request)
        bucket, _, key = path(request).partition("/")
        return bucket, key

    def refuse(self, request: web.BaseRequest, asked: Asked) -> web.Response | None:
        """The answer to a request that is not allowed."""
        try:
            who = check(request, self.secrets, self.region, self.clock())  # type: ignore[arg-type]
        except BadSignature as bad:
            status = 400 if bad.code in ("AuthorizationHeaderMalformed", "InvalidArgument") else 403
            return _error(bad.code, status, request, more=bad.more)
        token = asked.headers.get("x-amz-security-token", "")
        if self.expired & {who, token}:
            return _error("ExpiredToken", 400, request)
        if who is not None and self.tokens.get(who, token) != token:
            return _error("InvalidToken", 400, request)
        if asked.bucket not in self.buckets:
            return _error("NoSuchBucket", 404, request)
        reached = asked.key or asked.query.get("prefix", "")
        if (who is None and asked.bucket not in self.public) or (self.denied and reached.startswith(self.denied)):
            return _error("AccessDenied", 403, request)
        return None

    def _allowed(self, request: web.BaseRequest, asked: Asked) -> web.Response:
        found = self.buckets[asked.bucket]
        if not asked.key:
            text = objects.page(asked.bucket, found, asked.query, self.page)
            return web.Response(text=text, content_type="application/xml")
        if asked.key not in found:
            return _error("NoSuchKey", 404, request)
        return self._object(request, asked, found[asked.key])

    def _object(self, request: web.BaseRequest, asked: Asked, found: Object) -> web.Response:
        if self.conditions and asked.headers.get("if-match", found.etag) != found.etag:
            return _error("PreconditionFailed", 412, request)
        if request.method == "GET" and not found.readable:
            return _error("InvalidObjectState", 403, request)
        headers = {
            "Last-Modified": found.modified.strftime("%a, %d %b %Y %H:%M:%S GMT"),
            "x-amz-storage-class": found.storage_class,
            **({"ETag": found.etag} if self.etags or request.method == "HEAD" else {}),
            **({"x-amz-restore": 'ongoing-request="false", expiry-date="..."'} if found.restored else {}),
        }
        size = len(found.content)
        asked_range = _RANGE.fullmatch(asked.headers.get("range", ""))
        if asked_range is None:
            return web.Response(body=found.content, headers=headers)
        first, last = int(asked_range[1]), min(int(asked_range[2]), size - 1)
        if first >= size:
            return _error("InvalidRange", 416, request)
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return web.Response(status=206, body=found.content[first : last + 1], headers=headers)


def path(request: web.BaseRequest) -> str:
    """What stands behind the host, without the ``/`` in front, as it was before it was escaped."""
    return unquote(request.raw_path.partition("?")[0].removeprefix("/"))


def _error(
    code: str,
    status: int,
    request: web.BaseRequest,
    *,
    headers: dict[str, str] | None = None,
    more: dict[str, str] | None = None,
) -> web.Response:
    if request.method == "HEAD":
        return web.Response(status=status, headers=headers)
    text = objects.error(code, f"{code}.", **(more or {}))
    return web.Response(status=status, text=text, content_type="application/xml", headers=headers)
