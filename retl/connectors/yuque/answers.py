"""What the service answers, read tolerantly: its objects come as arrays now and then, its numbers as text."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

Object = Mapping[str, Any]

_NOTHING: Object = {}


def as_object(value: Any) -> Object:
    """The object that was promised, also where it comes in an array; empty where there is none."""
    if isinstance(value, list):
        value = next((item for item in value if isinstance(item, dict)), None)
    return value if isinstance(value, dict) else _NOTHING


def as_objects(value: Any) -> list[Object]:
    """The objects of an array that was promised, also where they come as one object, or numbered."""
    if isinstance(value, dict):
        numbered = bool(value) and all(isinstance(item, dict) for item in value.values())
        value = list(value.values()) if numbered else [value] if value else []
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def as_number(value: Any) -> int | None:
    """A whole number, also where it comes as text."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else None
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        return as_number(int(value)) if len(value) < 25 else None
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else None


def as_text(value: Any) -> str | None:
    """A text, also where it comes as a number."""
    if isinstance(value, str):
        return value
    return None if value is None or isinstance(value, dict | list) else str(value)


def as_time(value: Any) -> datetime | None:
    """A time in UTC, to the microsecond; ``None`` where it is no time."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
