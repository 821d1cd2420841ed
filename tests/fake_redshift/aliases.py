"""Names that a SELECT gives and its own WHERE uses, as a cluster allows and drivers do in their questions about the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fake_redshift.sql import Token

_ENDS = ("union", "except", "intersect")
_AFTER_WHERE = ("group", "order", "having", "limit")


def with_aliases(words: Sequence[Token]) -> Sequence[Token]:
    """The statement with the expressions in place of such names."""
    found = list(words)
    number = 0
    while number < len(found):
        if found[number].low == "select":
            found = _with_aliases_of(found, number)
        number += 1
    return found


def _with_aliases_of(words: list[Token], select: int) -> list[Token]:
    places = _places(words, select)
    if "from" not in places or "where" not in places:
        return words
    known = dict(_aliases(words, select + 1, places["from"]))
    where, end = places["where"], places["end"]
    condition: list[Token] = []
    for number in range(where, end):
        token = words[number]
        beside = {words[number - 1].text, words[number + 1].text if number + 1 < len(words) else ""}
        plain = token.kind in ("word", "quoted") and not beside & {".", "::", "as"}
        condition.extend(known.get(token.text.strip('"').lower(), [token]) if plain else [token])
    listed = words[select + 1 : places["from"]]
    for number, token in enumerate(listed[1:-1], start=1):
        # An item that is such a name and nothing else.
        if listed[number - 1].text == "," and listed[number + 1].low in (",", "as") and token.low in known:
            words[select + 1 + number : select + 2 + number] = known[token.low]
            return _with_aliases_of(words, select)
    return [*words[:where], *condition, *words[end:]]


def _places(words: Sequence[Token], select: int) -> dict[str, int]:
    """Where FROM and WHERE of one SELECT are, and where its WHERE ends."""
    places: dict[str, int] = {}
    depth = 0
    for number in range(select + 1, len(words)):
        depth += {"(": 1, ")": -1}.get(words[number].text, 0)
        low = words[number].low
        if depth < 0 or (depth == 0 and (low in _ENDS or ("where" in places and low in _AFTER_WHERE))):
            return {**places, "end": number}
        if depth == 0 and low in ("from", "where"):
            places.setdefault(low, number)
    return {**places, "end": len(words)}


def _aliases(words: Sequence[Token], start: int, end: int) -> list[tuple[str, list[Token]]]:
    """The names that a select list gives, each with its expression."""
    items: list[list[Token]] = [[]]
    depth = 0
    for token in words[start:end]:
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if token.text == "," and depth == 0:
            items.append([])
        else:
            items[-1].append(token)
    return [
        (item[-1].text.strip('"').lower(), item[:-2])
        for item in items
        if len(item) > 2
        and item[-2].low == "as"
        and [token.low for token in item[:-2]] != [item[-1].text.strip('"').lower()]
        and item[-1].kind in ("word", "quoted")
    ]
