"""What an idle connection has heard: hardly anything but its end."""

from __future__ import annotations

import selectors
from typing import Any, Protocol


class Transport(Protocol):
    """What ``asyncio`` calls so, and whatever tells of its socket in the same way."""

    def get_extra_info(self, name: str, default: Any = None) -> Any: ...


def has_news(transport: Transport) -> bool:
    """Whether something has come that the event loop has not read yet, which may be the end of the connection."""
    channel = transport.get_extra_info("socket")
    if channel is None or channel.fileno() < 0:
        return True
    with selectors.DefaultSelector() as selector:
        selector.register(channel.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))
