"""The exit codes of the process."""

from __future__ import annotations

from collections.abc import Iterable

from retl.model.errors import ConfigError, LeaseLost, TargetBusy

OK = 0
FAILED = 1
USAGE = 2
OWNED = 3
INTERRUPTED = 130

EXPLAINED = """\
exit codes:
  0    all went well
  1    a scan failed, or a system could not be reached
  2    wrong usage, or a wrong job file
  3    another process owns the pipeline
  130  interrupted before the work was done
"""


def exit_code(error: BaseException) -> int:
    """The code for an error that ended a command; the errors of single scans are ``FAILED``."""
    if isinstance(error, ConfigError):
        return USAGE
    if isinstance(error, TargetBusy | LeaseLost):
        return OWNED
    return FAILED


def worst(codes: Iterable[int]) -> int:
    """One code for several pipelines: a failure counts more than a pipeline that could not run."""
    found = set(codes)
    return next((code for code in (INTERRUPTED, FAILED, USAGE, OWNED) if code in found), OK)
