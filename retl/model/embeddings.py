"""The words of a table whose texts are given vectors, and the counts of what that took."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from retl.model.duration import Duration, parse_duration
from retl.model.errors import ConfigError
from retl.model.secret import Secret, without_password

LOCAL = "local:"
"""How the address of a model begins that runs within this process."""
OnChange = Literal["fail", "replace"]
Distance = Literal["cosine", "l2", "inner_product"]
EMBEDDED_SLICE_ROWS = 1_000
"""Rows of one commit where texts are embedded: a crash has paid in vain for no more."""
_PRESETS = {"default": "embedding", "cc": "__vector"}
_MOST_DIMENSIONS = 16_000
_LONGEST_MODEL = 150
_WHOLE = {"dimensions": _MOST_DIMENSIONS, "batch": 2_048, "batch_chars": 10_000_000, "concurrency": 64}
"""The largest value of the words that are whole numbers."""


class Budget(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The most that one scan of a table may ask for. A scan that needs more stops before it asks."""

    texts: Annotated[int, msgspec.Meta(ge=1)] | None = None
    tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    requests: Annotated[int, msgspec.Meta(ge=1)] | None = None
    cost: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """In the currency of ``price``."""


class VectorIndex(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """An index over the vectors, which finds the nearest ones quickly, and nearly always."""

    method: Literal["hnsw", "ivfflat"] = "hnsw"
    distance: Distance = "cosine"
    options: dict[str, int] = {}
    """What the method is given besides: ``{ m = 16, ef_construction = 64 }``, ``{ lists = 100 }``."""


class Embeddings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Gives the texts of one column of the target vectors, each in the row of its text."""

    of: str
    """The target's column whose text is embedded. A row without text has no vector."""
    into: str = ""
    """The column of the vectors; unset: ``embedding``, or as ``preset`` names it. Beside it stands ``<into>_of``: which
    model made it, of which text."""
    preset: Literal["default", "cc"] = "default"
    """Names of columns, as ``chunks`` has them: ``cc`` for ``__vector``."""
    url: str
    """The base address of an OpenAI-compatible service, such as ``https://api.openai.com/v1``; or ``local:hashing``, or
    ``local:wordllama``, which the extra ``wordllama`` brings."""
    model: str = ""
    """The model, by the name that the service knows it by; a local one is named by ``url``."""
    dimensions: int
    """How many numbers a vector of the model has."""
    shorten: bool = False
    """Ask the model for vectors of just so many numbers, fewer than its own: for models that can."""
    api_key: Secret | str | None = None
    """The key of the service."""
    batch: int = 64
    """The most texts in one request."""
    batch_chars: int = 100_000
    """The most characters in one request; a longer text is asked for alone."""
    concurrency: int = 4
    """How many requests are under way at once."""
    timeout: Duration = "60s"
    """How long the answer to one request may take."""
    patience: Duration = "15m"
    """How long one request is tried again while the service is overloaded or asks to wait."""
    budget: Budget | None = None
    """The most that one scan may ask for; no limit when unset."""
    price: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """What a million tokens cost, for the report and for ``budget``."""
    index: VectorIndex | None = None
    """An index over the vectors, made at the end of a load where the target has such indexes."""
    on_change: OnChange = "fail"
    """The table has vectors of another model: ``fail``, or ``replace`` all of them by reading everything once."""

    def __post_init__(self) -> None:
        if self.url.startswith(LOCAL) and not self.model:
            msgspec.structs.force_setattr(self, "model", self.url.removeprefix(LOCAL))
        if self.preset not in _PRESETS:
            raise ConfigError(
                f"unknown preset of embeddings {self.preset!r}.", remedy=f"use one of {', '.join(_PRESETS)}."
            )
        if not self.into:
            msgspec.structs.force_setattr(self, "into", _PRESETS[self.preset])
        _check_address(self)
        _check_names(self)
        for word, most in _WHOLE.items():
            value = getattr(self, word)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ConfigError(f"embeddings.{word} is {value!r}.", remedy=f"give a whole number from 1 to {most:,}.")
        for word in ("timeout", "patience"):
            parse_duration(getattr(self, word), what=f"embeddings.{word}")
        if self.budget is not None and self.budget.cost is not None and self.price is None:
            raise ConfigError(
                "embeddings has a budget of cost, and no price to count it by.",
                remedy="say in price what a million tokens cost.",
            )

    def __repr__(self) -> str:
        address = without_password(self.url)
        return f"Embeddings(of={self.of!r}, into={self.into!r}, url={address!r}, model={self.model!r}, dimensions={self.dimensions})"

    @property
    def maker(self) -> str:
        """What made a vector, as the column ``made_of`` begins: the model and the number of dimensions."""
        return f"{self.model} {self.dimensions} "

    @property
    def made_of(self) -> str:
        """The column that says by which model, and of which text, a vector was made."""
        return f"{self.into}_of"


def _check_names(words: Embeddings) -> None:
    for name in ("of", "into", "model"):
        if not getattr(words, name).strip():
            raise ConfigError(f"embeddings.{name} is empty.")
    if words.into == words.of:
        raise ConfigError(
            f"embeddings would replace the text {words.of!r} by its vector.", remedy="name another column in into."
        )
    if len(words.model.encode()) > _LONGEST_MODEL:
        raise ConfigError(f"the model's name has more than {_LONGEST_MODEL} bytes.")


def _check_address(words: Embeddings) -> None:
    url = words.url
    if url.startswith(LOCAL):
        if words.model != url.removeprefix(LOCAL):
            raise ConfigError(
                f"embeddings names the model {words.model!r}, and {url} is another one.", remedy="leave model out."
            )
        return
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"the url of embeddings, {without_password(url)!r}, is not an address.",
            remedy='write https://api.openai.com/v1, or "local:hashing" for the model that comes with retl.',
        )


class EmbeddingCounts(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What the vectors of one scan took. Counted on while the scan runs; a failed scan has paid too."""

    texts: int = 0
    """Texts that came, those of unchanged rows included."""
    reused: int = 0
    """Those whose vector the target had, or that had just come: nothing was asked for them."""
    asked: int = 0
    """Texts that the model was asked for."""
    rejected: int = 0
    """Texts that the model rejected."""
    tokens: int = 0
    """Tokens that the service has counted."""
    requests: int = 0
    """Requests that were answered, refusals included."""
    cost: float | None = None
    """What the tokens cost by ``price``; ``None`` without one."""

    def __str__(self) -> str:
        asked = f"{self.asked:,} asked for in {self.requests:,} requests" if self.requests else f"{self.asked:,} made"
        tokens = f", {self.tokens:,} tokens" if self.tokens else ""
        cost = f", cost {self.cost:,.6g}" if self.cost else ""
        rejected = f", {self.rejected:,} rejected" if self.rejected else ""
        return f"{self.texts:,} texts, {self.reused:,} reused, {asked}{tokens}{cost}{rejected}"


def in_all(counts: Iterable[EmbeddingCounts]) -> EmbeddingCounts | None:
    """The sum of the counts of some loads; ``None`` where there are none."""
    total: EmbeddingCounts | None = None
    for one in counts:
        total = one if total is None else _sum(total, one)
    return total


def _sum(one: EmbeddingCounts, other: EmbeddingCounts) -> EmbeddingCounts:
    costs = [counts.cost for counts in (one, other) if counts.cost is not None]
    return EmbeddingCounts(
        texts=one.texts + other.texts,
        reused=one.reused + other.reused,
        asked=one.asked + other.asked,
        rejected=one.rejected + other.rejected,
        tokens=one.tokens + other.tokens,
        requests=one.requests + other.requests,
        cost=sum(costs) if costs else None,
    )
