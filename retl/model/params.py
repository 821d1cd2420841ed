"""The values of a query's parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from typing import Any

from retl.model.errors import ConfigError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_params(params: Mapping[str, Any] | None, *, query: bool) -> None:
    """Raise ``ConfigError`` for a name or a value that no query could have; ``query``: whether there is one."""
    if params is None:
        return
    if not query:
        raise ConfigError(
            "params are the parameters of a query, and there is none.", remedy="give query or query_file."
        )
    for name, value in params.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"params has {name!r}, which cannot be a parameter.", remedy="use letters, digits and underscores."
            )
        if not _is_value(value) and not (_is_list(value) and value and all(map(_is_value, value))):
            raise ConfigError(
                f"params gives {name} a value of type {type(value).__name__}, or an empty list.",
                remedy="give text, a number, true or false, a date or a time, or a list of them.",
            )


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_value(value: Any) -> bool:
    if isinstance(value, float | Decimal):
        return math.isfinite(value)
    return isinstance(value, str | int | date | time)
