"""Ask an OpenAI-compatible service for vectors: in batches, several at once, again where that may help."""

from __future__ import annotations

import email.utils
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import anyio.to_thread
import msgspec
import numpy as np

from retl.connectors.documents.embeddings.answers import BadAnswer, OtherDimensions, Problem, read_problem, read_vectors
from retl.connectors.documents.embeddings.budget import Ledger
from retl.connectors.documents.embeddings.model import Answer, Model
from retl.connectors.net.retry import RetryBudget
from retl.connectors.rows.vectors import Numbers
from retl.model.duration import parse_duration
from retl.model.embeddings import EmbeddingCounts, Embeddings
from retl.model.errors import ConfigError, ConnectionFailed, TargetError, TransientError
from retl.model.secret import revealed, without_password
from retl.pulse import beat

_ATTEMPTS = 5
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
"""Answers after which the same request may succeed."""
_ABOUT_TEXTS = frozenset({400, 413, 422})
_NOT_TEXTS = ("model", "dimensions", "encoding_format", "user")
"""Parameters of a request: what is wrong with one of them is wrong with every text."""
_BYTES_PER_NUMBER = 32
_MOST_OTHER_BYTES = 1024 * 1024
_SMALL = 64 * 1024
"""Below this size, reading an answer inline beats a thread hop."""
_PROBE = "vector"


class _Refused(Exception):
    """The service refuses these texts."""


class Service(Model):
    """One service for the length of a load."""

    def __init__(self, words: Embeddings, counts: EmbeddingCounts) -> None:
        self._words = words
        base = words.url.rstrip("/")
        self._url = base if base.endswith("/embeddings") else f"{base}/embeddings"
        self._place = without_password(self._url)
        self._ledger = Ledger(words, counts)
        self._counts = counts
        self._patience = parse_duration(words.patience, what="embeddings.patience").total_seconds()
        self._limit = anyio.CapacityLimiter(words.concurrency)
        self._session: aiohttp.ClientSession | None = None
        self._proved = False
        """Whether the service has accepted a text: then what it rejects is the text."""

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def embed(self, texts: Sequence[str]) -> Answer:
        self._ledger.plan(len(texts), sum(map(_size, texts)))
        if self._session is None:
            self._session = await self._open()
        vectors = np.zeros((len(texts), self._words.dimensions), dtype=np.float32)
        rejected: dict[int, str] = {}
        failure: Exception | None = None

        async def one(numbers: Sequence[int]) -> None:
            nonlocal failure
            try:
                async with self._limit:
                    await self._divide(texts, numbers, vectors, rejected)
            except Exception as error:  # raised again outside the group, so that it stays plain
                failure = failure or error
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for numbers in self._batches(texts):
                tasks.start_soon(one, numbers)
        if failure is not None:
            raise failure
        return Answer(vectors, rejected)

    def _batches(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """The numbers of the texts of each request."""
        some: list[int] = []
        size = 0
        for number, text in enumerate(texts):
            if some and (len(some) == self._words.batch or size + len(text) > self._words.batch_chars):
                yield some
                some, size = [], 0
            some.append(number)
            size += len(text)
        if some:
            yield some

    # Refused texts ----------------------------------------------------------

    async def _divide(
        self, texts: Sequence[str], numbers: Sequence[int], vectors: Numbers, rejected: dict[int, str]
    ) -> None:
        """Ask for some texts; where they are rejected, for each half of them, down to the one that is."""
        stack = [list(numbers)]
        while stack:
            some = stack.pop()
            try:
                vectors[some] = await self._vectors([texts[number] for number in some])
            except _Refused as error:
                if len(some) > 1:
                    middle = len(some) // 2
                    stack += [some[middle:], some[:middle]]
                    continue
                await self._prove(str(error))
                rejected[some[0]] = str(error)
                self._counts.rejected += 1

    async def _prove(self, reason: str) -> None:
        """Before a text is blamed: does the service accept any?"""
        if self._proved:
            return
        try:
            await self._vectors([_PROBE])
        except _Refused:
            raise ConfigError(
                f"{self._place} refuses every text: {reason}.",
                remedy="compare url, model, dimensions and shorten of embeddings with what the service documents.",
                system="embeddings",
            ) from None

    # One request ------------------------------------------------------------

    async def _vectors(self, texts: Sequence[str]) -> Numbers:
        size = sum(map(_size, texts))
        content = await self._content(texts)
        arguments = (content, len(texts), self._words.dimensions)
        try:
            if len(content) < _SMALL:
                vectors, tokens = read_vectors(*arguments)
            else:
                vectors, tokens = await anyio.to_thread.run_sync(read_vectors, *arguments)
        except OtherDimensions as error:
            raise ConfigError(
                f"the model {self._words.model!r} gives vectors of {error.dimensions:,} dimensions, and embeddings says "
                f"{self._words.dimensions:,}.",
                remedy=f"write dimensions = {error.dimensions}; or shorten = true, if the model can give shorter ones.",
                system="embeddings",
            ) from None
        except BadAnswer as error:
            raise TargetError(f"the answer of {self._place} cannot be used: {error}.", system="embeddings") from None
        self._proved = True
        self._ledger.answered(len(texts), size, tokens)
        return vectors

    async def _content(self, texts: Sequence[str]) -> bytes:
        """The answer to one request, which is repeated while that may help."""
        # A service that is overloaded is waited for; one that fails is given up sooner.
        retries = RetryBudget(attempts=_ATTEMPTS, seconds=self._patience, first=0.5, longest=30.0)
        while True:
            self._ledger.before_request()
            try:
                status, headers, content = await self._post(texts)
            except TransientError as error:
                await retries.wait(error)
                continue
            self._counts.requests += 1
            if status == 200:
                return content
            problem = self._error(status, read_problem(content), headers)
            if not isinstance(problem, TransientError):
                raise problem
            await retries.wait(problem, counts=status != 429, exactly=problem.retry_after)

    def _error(self, status: int, problem: Problem, headers: Any) -> Exception:
        """The error that an answer means."""
        told = f"{self._place} answers {status}: {problem.message or 'without a reason'}"
        if problem.code == "insufficient_quota":
            return TargetError(f"{told}.", remedy="see to the account; the next scan continues.", system="embeddings")
        if status in _PASSING:
            return TransientError(f"{told}.", retry_after=_retry_after(headers), system="embeddings")
        if status in _ABOUT_TEXTS and problem.param not in _NOT_TEXTS:
            return _Refused(problem.message or f"the service answers {status}")
        remedies = {401: "see api_key.", 403: "see api_key, and what the key may do."}
        remedy = remedies.get(status, "compare url, model, dimensions and shorten with what the service documents.")
        return ConfigError(f"{told}.", remedy=remedy, system="embeddings")

    async def _post(self, texts: Sequence[str]) -> tuple[int, Any, bytes]:
        async with self._translated():
            assert self._session is not None
            asked: dict[str, Any] = {"model": self._words.model, "input": list(texts)}
            if self._words.shorten:
                asked["dimensions"] = self._words.dimensions
            body = msgspec.json.encode(asked)
            async with self._session.post(self._url, data=body) as answer:
                most = len(texts) * self._words.dimensions * _BYTES_PER_NUMBER + _MOST_OTHER_BYTES
                content = await _bounded(answer, most)
        beat()
        return answer.status, answer.headers, content

    async def _open(self) -> aiohttp.ClientSession:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "retl"}
        if self._words.api_key is not None:
            headers["Authorization"] = f"Bearer {await revealed(self._words.api_key)}"
        seconds = parse_duration(self._words.timeout, what="embeddings.timeout").total_seconds()
        secure = self._url.startswith("https://")
        tls = await anyio.to_thread.run_sync(ssl.create_default_context) if secure else True
        return aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=seconds),
            connector=aiohttp.TCPConnector(limit=self._words.concurrency, ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=True,
        )

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except (TimeoutError, aiohttp.ServerTimeoutError):
            raise ConnectionFailed(
                f"{self._place} did not answer within {self._words.timeout}.",
                remedy="see whether it runs; timeout and batch of embeddings say how long one request may take.",
                system="embeddings",
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            reason = str(error) or type(error).__name__
            if isinstance(error, aiohttp.ClientConnectorCertificateError):
                raise ConfigError(f"{self._place}: {reason}.", system="embeddings") from None
            raise ConnectionFailed(f"{self._place} cannot be asked: {reason}.", system="embeddings") from None


async def _bounded(answer: aiohttp.ClientResponse, most: int) -> bytes:
    content = bytearray()
    async for some in answer.content.iter_any():
        content += some
        if len(content) > most:
            raise TargetError(f"the answer of {answer.host} has more than {most:,} bytes.", system="embeddings")
    return bytes(content)


def _retry_after(headers: Any) -> float | None:
    """The seconds that the service asks to wait, whichever way it says so."""
    milliseconds, told = headers.get("retry-after-ms"), headers.get("Retry-After")
    try:
        if milliseconds is not None:
            return max(0.0, float(milliseconds) / 1000)
        return None if told is None else max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(str(told)).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
