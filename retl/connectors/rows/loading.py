"""A writer for the length of a block."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import anyio

from retl.threads import shielded

_ABORT_SECONDS = 5.0
"""How long a load that is given up may take to remove what it has staged; what is left, the next scan removes."""


class _Unfinished(Protocol):
    finished: bool

    async def abort(self) -> None: ...


WriterT = TypeVar("WriterT", bound=_Unfinished)


@asynccontextmanager
async def loading(writer: WriterT) -> AsyncGenerator[WriterT, None]:
    """A writer for the length of a block, which is aborted where the block does not finish it: for ``Target.open_load``."""
    try:
        yield writer
    finally:
        if not writer.finished:
            await shielded(_abort(writer))


async def _abort(writer: _Unfinished) -> None:
    with anyio.move_on_after(_ABORT_SECONDS):
        await writer.abort()
