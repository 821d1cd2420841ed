"""How retl logs, as a library does: to the logger ``retl``, and only where the host has asked for logs.

That is the logger of the standard library, which is silent until the host gives it a handler; or structlog's, where the
host has configured structlog. A log call that fails is the host's fault, and ends nothing here.
"""

from __future__ import annotations

import logging
import traceback
from contextlib import suppress
from typing import Any, Protocol

import structlog

from retl.model.errors import RetlError
from retl.model.hidden import shown

NAME = "retl"

logging.getLogger(NAME).addHandler(logging.NullHandler())


class Logger(Protocol):
    """What logs: a message and its fields."""

    def debug(self, event: str, /, **fields: Any) -> Any: ...
    def info(self, event: str, /, **fields: Any) -> Any: ...
    def warning(self, event: str, /, **fields: Any) -> Any: ...
    def error(self, event: str, /, **fields: Any) -> Any: ...


class _Standard:
    """The standard library's logger, for messages with fields: they follow the message, and are ``record.retl``."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, /, **fields: Any) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        self._log(logging.ERROR, event, fields)

    def hears(self, level: str) -> bool:
        """Whether a line of this level is written anywhere."""
        return self._logger.isEnabledFor(getattr(logging, level.upper()))

    def _log(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if not self._logger.isEnabledFor(level):
            return
        told = dict(fields)
        trace = told.pop("exception", None)
        words = " ".join([event, *(f"{name}={_value(value)}" for name, value in told.items())])
        self._logger.log(level, "%s", f"{words}\n{trace}" if trace else words, extra={"retl": fields})


def _value(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(mark in text for mark in " =\"'\n") else text


def logger_of(given: Any = None) -> Logger:
    """The logger to use: the given one, of structlog or of the standard library, or retl's own."""
    if isinstance(given, logging.Logger | logging.LoggerAdapter):
        return _Standard(given if isinstance(given, logging.Logger) else given.logger)
    if given is not None:
        chosen: Logger = given
        return chosen
    if structlog.is_configured():
        configured: Logger = structlog.get_logger(NAME)
        return configured
    return _Standard(logging.getLogger(NAME))


def is_heard(logger: Logger, level: str) -> bool:
    """Whether a line is worth its making: a slice that is committed makes several that few hosts write."""
    return not isinstance(logger, _Standard) or logger.hears(level)


def log(level: str, message: str, logger: Logger | None = None, /, **fields: Any) -> None:
    """Log a message with fields. Whatever the host's handlers raise stays here."""
    with suppress(Exception):  # there is nobody left to tell: a full disk, a pipe that nobody reads
        getattr(logger or logger_of(), level)(message, **fields)


def log_unexpected(message: str, error: BaseException, **facts: Any) -> None:
    """Log an error that should not happen, with its traceback but without the values of variables.

    The traceback is text: a renderer that shows variables (structlog's default one, if rich is installed) would show a
    password that a driver holds, or that of a listener.
    """
    log("error", message, **facts, exception="".join(traceback.format_exception(error)).rstrip())


def as_retl_error(error: Exception, *, pipeline: str, table: str = "", system: str = "") -> RetlError:
    """The error for people; an unexpected one is logged first."""
    if not isinstance(error, RetlError):
        log_unexpected("unexpected error", error, pipeline=pipeline, table=table)
        text = f"unexpected {type(error).__name__}: {error}"
        error = RetlError(text, remedy="this is a fault of retl; please report it with its log.")
    return error.with_context(pipeline=pipeline, table=table, system=system)


def error_text(error: BaseException) -> str:
    """An error in the words of an event, a report or the history."""
    return str(error) if isinstance(error, RetlError) else shown(str(error) or type(error).__name__)
