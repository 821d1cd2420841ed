"""Errors of the server, and of the connection to it, as errors of retl."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import msgspec

from retl.model.errors import ConfigError, ConnectionFailed, RetlError, SourceError, TargetBusy, TargetError

Role = Literal["source", "target"]

_LOST_CONTEXT = frozenset({"search_context_missing_exception", "search_context_exception"})
_NOT_NOW = frozenset({408, 502, 503, 504})
_MOST_REASON = 500
_MOST_REASONS = 5


class ContextLost(ConnectionFailed):
    """A point in time has expired."""


class Refusal(NamedTuple):
    """What a server says of an error: its types, the innermost last, and the reason."""

    kinds: tuple[str, ...]
    reason: str

    @property
    def kind(self) -> str:
        return self.kinds[-1] if self.kinds else ""

    @property
    def lost_context(self) -> bool:
        """Whether a point in time (or a scroll) has expired."""
        return bool(_LOST_CONTEXT.intersection(self.kinds))


def refusal(body: bytes | Any) -> Refusal:
    """The server's reason, from the body of an error or from an ``error`` object within an answer."""
    found = body
    if isinstance(body, bytes):
        try:
            found = msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return Refusal((), body[:200].decode("utf-8", "replace").strip())
    error = found.get("error", found) if isinstance(found, dict) else found
    if not isinstance(error, dict):
        return Refusal((), _short(str(error)))
    kinds: list[str] = []
    reasons: list[str] = []
    _unfold(error, kinds, reasons, 0)
    return Refusal(tuple(kinds), "; ".join(list(dict.fromkeys(reasons))[:_MOST_REASONS]))


def _short(text: str) -> str:
    """The server's words, without the data that it may have put into them."""
    text = text.strip()
    return text if len(text) <= _MOST_REASON else f"{text[:_MOST_REASON]} ..."


def _unfold(error: dict[str, Any], kinds: list[str], reasons: list[str], depth: int) -> None:
    """Collect kinds and reasons on the way to the innermost cause."""
    if isinstance(error.get("type"), str):
        kinds.append(_short(error["type"]))
    if isinstance(error.get("reason"), str) and error["reason"].strip() not in ("", "all shards failed"):
        reasons.append(_short(error["reason"]))
    shards = [shard for shard in _list(error.get("failed_shards")) if isinstance(shard, dict)]
    reasons += [
        f"shard {shard['shard']} of {shard['index']}" for shard in shards[:1] if {"shard", "index"} <= shard.keys()
    ]
    inner = [*_list(error.get("root_cause")), *(shard.get("reason") for shard in shards)]
    for cause in (*inner[:1], error.get("caused_by")):
        if isinstance(cause, dict) and depth < 5:
            _unfold(cause, kinds, reasons, depth + 1)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def server_error(status: int, body: bytes, role: Role, place: str) -> RetlError:
    """The error for an HTTP status and the body that came with it. ``place`` is host and port."""
    found = refusal(body)
    said = (
        f"{found.reason or found.kind or 'no reason was given'} (HTTP {status}{', ' if found.kind else ''}{found.kind})"
    )
    again = "nothing, if it passes: the scan is tried again. Otherwise look at the health and the load of the cluster."
    if found.lost_context:
        return ContextLost(
            f"the point in time that was read at {place} is gone: {said}.", remedy="nothing: the scan is tried again."
        )
    if status == 401:
        return ConfigError(
            f"the {role} at {place} refused the login: {said}.", remedy="check api_key, or user and password."
        )
    if "cluster_block_exception" in found.kinds and status in (403, 429):
        return ConnectionFailed(
            f"{place} does not allow this now: {said}.",
            remedy="make room on the disks, or remove the block from the index; the scan is tried again.",
        )
    if status == 403:
        return ConfigError(
            f"the {role} at {place} lacks a privilege: {said}.",
            remedy="give the user's role, or the api_key, the privilege that is named.",
        )
    if "index_not_found_exception" in found.kinds:
        return ConfigError(f"the {role} at {place} has no such index: {said}.", remedy="check the name, or create it.")
    if status == 429:
        busy = TargetBusy if role == "target" else ConnectionFailed
        return busy(f"{place} is overloaded: {said}.", remedy=again)
    if "index_closed_exception" in found.kinds:
        return ConfigError(f"an index at {place} is closed: {said}.", remedy="open it, or leave it out.")
    if 300 <= status < 400:
        return moved("", place)
    if status in _NOT_NOW:
        return ConnectionFailed(f"{place} cannot answer now: {said}.", remedy=again)
    refused = SourceError if role == "source" else TargetError
    return refused(f"the {role} refused a request: {said}.")


def moved(address: str, place: str) -> ConfigError:
    """A redirect: documents and logins go only to the address that the user has named."""
    where = f" to {_short(address)}" if address else ""
    return ConfigError(
        f"{place} does not answer itself but redirects{where}.",
        remedy="name the address of the cluster itself in url, if that is the one that you mean.",
    )


def too_large(place: str, most: int) -> ConnectionFailed:
    """An answer that is longer than its limit."""
    return ConnectionFailed(
        f"{place} gave an answer of more than {most // 2**20} MB, which was not read to its end.",
        remedy="check the address, and what stands between; a document as large as that cannot be read.",
    )


def unexpected(body: bytes, place: str = "the server") -> ConnectionFailed:
    """An answer that does not come from Elasticsearch: a proxy's page, a login form."""
    return ConnectionFailed(
        f"{place} does not answer as Elasticsearch does: {body[:100].decode('utf-8', 'replace')!r}.",
        remedy="check the address, and what stands between.",
    )


@contextmanager
def understood(place: str) -> Iterator[None]:
    """Within: an answer of an unexpected form becomes an error of the server."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise unexpected(f"{type(error).__name__}: {error}".encode("utf-8", "replace"), place) from error
