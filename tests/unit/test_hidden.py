"""What came from outside is shown as where it came from, whoever repeats it."""

from __future__ import annotations

import pytest
import structlog

from retl.cli.render import clean, without_place
from retl.engine.log import log_unexpected
from retl.model import hidden
from retl.model.errors import ConnectionFailed
from retl.model.hidden import conceal, hide
from retl.model.secret import Secret, reveal


def test_a_server_that_echoes_a_password_does_not_bring_it_into_a_message() -> None:
    assert reveal("hunter-2") == "hunter-2" and reveal(Secret(lambda: "t0ken-of-api", "a vault")) == "t0ken-of-api"
    error = ConnectionFailed("401: the key t0ken-of-api is not valid for hunter-2.", remedy="not hunter-2")
    assert str(error) == "401: the key *** is not valid for ***. What to do: not ***"
    assert error.args == (error.message,)


def test_a_longer_value_is_hidden_before_one_within_it() -> None:
    hide("inner-value", "${A}")
    hide("with inner-value inside", "${B}")
    assert conceal("inner-value, with inner-value inside") == "${A}, ${B}"


def test_words_that_any_message_may_hold_are_not_hidden() -> None:
    hide("table")
    hide("abc", "${A}")
    hide("second")
    assert conceal("table abc seconds") == "table abc seconds"
    assert conceal("second, key=second_") == "***, key=***_"


def test_where_a_secret_came_from_is_not_forgotten_when_it_is_used() -> None:
    hide("hunter-2", "${DB_PASSWORD}")
    reveal("hunter-2")
    assert conceal("hunter-2") == "${DB_PASSWORD}"


def test_tokens_that_change_all_the_time_do_not_pile_up() -> None:
    for number in range(1_500):
        hide(f"token-{number:04}")
    assert len(hidden._shown_as) == 1_000
    assert conceal("token-1499 token-0000") == "*** token-0000"


def test_a_name_cannot_steer_a_terminal() -> None:
    assert clean("a\x1b]0;title\x07b\r\u202ec\x9bd") == "a\\x1b]0;title\\x07b\\r\\u202ec\\x9bd"
    assert clean("tab\tand\nline") == "tab\tand\nline"


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("c: no", "no"),
        ("c (mysql): no", "no"),
        ("c / t (mysql): no", "no"),
        ("c / u: no", "u: no"),
        ("cannot unpack", "cannot unpack"),
        ("c", "c"),
    ],
)
def test_only_a_place_is_cut_from_an_error(text: str, rest: str) -> None:
    assert without_place(text, "c", "t") == rest


def test_an_unexpected_error_is_logged_without_the_values_of_variables() -> None:
    def driver() -> None:
        password = "".join(["hunter", "-2"])  # not to be found in the lines of the source
        raise RuntimeError(f"no answer after {len(password)} tries")

    def connector() -> None:
        try:
            driver()
        except RuntimeError as error:
            raise OSError("gone") from error

    shown: list[str] = []
    with_locals = structlog.dev.ConsoleRenderer(
        colors=False, exception_formatter=structlog.dev.RichTracebackFormatter(show_locals=True, color_system=None)
    )

    def render(logger: object, method: str, event: structlog.types.EventDict) -> str:
        shown.append(str(with_locals(logger, method, event)))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[structlog.processors.add_log_level, render])
    try:
        try:
            connector()
        except OSError as error:
            log_unexpected("a fault", error, pipeline="p")
    finally:
        structlog.configure(**before)
    (text,) = shown
    assert "RuntimeError: no answer after 8 tries" in text and "OSError: gone" in text and "driver" in text
    assert "hunter-2" not in text
