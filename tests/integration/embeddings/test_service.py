"""What is asked of a service, in which order, again and when not; and what of its answers is believed."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import numpy as np
import pytest

import retl
from retl.connectors.documents.embeddings.service import Service
from retl.model.embeddings import EmbeddingCounts
from tests.fake_embeddings import KEY, EmbeddingService, Fault, Point
from tests.fake_embeddings.server import vector


class Asking:
    """A client of the service, and its counts."""

    def __init__(self, service: EmbeddingService, **words: Any) -> None:
        given = {"of": "body", "url": service.url, "model": "small", "dimensions": 8, "api_key": KEY, **words}
        self.counts = EmbeddingCounts()
        self.client = Service(retl.Embeddings(**given), self.counts)

    async def embed(self, *texts: str) -> Any:
        try:
            return await self.client.embed(texts)
        finally:
            await self.client.aclose()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses take no time, and are noted."""
    pauses: list[float] = []
    sleep = anyio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr("retl.connectors.net.retry.anyio.sleep", noted)
    return pauses


async def test_texts_come_in_batches_of_both_limits_and_keep_their_order(service: EmbeddingService) -> None:
    texts = [f"text number {number}" for number in range(10)] + ["long " * 30, "short", "end"]

    answer = await Asking(service, batch=4, batch_chars=120).embed(*texts)

    assert np.array_equal(answer.vectors, np.array([vector(text, 8) for text in texts]))
    assert answer.rejected == {}
    assert sorted(service.sizes) == [1, 2, 2, 4, 4]
    assert service.twice == []


async def test_no_more_requests_run_at_once_than_allowed(service: EmbeddingService) -> None:
    gate = threading.Event()
    service.faults = [Fault(wait=lambda: anyio.to_thread.run_sync(gate.wait))]
    threading.Timer(0.3, gate.set).start()

    await Asking(service, batch=1, concurrency=3).embed(*map(str, range(9)))

    assert service.most_at_once == 3


async def test_a_wait_that_the_service_asks_for_is_kept_in_full(
    service: EmbeddingService, no_pauses: list[float]
) -> None:
    service.faults = [
        Fault(429, "Rate limit reached.", headers={"Retry-After": "37"}, times=1),
        Fault(429, "Rate limit reached.", headers={"retry-after-ms": "1500"}, times=1),
        Fault(503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, times=1),
    ]

    asking = Asking(service)
    await asking.embed("bread")

    assert [pause for pause in no_pauses if pause] == [37.0, 1.5]
    assert asking.counts.requests == 4
    assert asking.counts.asked == 1


async def test_a_service_that_fails_is_asked_five_times(service: EmbeddingService) -> None:
    service.faults = [Fault(500)]

    with pytest.raises(retl.TransientError, match="answers 500: The server had an error"):
        await Asking(service).embed("bread")

    assert service.refused == 5


async def test_a_line_that_is_cut_is_tried_again(service: EmbeddingService) -> None:
    service.faults = [Fault(cut=True, times=2)]

    assert (await Asking(service).embed("bread")).rejected == {}


async def test_a_quota_that_is_used_up_is_not_waited_for(service: EmbeddingService, no_pauses: list[float]) -> None:
    service.faults = [Fault(429, "You exceeded your current quota.", code="insufficient_quota")]

    with pytest.raises(retl.TargetError, match="exceeded your current quota"):
        await Asking(service).embed("bread")

    assert no_pauses == []


async def test_a_refused_text_is_found_among_a_hundred(service: EmbeddingService) -> None:
    service.refuses = lambda text: text in ("7", "83")
    asking = Asking(service, batch=100)

    answer = await asking.embed(*map(str, range(100)))

    assert answer.rejected == dict.fromkeys((7, 83), "Your input was rejected by our safety system.")
    assert np.array_equal(answer.vectors[82], vector("82", 8))
    assert service.twice == []
    assert (asking.counts.asked, asking.counts.rejected) == (98, 2)


async def test_a_text_that_is_too_long_is_told_by_the_services_own_words(service: EmbeddingService) -> None:
    answer = await Asking(service).embed("word " * 9_000, "bread")

    assert "maximum context length is 8192 tokens, however you requested 9000" in answer.rejected[0]


async def test_a_service_that_refuses_every_text_is_not_taken_for_bad_texts(service: EmbeddingService) -> None:
    service.refuses = lambda text: True

    with pytest.raises(retl.ConfigError, match="refuses every text"):
        await Asking(service).embed("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"model": "nobody"}, "answers 404: The model `nobody` does not exist"),
        ({"api_key": "sk-wrong-key-of-mine"}, "answers 401: Incorrect API key"),
        ({"shorten": True}, "does not support specifying dimensions"),
        ({"dimensions": 16}, "gives vectors of 8 dimensions, and embeddings says 16"),
    ],
)
async def test_a_wrong_declaration_is_an_error_that_names_what_to_do(
    service: EmbeddingService, words: dict[str, Any], problem: str
) -> None:
    with pytest.raises(retl.ConfigError, match=problem) as raised:
        await Asking(service, **words).embed("bread")

    assert raised.value.remedy
    assert "sk-wrong" not in str(raised.value)


def short(point: Point) -> None:
    point.answer["data"].pop()


def numbered_twice(point: Point) -> None:
    point.answer["data"][0]["index"] = 1


def uneven(point: Point) -> None:
    point.answer["data"][0]["embedding"].append(0.5)


def infinite(point: Point) -> None:
    point.answer["data"][0]["embedding"][0] = 1e300


def nothing(point: Point) -> None:
    point.answer["data"][0]["embedding"] = None


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (Fault(change=short), "1 vectors for 2 texts"),
        (Fault(change=numbered_twice), "numbers them wrongly"),
        (Fault(change=uneven), "another number of dimensions"),
        (Fault(change=infinite), "not finite"),
        (Fault(change=nothing), "cannot be used"),
        (Fault(raw=b"<html>a proxy</html>"), "not what the interface promises"),
        (Fault(raw=b'{"data": []}'), "0 vectors for 2 texts"),
    ],
)
async def test_an_answer_that_is_not_what_was_promised_is_never_used(
    service: EmbeddingService, fault: Fault, problem: str
) -> None:
    service.faults = [fault]

    with pytest.raises(retl.TargetError, match=problem):
        await Asking(service).embed("bread", "butter")


async def test_vectors_in_another_order_find_their_texts_by_their_numbers(service: EmbeddingService) -> None:
    service.faults = [Fault(change=lambda point: point.answer["data"].reverse())]

    answer = await Asking(service).embed("bread", "butter", "trains")

    assert np.array_equal(answer.vectors, np.array([vector(text, 8) for text in ("bread", "butter", "trains")]))


async def test_an_answer_without_end_is_not_read_to_its_end(service: EmbeddingService) -> None:
    service.faults = [Fault(raw=b" " * 3_000_000)]

    with pytest.raises(retl.TargetError, match="more than"):
        await Asking(service).embed("bread")


async def test_a_budget_stops_before_more_is_asked_than_it_allows(service: EmbeddingService) -> None:
    asking = Asking(service, budget=retl.Budget(tokens=100), batch=2)
    await asking.client.embed(["one two three four"] * 5)

    with pytest.raises(retl.GuardStopped, match="has used 20 of the 100 tokens") as raised:
        await asking.embed(*["one two three four"] * 40)

    assert service.requests == 3
    assert "the next scan continues" in raised.value.remedy


@pytest.mark.parametrize(
    ("budget", "word"),
    [
        (retl.Budget(requests=1), "requests"),
        (retl.Budget(texts=3), "texts"),
        (retl.Budget(cost=0.000_000_1), "cost"),
    ],
)
async def test_every_kind_of_budget_is_kept(service: EmbeddingService, budget: retl.Budget, word: str) -> None:
    with pytest.raises(retl.GuardStopped, match=word):
        await Asking(service, budget=budget, batch=2, price=1.0).embed("a", "b", "c", "d")

    assert service.requests == 0


async def test_tokens_and_cost_are_those_that_the_service_counts(service: EmbeddingService) -> None:
    asking = Asking(service, price=0.02)

    await asking.embed("one two three", "four")

    assert (asking.counts.tokens, asking.counts.requests) == (4, 1)
    assert asking.counts.cost == pytest.approx(4 * 0.02 / 1_000_000)


async def test_a_question_is_embedded_as_the_table_is(service: EmbeddingService) -> None:
    words = retl.Embeddings(of="body", url=service.url, model="small", dimensions=8, api_key=KEY)

    (found,) = await retl.embed(words, ["bread and butter"])

    assert [np.float32(number) for number in found.strip("[]").split(",")] == list(vector("bread and butter", 8))
