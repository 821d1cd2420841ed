"""What a wrapper says of itself: what the wrapped source or target says."""

from __future__ import annotations

import inspect
from typing import Any


def take_facts(contract: type, wrapped: Any, wrapper: Any) -> None:
    """Set every fact that a contract declares for its class, such as ``system``, to that of the wrapped one."""
    for owner in contract.__mro__:
        for name in inspect.get_annotations(owner):
            setattr(wrapper, name, getattr(wrapped, name))
