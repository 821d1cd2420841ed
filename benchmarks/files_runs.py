"""What runs in a process of its own in the benchmarks of files."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import anyio

import retl
from benchmarks import common
from retl.connectors import PostgreSQL, S3Files
from retl.connectors.base import PreAction

BUCKET, PREFIX = "bench", "files/"


def _files(endpoint: str, access_key: str, secret_key: str) -> S3Files:
    return S3Files(f"s3://{BUCKET}/{PREFIX}", endpoint=endpoint, access_key=access_key, secret_key=secret_key)


def timed(work: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """What some work finds, its seconds, and the longest time for which it kept the event loop."""
    watch = common.StallWatch()

    async def run() -> dict[str, Any]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch.watch, anyio.sleep)
            began = time.perf_counter()
            found = await work()
            found["seconds"] = time.perf_counter() - began
            tasks.cancel_scope.cancel()
        return found

    return {**anyio.run(run), "stall_ms": round(1000 * watch.longest)}


def by_retl(*server: str) -> dict[str, Any]:
    """Read the object by the store."""

    async def work() -> dict[str, Any]:
        store = _files(*server).store()
        file = await store.stat("large.csv")
        assert file is not None
        async with aclosing(store.read(file)) as blocks:
            size = sum([len(block) async for block in blocks])
        await store.aclose()
        assert size == file.size
        return {}

    return timed(work)


def by_driver(endpoint: str, access_key: str, secret_key: str) -> dict[str, Any]:
    """Read the object by one stream of the driver."""
    import aiobotocore.session

    async def work() -> dict[str, Any]:
        session = aiobotocore.session.get_session()
        words = {"aws_access_key_id": access_key, "aws_secret_access_key": secret_key, "region_name": "us-east-1"}
        async with session.create_client("s3", endpoint_url=endpoint, **words) as client:
            answer = await client.get_object(Bucket=BUCKET, Key=f"{PREFIX}large.csv")
            body = answer["Body"]
            async with body:
                async for _ in body.iter_chunks(262_144):
                    pass
        return {}

    return timed(work)


def load(endpoint: str, access_key: str, secret_key: str, target: str) -> dict[str, Any]:
    """Load the object into its table."""
    source = _files(endpoint, access_key, secret_key)
    table = retl.Table("large.csv", to="sales", pre_action=PreAction.TRUNCATE)

    async def work() -> dict[str, Any]:
        pipeline = retl.Pipeline("bench", source=source, target=PostgreSQL(target), tables=[table])
        await pipeline.run_once()
        await pipeline.aclose()
        return {}

    return timed(work)


def listing(*server: str) -> dict[str, Any]:
    """List a bucket of many objects."""

    async def work() -> dict[str, Any]:
        store = _files(*server).store()
        async with aclosing(store.list()) as pages:
            objects = sum([len(page) async for page in pages])
        await store.aclose()
        return {"objects": objects}

    return timed(work)
