"""What a wrapper says of itself: what the wrapped source or target says."""

from __future__ import annotations

from typing import Any


def take_facts(contract: type, wrapped: Any, wrapper: Any) -> None:
    """Set every fact that a contract declares for its class, such as ``system``, to that of the wrapped one."""
    for name in contract.__annotations__:
        setattr(wrapper, name, getattr(wrapped, name))
