"""Warnings of a source that waits: they are passed on while it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from retl.connectors.base import SourceScan
from retl.engine.context import ScanContext
from retl.threads import end_task

_SECONDS = 1.0
_PATIENCE = 10.0


@asynccontextmanager
async def telling(context: ScanContext, scan: SourceScan) -> AsyncIterator[None]:
    """Pass a scan's warnings on for the length of a block, at most a second late, and once more at its end."""
    task = asyncio.get_running_loop().create_task(_pass_on(context, scan))
    try:
        yield
    finally:
        await end_task(task, patience=_PATIENCE)
        _tell(context, scan)


async def _pass_on(context: ScanContext, scan: SourceScan) -> None:
    while True:
        await anyio.sleep(_SECONDS)
        _tell(context, scan)


def _tell(context: ScanContext, scan: SourceScan) -> None:
    for warning in scan.warnings():
        context.warn(warning)
