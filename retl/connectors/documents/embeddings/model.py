"""What asks a model for vectors: the one that comes with retl, or a service."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from retl.connectors.rows.vectors import Numbers


@dataclass(frozen=True)
class Answer:
    """The vectors of some texts, a row for each; that of a refused text is nothing."""

    vectors: Numbers
    rejected: Mapping[int, str]
    """Which texts the model rejected, by their number, and why."""


class Model(ABC):
    """One model for the length of a load. Counts what it is asked for."""

    @abstractmethod
    async def embed(self, texts: Sequence[str]) -> Answer:
        """The vectors of texts, none of which is blank.

        Raises ``TransientError`` if asking later may help, ``ConfigError`` or ``TargetError`` if it cannot, and
        ``GuardStopped`` before more is asked for than the budget allows.
        """

    async def aclose(self) -> None:  # noqa: B027  # not abstract: some hold nothing
        """Close what it holds."""
