"""What an error of StarRocks or Doris means. Both use few numbers and many words, which differ by version.

Before a plan is answered, an error is the statement's fault unless it is known to pass. A statement of a plan that *was*
answered is right: what then goes wrong has passed by the next plan, unless the error names a syntax, a name or a right.
"""

from __future__ import annotations

import re

from retl.connectors.mysql.errors import Role, SourceRefused, server_error
from retl.model.errors import ConfigError, ConnectionFailed, RetlError

# StarRocks: fe/fe-core/src/main/java/com/starrocks/common/ErrorCode.java. Doris says nearly everything with 1105.
_NO_BACKEND = frozenset({5077})
_DENIED = frozenset({1227, 5203})
_UNKNOWN_DATABASE = frozenset({5501})
_TIMEOUT = frozenset({5024})
UNKNOWN_VARIABLE = 1193
_NO_NAME = frozenset({1054, 1109, 1146, UNKNOWN_VARIABLE, 5502})

_PASSES = re.compile(
    r"backend|compute node|crash of|pending timeout|queue timeout|queue is full|queue full|cancelled by user|cancel query by user"
    r"|mem(ory)?(_| )limit|mem(ory)? usage|memory of .* exceed|too many (concurrent )?(queries|connections|tasks)"
    r"|rpc (error|failed)|not ready|no alive|\b(tablet|rowset|replica|compact(ed|ion)|brpc|fragment)\b",
    re.IGNORECASE,
)
# A BE about itself: ``(10.0.0.7)[MEM_LIMIT_EXCEEDED]...``. Its message about a statement is not a failure of the cluster.
_STATUS = re.compile(
    r"(?:^|=|\)|\])\s*\[(?!INVALID_ARGUMENT|ANALYSIS_ERROR|SYNTAX|NOT_IMPLEMENTED|NOT_AUTHORIZED|NOT_FOUND)(?:[A-Z]+(?:_[A-Z]+)+|E-\d+|CANCELLED|ABORTED|TIMEOUT)\]"
)
_TOO_SLOW = re.compile(
    r"detailMessage = Timeout|reached its timeout|query (is )?timeout|exceeded time limit|exceeds? .*query_timeout",
    re.IGNORECASE,
)
_SYNTAX_NAME_OR_RIGHT = re.compile(
    r"syntax error|error in your SQL syntax|mismatched input|no viable alternative|extraneous input|unexpected input|Getting analyzing error"
    r"|\bunknown (system variable|table|column|database|function|catalog|view)\b|cannot be resolved"
    r"|no matching function|can ?not f(i|ou)nd function|denied|privilege|not authorized|unauthorized"
    r"|\b(table|view|database|catalog|column|field|function)\b((?!tablet|rowset|replica|backend|partition)[^.:;,]){0,60}?"
    r"\b(not exists?|doesn't exist|not found|is unknown)\b",
    re.IGNORECASE,
)
# The plan listed the partitions, and the server their parts: no user wrote such a name.
_OF_THE_SERVER = re.compile(
    r"(unknown|no such|not found|can ?not find) partition|\bpartition\b[^.;]*(not exist|not found|unknown)"
    r"|\b(tablet|rowset|replica)s?\b",
    re.IGNORECASE,
)
# A table may be named backend_events: a name chosen by a user means nothing.
_NAMES = re.compile(r"'[^']*'|`[^`]*`|\"[^\"]*\"|\[[^\]]*\]")


def olap_error(code: int, message: str, role: Role, place: str) -> RetlError:
    """The retl error for a number and text of the server; an unknown one means that the server refused the statement."""
    said = _said(code, message)
    plain = _NAMES.sub("''", message)
    if code in _TIMEOUT or _TOO_SLOW.search(plain):
        error = server_error(0, message, role, place)
        error.message = f"a query at {place} took too long: {said}."
        error.remedy = "raise query_timeout, lower slice_rows, or read less with where."
        return error
    if code in _DENIED:
        return ConfigError(
            f"the source at {place} refused a right: {said}.", remedy="grant the user SELECT on the table."
        )
    if code in _UNKNOWN_DATABASE:
        return ConfigError(f"{place}: {said}.", remedy="name a database that is there in url.")
    statement = _is_of_the_statement(code, plain)
    if code in _NO_BACKEND or (not statement and (_PASSES.search(plain) or _STATUS.search(message))):
        return _passing(place, said)
    return server_error(code, message, role, place)


def while_reading(error: SourceRefused) -> RetlError:
    """The error of a refused statement that reads a slice, although its plan succeeded."""
    plain = _NAMES.sub("''", error.text)
    final = error.code in _TIMEOUT or _TOO_SLOW.search(plain) or _is_of_the_statement(error.code, plain)
    return error if final else _passing(error.place, _said(error.code, error.text))


def _is_of_the_statement(code: int, plain: str) -> bool:
    if _OF_THE_SERVER.search(plain):
        return False
    return code in _NO_NAME or bool(_SYNTAX_NAME_OR_RIGHT.search(plain))


def _said(code: int, message: str) -> str:
    return " ".join(message.split()) + (f" (error {code})" if code else "")


def _passing(place: str, said: str) -> ConnectionFailed:
    return ConnectionFailed(
        f"the cluster at {place} could not run or finish a query: {said}.",
        remedy="nothing, if it passes: the scan is tried again, with a new plan. Otherwise look at the state of its nodes and queues.",
    )
