"""What runs in a process of its own, whose memory is looked at."""

from __future__ import annotations

from typing import Any

import anyio

import retl
from retl.connectors import PostgreSQL
from retl.connectors.files.source import FileSource
from tests.integration.files.stores import Remote

LINE = "{0},some words of no meaning that make a line of about a hundred bytes together with the number {0:012}\n"


def load(folder: str, target: str) -> dict[str, Any]:
    """A folder of files that come over a line, into their table."""

    async def work() -> dict[str, Any]:
        pipeline = retl.Pipeline(
            "large",
            source=FileSource(Remote(folder, block=1024 * 1024)),
            target=PostgreSQL(target),
            tables=[retl.Table("*.csv", to="sales", pre_action="truncate")],
        )
        (report,) = (await pipeline.run_once()).scans
        await pipeline.aclose()
        return {"rows": report.rows, "slices": report.slices}

    return anyio.run(work)
