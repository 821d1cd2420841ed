"""The service of the tests, driven by the official client: so that its own faults are found by others' code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import openai
import pytest

from tests.fake_embeddings import KEY, EmbeddingService, Fault
from tests.fake_embeddings.server import vector


@pytest.fixture
def client(service: EmbeddingService) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=service.url, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("form", ["float", "base64"])
def test_the_official_client_reads_its_vectors_in_their_order(
    client: openai.OpenAI, form: Literal["float", "base64"]
) -> None:
    texts = ["bread and butter", "trains to Prague"]

    answer = client.embeddings.create(model="small", input=texts, encoding_format=form)

    assert [item.index for item in answer.data] == [0, 1]
    assert answer.usage.total_tokens == 6


def test_the_official_client_asks_for_base64_by_itself_and_gets_numbers(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="small", input="bread")

    assert answer.data[0].embedding == [float(number) for number in vector("bread", 8)]


def test_the_official_client_shortens_vectors_only_of_a_model_that_can(client: openai.OpenAI) -> None:
    assert len(client.embeddings.create(model="large", input="bread", dimensions=5).data[0].embedding) == 5
    with pytest.raises(openai.BadRequestError, match="does not support specifying dimensions") as raised:
        client.embeddings.create(model="small", input="bread", dimensions=5)
    assert raised.value.param == "dimensions"


def test_the_official_client_meets_the_documented_errors(service: EmbeddingService, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist") as unknown:
        client.embeddings.create(model="nobody", input="bread")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="cannot be an empty string"):
        client.embeddings.create(model="small", input=["bread", ""])
    with pytest.raises(openai.BadRequestError, match="maximum context length is 8192"):
        client.embeddings.create(model="small", input="word " * 9_000)
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
        client.with_options(api_key="sk-wrong").embeddings.create(model="small", input="bread")
    service.faults = [
        Fault(429, "Rate limit reached.", code="rate_limit_exceeded", headers={"Retry-After": "1"}, times=1)
    ]
    with pytest.raises(openai.RateLimitError, match="Rate limit reached"):
        client.embeddings.create(model="small", input="bread")
    service.faults = [Fault(cut=True, times=1)]
    with pytest.raises(openai.APIConnectionError):
        client.embeddings.create(model="small", input="bread")
