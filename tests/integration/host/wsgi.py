"""A synchronous service with a pipeline in a thread, as the docs show it. ``RETL_HOST_FOLDER`` is where its files lie."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

import retl
from retl.connectors import IteratorSource, SQLite

people = retl.Pipeline(
    "people",
    source=IteratorSource(lambda: [{"id": 1, "name": "Ann"}], key="id"),
    target=SQLite(f"{os.environ['RETL_HOST_FOLDER']}/app.db"),
    tables=["people"],
    interval="100ms",
)
jobs = retl.in_thread(people, grace="300ms").start()


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    body = json.dumps(people.snapshot().to_dict() | {"worker": os.getpid()}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
