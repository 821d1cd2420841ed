"""A service with pipelines in its lifespan, as the docs show it. ``RETL_HOST_FOLDER`` is where its files lie."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

import retl
from retl.connectors import IteratorSource, SQLite

FOLDER = os.environ["RETL_HOST_FOLDER"]
HANGS = os.environ.get("RETL_HOST_HANGS") == "1"
NAMES = os.environ.get("RETL_HOST_NAMES", "people,hung").split(",")


def people() -> Iterator[dict[str, Any]]:
    yield {"id": 1, "name": "Ann"}


def hung() -> Iterator[dict[str, Any]]:
    yield {"id": 1, "name": "Ann"}
    if HANGS:
        threading.Event().wait()


def job(name: str, read: Any, path: str) -> retl.Pipeline:
    source = IteratorSource(read, key="id")
    return retl.Pipeline(name, source=source, target=SQLite(f"{FOLDER}/{path}"), tables=["people"], interval="100ms")


pipelines = (job(NAMES[0], people, "app.db"), job(NAMES[1], hung, "hung.db"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with retl.running(*pipelines, grace="300ms"):
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/snapshot")
async def snapshot() -> list[dict[str, Any]]:
    return [pipeline.snapshot().to_dict() for pipeline in pipelines]


@app.get("/struct")
async def struct() -> Any:
    return pipelines[0].snapshot().to_dict() | {"worker": os.getpid()}


@app.get("/events")
async def events() -> StreamingResponse:
    async def stream() -> AsyncIterator[str]:
        async for event in pipelines[0].events():
            yield f"data: {json.dumps(event.to_dict())}\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream")


@app.post("/stop")
async def stop() -> None:
    pipelines[1].stop(grace=0)
