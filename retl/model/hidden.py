"""What came from outside and must not be shown: passwords, tokens, and what ``${NAME}`` stood for.

Whatever reads such a value says so by ``hide``; whatever is shown, logged or kept passes
through ``conceal``. A server that echoes a password in its refusal is covered too.
"""

from __future__ import annotations

import re

LEAST_SECRET = 6
"""Shorter secrets are too likely to be part of an ordinary word of a message."""
LEAST_REFERENCE = 4

_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST = 4_000
"""Characters of a message: a server may answer with the whole value that it refuses."""
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


def visible(text: str) -> str:
    """The text with its escape in the place of each sign that steers a terminal, or that cannot be encoded.

    The name of a table can hold anything, also what moves the cursor or sets the title.
    """
    return _STEERING.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


def shown(text: str, most: int = _LONGEST) -> str:
    """A text from anywhere as a message may hold it: nothing hidden, nothing that steers, and not as long as the data."""
    if len(text) <= most + 50:  # room for what is said of a cut, so that a text that was cut stays as it is
        return visible(conceal(text))
    # A hidden value that the cut would halve is still found, and half of one at the very end is dropped.
    longest = max(map(len, _shown_as), default=0)
    found = conceal(text[: most + longest])
    found = found[: min(most, max(0, len(found) - longest))]
    return f"{visible(found)}… ({len(text):,} characters)"
