"""Where the pipelines of a job file keep their checkpoints: ``[state]``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from retl.config.build import Problems, anchored
from retl.connectors.base import Target
from retl.model.errors import ConfigError
from retl.state.base import StateStore
from retl.state.memory import MemoryStore
from retl.state.sqlite import SqliteStore

DEFAULT_STORE = "retl-state.db"
"""The file beside the job file, for a target that cannot hold its own checkpoints."""

_SQLITE = "sqlite:///"


class Stores:
    """Makes the store of each pipeline. ``memory`` is the one that they share where the file asks for that."""

    def __init__(self, store: str | None, folder: Path, problems: Problems, memory: MemoryStore) -> None:
        self._folder = folder
        self._memory = memory
        self._make: Callable[[Target], StateStore | None] = self._beside
        self.word = f"{store} {folder}"
        """Tells one choice of a store from another."""
        try:
            self._make = self._chosen(store)
        except ConfigError as error:
            problems.add_error(("state", "store"), error)

    def store(self, target: Target) -> StateStore | None:
        """The store for a pipeline of this target; ``None`` for the one that the target holds. Raises ``ConfigError``."""
        return self._make(target)

    def _chosen(self, store: str | None) -> Callable[[Target], StateStore | None]:
        if store is None:
            return self._beside
        if store == "target":
            return _inside
        if store == "memory":
            return lambda target: self._memory
        if store.startswith(_SQLITE) and store != _SQLITE:
            path = anchored(store.removeprefix(_SQLITE), self._folder)
            return lambda target: SqliteStore(path)
        raise ConfigError(
            f"unknown state store {store!r}.", remedy='use "target", "memory", or a file: "sqlite:///retl-state.db".'
        )

    def _beside(self, target: Target) -> StateStore | None:
        return None if target.state_store() is not None else SqliteStore(self._folder / DEFAULT_STORE)


def _inside(target: Target) -> None:
    if target.state_store() is None:
        raise ConfigError(
            f'the target {target.system} has no transactions, so it cannot hold the checkpoints of [state] store = "target".',
            remedy=f'remove the line, or name a file: store = "sqlite:///{DEFAULT_STORE}".',
        )
