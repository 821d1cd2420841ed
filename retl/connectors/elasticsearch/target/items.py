"""What the answer to one item of a bulk request means. Lists name what is known; anything else ends the scan.

A document is to blame only for what its own content causes. A pipeline that is missing, a closed
index or a privilege refuse every document alike: as rejects they would let the watermark pass.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from retl.connectors.elasticsearch.errors import refusal, server_error
from retl.model.errors import RetlError, TargetError

Verdict = Literal["written", "dropped", "conflict", "again", "rejected"]

_TOO_FAR = ' (a field of type date takes it: let retl create the index anew with times = "date")'
_OF_FIELD = re.compile(r"(?:failed to parse field|dynamic introduction of|object mapping for) \[([^\]]+)\]")
_OF_DOCUMENT = frozenset(
    {
        *("document_parsing_exception", "mapper_parsing_exception", "strict_dynamic_mapping_exception"),
        *("routing_missing_exception", "fail_processor_exception"),
    }
)
# One type of exception has many causes: these reasons blame the document.
_REASONS_OF_DOCUMENT = re.compile(
    r"immense term|^Limit of |^The number of nested documents|object mapping|cannot be changed from type"
    # Processors of an ingest pipeline that fail on the values of the document.
    r"|^unable to (convert|parse)|^field \[.*\] (not present|doesn't exist|is null|of type|already exists|does not)|^Provided Grok"
    r"|^cannot (resolve|convert|set|add|remove)|^(error parsing|failed to parse|unable to find match)"
)
# Position and id: rejections for one reason differ only in these.
_PLACE = re.compile(r"^\[\d+:\d+\] |(in document )?with id '.*?'|\[_doc\]\[[^\]]*\]")
_ONE_FIELD = 3
"""From this number on, documents that are all rejected for one field are not the cause."""


class Item(msgspec.Struct, gc=False, rename={"index": "_index", "id": "_id"}):
    """The answer to one item."""

    status: int
    index: str = ""
    id: str | None = None
    result: str = ""
    failure_store: str = ""
    error: Any = None


class RejectedItem(NamedTuple):
    """A document that the server will never accept."""

    kinds: tuple[str, ...]
    reason: str
    column: str

    @property
    def text(self) -> str:
        return f"{self.kinds[0]}: {self.reason}" if self.kinds else self.reason

    @property
    def of_all(self) -> str:
        """The reason, without what tells one document from another."""
        return _PLACE.sub("", self.reason)


def judge(item: Item, place: str) -> Verdict:
    """The outcome of a document. Raises where the cause is not the document, or is not known."""
    if item.error is None and item.status < 300:
        return _judge_taken(item, place)
    kinds = refusal(item.error).kinds
    if item.status == 409 and (not kinds or "version_conflict_engine_exception" in kinds):
        return "conflict"
    if _is_of_document(item):
        return "rejected"
    if item.status == 429 or item.status >= 500:
        return "again"
    raise not_of_documents(item.status, item.error, place)


def _judge_taken(item: Item, place: str) -> Verdict:
    if item.failure_store == "used":
        return "rejected"
    if item.result == "noop":
        return "dropped"
    if item.result in ("created", "updated") or not (item.result or item.index):
        return "written"
    raise TargetError(
        f"{place} answered {item.result!r} to a document, and it is unknown whether it was written.",
        remedy="see what stands between here and the server, and which ingest pipeline the target runs.",
    )


def _is_of_document(item: Item) -> bool:
    found = refusal(item.error)
    if not found.kinds or item.status in (401, 403, 404, 429):
        return False
    if found.kinds[0] == "script_exception":
        return found.reason.startswith("runtime error")
    by_reason = found.kinds[0] == "illegal_argument_exception" and _REASONS_OF_DOCUMENT.search(found.reason)
    return found.kinds[0] in _OF_DOCUMENT or bool(by_reason)


def rejection(item: Item) -> RejectedItem:
    """Why a document was rejected."""
    if item.failure_store == "used":
        return RejectedItem(
            (), "the server could not index it and put it into the failure store of the data stream", ""
        )
    said = refusal(item.error)
    found = _OF_FIELD.search(said.reason)
    remedy = _TOO_FAR if "nanosecond resolution" in said.reason else ""
    return RejectedItem(said.kinds, f"{said.reason}{remedy}", found[1] if found else "")


def check_some_taken(some: Sequence[RejectedItem], number: int, place: str) -> None:
    """Raise where all ``number`` documents of a request are rejected for one reason: they are not the cause."""
    if len(some) < number or number < 2:
        return
    first = some[0]
    same = all((one.kinds, one.of_all) == (first.kinds, first.of_all) for one in some)
    field = bool(first.column) and number >= _ONE_FIELD and all(one.column == first.column for one in some)
    if same or field:
        raise TargetError(
            f"{place} refused all {number:,} documents of a request for one reason, so it is not theirs: {first.text}.",
            remedy="mend the index, its mapping or its ingest pipeline, or leave the field out with exclude; "
            "no row was rejected, and the next scan reads the same rows again.",
        )


def not_of_documents(status: int, error: Any, place: str) -> RetlError:
    """The error for a refusal that would hit every document."""
    body = msgspec.json.encode(error)
    said = refusal(error)
    if status in (401, 403, 404, 429) or status >= 500:
        return server_error(status, body, "target", place)
    remedy = "mend that at the target"
    if "pipeline" in said.reason:
        remedy = "create the ingest pipeline, or take it off the index (index.default_pipeline, index.final_pipeline)"
    if "index_closed_exception" in said.kinds:
        remedy = "open the index again"
    return TargetError(
        f"{place} refused a document for a reason that is not the document's: {said.reason or said.kind} "
        f"(HTTP {status}{', ' if said.kind else ''}{said.kind}).",
        remedy=f"{remedy}; no row was rejected, and the next scan reads the same rows again.",
    )


def elsewhere(path: str, found: Collection[str], place: str) -> TargetError:
    """Documents were written to other indices than the one that they were sent to."""
    return TargetError(
        f"documents that were sent to {path} at {place} were sent on to {', '.join(sorted(found))}: "
        "an ingest pipeline of the target does that.",
        remedy="let the pipeline leave _index alone, take it off the index (index.default_pipeline, "
        "index.final_pipeline), or write to the other index with to; what was written there stays.",
    )


def renamed(sent: str, found: str | None, place: str) -> TargetError:
    """A document was written under another ``_id`` than its own."""
    return TargetError(
        f"the document {sent!r} was written as {found!r} at {place}: an ingest pipeline of the target changes _id, "
        "so documents may be there twice, or one in the place of another.",
        remedy="let the pipeline leave _id alone, or take it off the index (index.default_pipeline, index.final_pipeline).",
    )
