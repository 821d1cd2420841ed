"""What came from outside and must not be shown: passwords, tokens, and what ``${NAME}`` stood for.

Whatever reads such a value says so by ``hide``; whatever is shown, logged or kept passes
through ``conceal``. A server that echoes a password in its refusal is covered too.
"""

from __future__ import annotations

import re

LEAST_SECRET = 6
"""Shorter secrets are too likely to be part of an ordinary word of a message."""
LEAST_REFERENCE = 4

_MOST = 1_000
_shown_as: dict[str, str] = {}


def hide(value: str, shown_as: str = "***") -> None:
    """From now on ``conceal`` shows ``shown_as`` in place of ``value``, unless that is too short."""
    if len(value) < (LEAST_SECRET if shown_as == "***" else LEAST_REFERENCE):
        return
    if shown_as == "***" and value in _shown_as:
        return  # where it came from says more
    # Tokens that change every hour push the oldest ones out.
    while len(_shown_as) >= _MOST:
        _shown_as.pop(next(iter(_shown_as), ""), None)
    _shown_as[value] = shown_as


def conceal(text: str) -> str:
    """The text without any hidden value: as a whole, not where it is a part of a longer word.

    A value within another one is found in the longer one first.
    """
    found = sorted((value for value in _shown_as if value in text), key=len, reverse=True)
    if not found:
        return text
    whole = "|".join(rf"(?<![^\W_]){re.escape(value)}(?![^\W_])" for value in found)
    return re.sub(whole, lambda match: _shown_as.get(match[0], "***"), text)
