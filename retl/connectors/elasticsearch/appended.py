"""Rows without a key, taken back by the ids that were made for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from retl.connectors.elasticsearch.client import Client, quoted
from retl.connectors.elasticsearch.errors import server_error
from retl.model.errors import TargetError


class _Item(msgspec.Struct, gc=False):
    status: int
    error: Any = None


class _Answer(msgspec.Struct):
    items: list[dict[str, _Item]]


_ANSWER = msgspec.json.Decoder(_Answer)


async def take_back(client: Client, index: str, ids: Iterable[Sequence[str]], *, written: int) -> None:
    """Delete documents. Raises where there are fewer than were ``written``: what is left would be there twice."""
    deleted = 0
    for some in ids:
        body = b"".join(b'{"delete":{"_id":"%b"}}\n' % name.encode() for name in some)
        params = {"filter_path": "items.*.status,items.*.error"}
        answer = await client.request("POST", f"/{quoted(index)}/_bulk", params=params, body=body, ndjson=True)
        for each in _ANSWER.decode(answer.body).items:
            (item,) = each.values()
            if item.error is not None:
                raise server_error(item.status, msgspec.json.encode(item.error), "target", client.place)
            deleted += item.status < 300
    if deleted < written:
        raise TargetError(
            f"the slice has to be read again, and of {written:,} rows that it had appended to {index!r} only {deleted:,} "
            "could be taken back.",
            remedy="a key, or a cursor, makes it safe to read a slice again.",
        )
