"""Log faults that nobody raised on purpose."""

from __future__ import annotations

import traceback
from typing import Any

import structlog

from retl.model.errors import RetlError
from retl.model.hidden import shown

_log = structlog.get_logger("retl")


def log_unexpected(message: str, error: BaseException, **facts: Any) -> None:
    """Log an error that should not happen, with its traceback but without the values of variables.

    A renderer that shows them (structlog's default one, if rich is installed) would show a
    password that a driver holds.
    """
    for cause in _causes(error):
        traceback.clear_frames(cause.__traceback__)
    _log.error(message, exc_info=error, **facts)


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


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what led to it."""
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found
