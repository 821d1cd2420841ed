"""What a scan has asked for, and what it may still ask for."""

from __future__ import annotations

from collections.abc import Iterator

from retl.model.embeddings import EmbeddingCounts, Embeddings
from retl.model.errors import GuardStopped

_BYTES_PER_TOKEN = 4.0
"""Bytes of UTF-8 that make a token, before the service has told: true of English, and not far off elsewhere."""
_MILLION = 1_000_000


class Ledger:
    """Counts requests and tokens, and stops a scan before it asks for more than its budget."""

    def __init__(self, words: Embeddings, counts: EmbeddingCounts) -> None:
        self._budget = words.budget
        self._price = words.price
        self._batch = words.batch
        self._bytes = 0
        """Bytes of the texts whose tokens were counted."""
        self.counts = counts
        if words.price is not None:
            counts.cost = counts.cost or 0.0

    def plan(self, texts: int, size: int) -> None:
        """Raise ``GuardStopped`` if so many texts, of so many bytes, are more than what is left."""
        tokens = size / self._bytes_per_token()
        self._check(texts, tokens, -(-texts // self._batch), f"the next {texts:,} texts need about")

    def before_request(self) -> None:
        """The same before every single request: an estimate may have been too low, and some are repeated."""
        self._check(0, 0.0, 1, "the next request needs")

    def answered(self, texts: int, size: int, tokens: int) -> None:
        """Count an answer with vectors."""
        self.counts.asked += texts
        self.counts.tokens += tokens
        if tokens:
            self._bytes += size
        if self._price is not None:
            self.counts.cost = self.counts.tokens * self._price / _MILLION

    def _bytes_per_token(self) -> float:
        return self._bytes / self.counts.tokens if self.counts.tokens and self._bytes else _BYTES_PER_TOKEN

    def _check(self, texts: int, tokens: float, requests: int, what: str) -> None:
        for word, spent, more, allowed in self._limits(texts, tokens, requests):
            if spent + more > allowed:
                raise GuardStopped(
                    f"the scan has used {_amount(spent)} of the {_amount(allowed)} {word} that embeddings.budget allows it, and "
                    f"{what} {_amount(more)}.",
                    remedy="what was committed stays, and the next scan continues from there; raise the budget to do more at "
                    "once, or lower slice_rows to do it in smaller steps.",
                )

    def _limits(self, texts: int, tokens: float, requests: int) -> Iterator[tuple[str, float, float, float]]:
        budget, counts = self._budget, self.counts
        if budget is None:
            return
        if budget.texts is not None:
            yield "texts", counts.asked, texts, budget.texts
        if budget.requests is not None:
            yield "requests", counts.requests, requests, budget.requests
        if budget.tokens is not None:
            yield "tokens", counts.tokens, tokens, budget.tokens
        if budget.cost is not None and self._price is not None:
            yield "cost", counts.cost or 0.0, tokens * self._price / _MILLION, budget.cost


def _amount(number: float) -> str:
    return f"{number:,.6g}" if isinstance(number, float) and number < 1_000 else f"{round(number):,}"
