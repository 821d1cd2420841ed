"""Errors name the place and the remedy, survive pickling, and are drawn in one tree."""

from __future__ import annotations

import pickle
import re

import pytest

from retl.model import errors
from retl.model.errors import ConfigError, PermanentError, RetlError, TransientError
from retl.model.hidden import hide


def tree() -> list[type[RetlError]]:
    found: list[type[RetlError]] = []
    waiting: list[type[RetlError]] = [RetlError]
    while waiting:
        kind = waiting.pop()
        if kind.__module__ == errors.__name__:
            found.append(kind)
            waiting.extend(kind.__subclasses__())
    return found


def drawn() -> dict[str, str | None]:
    """The classes in the drawing, each with the one that it stands under."""
    parents: dict[str, str | None] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^ {4}([│├└─ ]*)(\w+) {2,}\S", line)
        if match is None:
            continue
        depth = len(match[1])
        while path and path[-1][0] >= depth:
            path.pop()
        parents[match[2]] = path[-1][1] if path else None
        path.append((depth, match[2]))
    return parents


def test_the_drawing_shows_every_error_where_it_stands() -> None:
    real = {kind.__name__: None if kind is RetlError else kind.__mro__[1].__name__ for kind in tree()}
    assert drawn() == real
    assert len(real) > 10


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_the_class_tells_how_to_recover(kind: type[RetlError]) -> None:
    if issubclass(kind, ConfigError):
        assert kind.recovery == "configuration"
    elif issubclass(kind, TransientError):
        assert kind.recovery == "transient"
    else:
        assert kind.recovery == "permanent"
        assert kind is RetlError or issubclass(kind, PermanentError)


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_pickling_keeps_everything(kind: type[RetlError]) -> None:
    error = kind("it broke.", remedy="mend it.", pipeline="p", table="t", system="mysql")
    error.add_note("seen twice")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error) == "p / t (mysql): it broke. What to do: mend it."
    assert vars(copy) == vars(error)
    assert copy.args == error.args


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ({}, "it broke."),
        ({"pipeline": "p"}, "p: it broke."),
        ({"table": "t"}, "t: it broke."),
        ({"system": "mysql"}, "mysql: it broke."),
        ({"pipeline": "p", "table": "t"}, "p / t: it broke."),
        ({"table": "t", "system": "mysql"}, "t (mysql): it broke."),
    ],
)
def test_a_message_begins_with_what_is_known_of_the_place(place: dict[str, str], text: str) -> None:
    assert str(RetlError("it broke.", **place)) == text


def test_the_place_is_filled_in_on_the_way_up_and_never_replaced() -> None:
    error = ConfigError("it broke.", table="inner")
    assert error.with_context(table="outer", system="mysql") is error
    error.with_context(pipeline="p", system="other")
    assert str(error) == "p / inner (mysql): it broke."


def test_a_message_is_never_as_long_as_the_data_and_steers_no_terminal() -> None:
    error = ConfigError("the value " + "x" * 20_000_000, remedy="\x1b[2J" + "y" * 20_000_000, table="t\x1b]0;title\x07")
    text = str(error.with_context(pipeline="p"))
    assert text.startswith("p / t\\x1b]0;title\\x07: the value xxx") and "What to do: \\x1b[2Jyyy" in text
    assert "(20,000,010 characters)" in error.message
    assert len(text) < 10_000 and "\x1b" not in text
    again = pickle.loads(pickle.dumps(error))
    assert (again.message, again.remedy) == (error.message, error.remedy)
    assert ConfigError("two\nlines\tstay, \ud83d is shown").message == "two\nlines\tstay, \\ud83d is shown"


@pytest.mark.parametrize("before", range(3_980, 4_010))
def test_a_hidden_value_is_not_shown_by_half_where_a_message_is_cut(before: int) -> None:
    hide("a-secret-word-of-30-characters")
    message = ConfigError("." * before + " a-secret-word-of-30-characters " + "." * 10_000).message
    assert "a-secret" not in message and message.endswith("characters)")


def test_half_of_a_hidden_value_is_not_shown_where_others_make_room_for_it() -> None:
    hide("a-secret-word-of-30-characters")
    hide("z" * 500)
    for shift in range(0, 600, 7):
        text = " ".join(["z" * 500] * 7) + "." * shift + " a-secret-word-of-30-characters " * 40
        assert "a-secret" not in ConfigError(text).message
