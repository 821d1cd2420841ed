"""Map errors of Redshift: it reports most of them under one SQLSTATE, so their words must be read."""

from __future__ import annotations

import re

from retl.connectors.postgres.errors import Role, server_error
from retl.model.errors import ConfigError, ConnectionFailed, RetlError, SourceError

_AT_THE_CAP = re.compile(r"exceeded the maximum size allowed for the total set of cursor data", re.IGNORECASE)
_ISOLATION = re.compile(r"^(1018|1023)\b|serializable isolation violation", re.IGNORECASE)
_PASSES = re.compile(
    r"\b(restart|resiz|maintenance|failover|out of memory|disk full|insufficient memory|connection limit|try again)",
    re.IGNORECASE,
)
_BY_QUEUE = re.compile(r"cancel+ed (on user'?s request|by WLM)|WLM abort|query monitoring rule", re.IGNORECASE)
_BUCKET = re.compile(r"S3ServiceException|unload destination|bucket|IAM role|not authorized to assume", re.IGNORECASE)
_BUCKET_BUSY = re.compile(r"SlowDown|Status 50\d|InternalError|RequestTimeout")
_JSON_TOO_LONG = re.compile(
    r"json is larger|larger than the max size of \d+ bytes|value too long.*varchar", re.IGNORECASE
)


def redshift_error(state: str, text: str, role: Role, place: str) -> RetlError:
    """The retl error for a SQLSTATE and a text of the cluster."""
    if _AT_THE_CAP.search(text):
        return SourceError(
            f"a result is larger than the cursors of the cluster at {place} may be: {text}.",
            remedy='read it through a bucket: unload = { url = "s3://bucket/prefix" }, or in smaller slices: slice_rows.',
        )
    if _ISOLATION.search(text) or state == "40001":
        return ConnectionFailed(
            f"the cluster at {place} rolled a transaction back, since another one was in its way: {text}.",
            remedy="nothing, if it passes: the scan is tried again.",
        )
    if _BUCKET.search(text):
        return _of_the_bucket(text, place)
    if _JSON_TOO_LONG.search(text):
        return SourceError(
            f"the cluster at {place} has a value that is too long for one answer: {text}.",
            remedy="read it through a bucket (unload), or compute what you need of it in expressions.",
        )
    if _BY_QUEUE.search(text) or state == "57014" or (state == "XX000" and _PASSES.search(text)):
        return ConnectionFailed(
            f"the cluster at {place} ended a statement: {text}.",
            remedy="nothing, if it passes: the scan is tried again. Otherwise look at its queues, rules and statement_timeout.",
        )
    error = server_error(state, text, role, place)
    if isinstance(error, ConfigError) and state == "42501":
        error.remedy = "GRANT the user SELECT on the table, and USAGE on its schema."
    return error


def _of_the_bucket(text: str, place: str) -> RetlError:
    if _BUCKET_BUSY.search(text):
        return ConnectionFailed(
            f"the cluster at {place} could not write into the bucket: {text}.",
            remedy="nothing, if it passes: the scan is tried again.",
        )
    return ConfigError(
        f"the cluster at {place} cannot write into the bucket: {text}.",
        remedy="check url, iam_role and region in unload, and that the role may put objects there.",
    )
