"""How long to wait before trying again."""

from __future__ import annotations

import random


def backoff(attempt: int, *, first: float = 0.5, most: float = 30.0) -> float:
    """Seconds to wait after the ``attempt``-th failure (from 1): doubling up to ``most``, less a random share of up to half.

    The random share keeps a fleet of services from coming back all at once.
    """
    ceiling = min(most, first * 2.0 ** min(attempt - 1, 32))
    return random.uniform(ceiling / 2, ceiling)
