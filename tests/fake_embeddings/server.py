"""The service: an event loop in a thread of its own, and what tests tell it.

It answers as https://platform.openai.com/docs/api-reference/embeddings says, its errors included.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from aiohttp import web

from tests.servers.process import free_port
from tests.servers.web import serving

KEY = "sk-fake-key-of-the-tests"
MODELS = {"small": 8, "large": 12, "huge": 2_200}
"""The dimensions of each model; only ``large`` can give shorter vectors."""
LONGEST = 8_192
_MOST_TEXTS = 2_048
_KNOWN = {"model", "input", "encoding_format", "dimensions", "user"}


@dataclass(frozen=True)
class Point:
    """What a test may change in an answer that is about to be sent."""

    texts: list[str]
    answer: dict[str, Any]


@dataclass
class Fault:
    """What goes wrong with ``times`` requests that hold a text that is ``chosen``."""

    status: int | None = None
    message: str = "The server had an error while processing your request."
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    change: Callable[[Point], None] | None = None
    """Changes an answer that would have been right."""
    cut: bool = False
    """The line is cut before an answer."""
    raw: bytes | None = None
    """The body of the answer."""
    wait: Callable[[], Awaitable[object]] | None = None
    """What is awaited before the answer, such as a test's event."""
    times: int | None = None
    chosen: Callable[[str], bool] = lambda text: True

    def fits(self, texts: list[str]) -> bool:
        if self.times == 0 or not any(map(self.chosen, texts)):
            return False
        if self.times is not None:
            self.times -= 1
        return True


class EmbeddingService:
    """One service. What is public here may be changed by a test at any time."""

    def __init__(self) -> None:
        self.port = free_port()
        self.reset()

    def reset(self) -> None:
        """Forget everything, and do nothing wrong."""
        self.faults: list[Fault] = []
        self.asked: Counter[str] = Counter()
        """How often a vector of each text was given."""
        self.requests = 0
        """Requests that were answered with vectors."""
        self.refused = 0
        self.sizes: list[int] = []
        """How many texts each of them had."""
        self.at_once = self.most_at_once = 0
        self.refuses: Callable[[str], bool] = lambda text: False
        """Texts that are against the rules of the service."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def twice(self) -> list[str]:
        """Texts whose vectors were given, and paid for, more than once."""
        return [text for text, times in self.asked.items() if times > 1]

    def forget(self) -> None:
        self.asked.clear()
        self.requests = self.refused = 0
        self.sizes.clear()

    @contextmanager
    def running(self) -> Iterator[EmbeddingService]:
        with serving(self._application, self.port):
            yield self

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/embeddings", self._embeddings)
        return app

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._answer(request, await request.read())
        finally:
            self.at_once -= 1

    async def _answer(self, request: web.Request, body: bytes) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return self._refuse(401, "Incorrect API key provided.", code="invalid_api_key")
        if request.content_type != "application/json":
            return self._refuse(400, "We could not parse the JSON body of your request.")
        try:
            asked = msgspec.json.decode(body)
        except msgspec.DecodeError:
            return self._refuse(400, "We could not parse the JSON body of your request.")
        texts = [asked["input"]] if isinstance(asked.get("input"), str) else asked.get("input")
        refusal = self._check(asked, texts)
        if refusal is not None:
            return refusal
        fault = next((fault for fault in self.faults if fault.fits(texts)), None)
        if fault is not None and fault.wait is not None:
            await fault.wait()
        if fault is not None and fault.cut:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if fault is not None and fault.status is not None:
            return self._refuse(fault.status, fault.message, code=fault.code, headers=fault.headers)
        return self._vectors(asked, texts, fault)

    def _check(self, asked: dict[str, Any], texts: Any) -> web.Response | None:
        unknown = sorted(set(asked) - _KNOWN)
        if unknown:
            return self._refuse(400, f"Unrecognized request argument supplied: {unknown[0]}", param=unknown[0])
        model = asked.get("model")
        if model not in MODELS:
            message = f"The model `{model}` does not exist or you do not have access to it."
            return self._refuse(404, message, code="model_not_found")
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            return self._refuse(400, "'$.input' is invalid. Please check the API reference.", param="input")
        if len(texts) > _MOST_TEXTS:
            return self._refuse(400, f"'$.input' is invalid: at most {_MOST_TEXTS} items.", param="input")
        if any(not text for text in texts):
            return self._refuse(400, "'$.input' is invalid: input cannot be an empty string.", param="input")
        if asked.get("encoding_format", "float") not in ("float", "base64"):
            return self._refuse(400, "Invalid value for 'encoding_format'.", param="encoding_format")
        if "dimensions" in asked and model != "large":
            return self._refuse(400, "This model does not support specifying dimensions.", param="dimensions")
        long = next((text for text in texts if tokens(text) > LONGEST), None)
        if long is not None:
            message = (
                f"This model's maximum context length is {LONGEST} tokens, however you requested {tokens(long)} tokens."
            )
            return self._refuse(400, message, param=None)
        if any(map(self.refuses, texts)):
            return self._refuse(400, "Your input was rejected by our safety system.", code="content_policy_violation")
        return None

    def _vectors(self, asked: dict[str, Any], texts: list[str], fault: Fault | None) -> web.Response:
        dimensions = asked.get("dimensions", MODELS[asked["model"]])
        packed = asked.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": index, "embedding": _form(vector(text, dimensions), packed=packed)}
            for index, text in enumerate(texts)
        ]
        used = sum(map(tokens, texts))
        usage = {"prompt_tokens": used, "total_tokens": used}
        answer: dict[str, Any] = {"object": "list", "data": data, "model": asked["model"], "usage": usage}
        self.requests += 1
        self.sizes.append(len(texts))
        self.asked.update(texts)
        if fault is not None and fault.change is not None:
            fault.change(Point(texts, answer))
        body = fault.raw if fault is not None and fault.raw is not None else msgspec.json.encode(answer)
        return web.Response(body=body, content_type="application/json")

    def _refuse(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> web.Response:
        self.refused += 1
        error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
        return web.Response(
            body=msgspec.json.encode({"error": error}),
            status=status,
            headers=headers,
            content_type="application/json",
        )


def tokens(text: str) -> int:
    """How many tokens the service counts: one for each word."""
    return max(1, len(text.split()))


def vector(text: str, dimensions: int) -> np.ndarray[Any, Any]:
    """The same for the same text, of length 1, and near to that of a text with the same words."""
    found = np.zeros(dimensions)
    for word in text.casefold().split():
        number = sum(ord(letter) * 31**place for place, letter in enumerate(word.strip(".,:;!?")[:12]))
        found[number % dimensions] += 1.0
        found[number // dimensions % dimensions] += 0.5
    return (found / math.sqrt(float(found @ found))).astype("<f4")


def _form(numbers: np.ndarray[Any, Any], *, packed: bool) -> str | list[float]:
    return base64.b64encode(numbers.tobytes()).decode() if packed else [float(str(number)) for number in numbers]
