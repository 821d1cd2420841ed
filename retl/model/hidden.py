"""Values from outside that must not be shown: passwords, tokens, and the values of ``${NAME}``.

Code that reads such a value calls ``hide``; text that is shown, logged or kept passes
through ``conceal``. That covers a server whose message repeats a password, too.
"""

from __future__ import annotations

import re

LEAST_SECRET = 6
"""Shorter secrets are too likely to be a word of an ordinary message."""
LEAST_REFERENCE = 4

_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST = 4_000
"""Maximum length of a message: a server may answer with the whole value that it rejects."""
_MOST = 1_000
_shown_as: dict[str, str] = {}


def hide(value: str, shown_as: str = "***") -> None:
    """Make ``conceal`` show ``shown_as`` in place of ``value``, unless that is too short."""
    if len(value) < (LEAST_SECRET if shown_as == "***" else LEAST_REFERENCE):
        return
    if shown_as == "***" and value in _shown_as:
        return  # the place it came from says more
    # Tokens that change every hour push the oldest ones out.
    while len(_shown_as) >= _MOST:
        _shown_as.pop(next(iter(_shown_as), ""), None)
    _shown_as[value] = shown_as


def conceal(text: str) -> str:
    """The text without hidden values. A value counts only as a whole, not within a longer word.

    Of two values, one within the other, the longer one is replaced first.
    """
    found = sorted((value for value in _shown_as if value in text), key=len, reverse=True)
    if not found:
        return text
    whole = "|".join(rf"(?<![^\W_]){re.escape(value)}(?![^\W_])" for value in found)
    return re.sub(whole, lambda match: _shown_as.get(match[0], "***"), text)


def visible(text: str) -> str:
    """The text with an escape for each character that controls a terminal or cannot be encoded.

    The name of a table can hold any character, even one that moves the cursor or sets the title.
    """
    return _STEERING.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


def shown(text: str, most: int = _LONGEST) -> str:
    """A text that is safe in a message: no hidden values, no control characters, and of bounded length."""
    if len(text) <= most + 50:  # leaves room for the remark about a cut, so that cutting twice changes nothing
        return visible(conceal(text))
    # A hidden value that the cut would halve is found before; half of one at the very end is dropped.
    longest = max(map(len, _shown_as), default=0)
    found = conceal(text[: most + longest])
    found = found[: min(most, max(0, len(found) - longest))]
    return f"{visible(found)}… ({len(text):,} characters)"
