"""What an error of StarRocks or Doris means. Both use few numbers and many words, which differ by version."""

from __future__ import annotations

import re

from retl.connectors.mysql.errors import Role, server_error
from retl.model.errors import ConfigError, ConnectionFailed, RetlError

# StarRocks: fe/fe-core/src/main/java/com/starrocks/common/ErrorCode.java. Doris says nearly everything with 1105.
_NO_BACKEND = frozenset({5077})
_DENIED = frozenset({5203})
_UNKNOWN_DATABASE = frozenset({5501})
_TIMEOUT = frozenset({5024})

_PASSES = re.compile(
    r"backend|compute node|crash of|pending timeout|queue timeout|queue is full|queue full|cancelled by user|cancel query by user"
    r"|mem(ory)? limit|memory of .* exceed|too many (concurrent )?(queries|connections)|rpc (error|failed)|not ready|no alive",
    re.IGNORECASE,
)
_TOO_SLOW = re.compile(
    r"detailMessage = Timeout|reached its timeout|query (is )?timeout|exceeded time limit|exceeds? .*query_timeout",
    re.IGNORECASE,
)
# A table may be named backend_events: what somebody chose tells nothing.
_NAMES = re.compile(r"'[^']*'|`[^`]*`|\"[^\"]*\"|\[[^\]]*\]")
_NO_QUERY_TIMEOUT = re.compile(r"variable '?query_timeout\b")


def olap_error(code: int, message: str, role: Role, place: str) -> RetlError:
    """The error of ours for a number and text of the server; what no word gives away is the server's refusal."""
    said = f"{' '.join(message.split())} (error {code})"
    plain = _NAMES.sub("''", message)
    if code == 1193 and _NO_QUERY_TIMEOUT.search(message):
        # The first thing that is said to a server, and both know it.
        return ConfigError(
            f"the server at {place} is neither StarRocks nor Doris: {said}.",
            remedy="name its own type (mysql), or the port of the FE (9030).",
        )
    if code in _TIMEOUT or _TOO_SLOW.search(plain):
        error = server_error(0, message, role, place)
        error.message = f"a query at {place} took too long: {said}."
        error.remedy = "raise query_timeout, lower slice_rows, or read less with where."
        return error
    if code in _NO_BACKEND or (code not in _DENIED and _PASSES.search(plain)):
        return ConnectionFailed(
            f"the cluster at {place} could not run or finish a query: {said}.",
            remedy="nothing, if it passes: the scan is tried again. Otherwise look at the state of its nodes and queues.",
        )
    if code in _DENIED:
        return ConfigError(
            f"the source at {place} refused a right: {said}.", remedy="grant the user SELECT on the table."
        )
    if code in _UNKNOWN_DATABASE:
        return ConfigError(f"{place}: {said}.", remedy="name a database that is there in url.")
    return server_error(code, message, role, place)
