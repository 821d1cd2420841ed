"""What a pipeline holds: its connections while it runs, and while somebody looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Self

from retl.engine.arguments import check_loop, in_context
from retl.engine.bus import EventBus
from retl.engine.config import PipelineConfig
from retl.engine.runner import Runner
from retl.model.errors import ConfigError
from retl.threads import Grace, graced, shielded

_LET_GO_SECONDS = 0.4
"""How long a run that left something behind may take to close its connections."""


class Lifetime:
    """The part of a ``Pipeline`` that opens and closes."""

    name: str
    _config: PipelineConfig
    _runner: Runner
    _bus: EventBus
    _busy: bool
    _looks: int

    async def aclose(self) -> None:
        """Close every connection, and end ``events``. ``run_once`` and ``run_forever`` may be called again afterwards."""
        self._bus.end()
        await shielded(self._close())

    async def _close(self) -> None:
        async with AsyncExitStack() as closing:  # each of them, even if another one fails
            closing.push_async_callback(self._config.store.aclose)
            closing.push_async_callback(self._config.target.aclose)
            closing.push_async_callback(self._config.source.aclose)

    async def __aenter__(self) -> Self:
        """For a block that asks, or runs once; its end closes every connection. ``retl.running`` runs in the background."""
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    @asynccontextmanager
    async def _looking(self) -> AsyncGenerator[None, None]:
        """A look outside of a run: when the last one is over, nothing stays open."""
        check_loop(self.name)
        self._looks += 1
        try:
            with in_context(self.name):
                yield
        finally:
            self._looks -= 1
            if not self._looks and not self._busy:
                await shielded(self._close())

    @contextmanager
    def _running(self) -> Iterator[Grace]:
        """Holds the pipeline for one run at a time."""
        check_loop(self.name)
        if self._busy:
            raise ConfigError(
                "the pipeline is running already.",
                remedy="use trigger() to run now, or another Pipeline object under another name.",
                pipeline=self.name,
            )
        self._busy = True
        try:
            with graced() as grace:
                self._runner.begin(grace)
                yield grace
        finally:
            self._busy = False

    async def _let_go(self, grace: Grace) -> None:
        """After a run: nothing stays open, and the next owner need not wait."""
        self._runner.rest()
        with graced() as further:
            if grace.over:
                asyncio.get_running_loop().call_later(_LET_GO_SECONDS, further.end)
            await shielded(self._give_up())

    async def _give_up(self) -> None:
        await self._runner.give_up()
        await self._close()
