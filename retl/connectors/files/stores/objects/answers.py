"""The XML that stores of objects answer with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET


class Refused(Exception):
    """A store has answered with an error. Never leaves this room."""

    def __init__(self, status: int, answer: dict[str, str], retry_after: float | None = None) -> None:
        self.status = status
        self.code = answer.get("Code", str(status))
        self.message = answer.get("Message", "")
        self.detail = answer.get("EC", "")
        """The code by which OSS tells its errors apart."""
        self.right_place = answer.get("Region") or answer.get("Endpoint", "")
        """The region or the address that the store names instead."""
        self.retry_after = retry_after
        super().__init__(f"{self.code} ({status})")


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a listing."""

    key: str
    size: int
    etag: str
    modified: datetime | None
    storage_class: str
    restored: bool


@dataclass(slots=True)
class Page:
    """One page of a listing."""

    objects: list[Listed] = field(default_factory=list)
    next: str | None = None
    cut_short: bool = False


def read_error(body: bytes) -> dict[str, str]:
    """What stands in an error; nothing where it is not one."""
    try:
        root = ET.fromstring(body)
    except ET.ParseError:
        return {}
    if _plain(root) != "Error":
        return {}
    return {_plain(child): (child.text or "").strip() for child in root}


# What stands for the answer to a HEAD, which has no body.
_CODES = {403: "AccessDenied", 404: "NoSuchKey", 412: "PreconditionFailed", 416: "InvalidRange"}


def error_answer(status: int, headers: Mapping[str, str], body: bytes) -> Refused:
    """The error of an answer that is one."""
    found = read_error(body) or {"Code": _CODES.get(status, str(status))}
    # The detailed code of OSS, and the region of a bucket, stand in headers where there is no body.
    for name, header in (("EC", "x-oss-ec"), ("Region", "x-amz-bucket-region")):
        if value := headers.get(header):
            found.setdefault(name, value)
    after = headers.get("retry-after", "")
    return Refused(status, found, float(after) if after.isdecimal() else None)


def read_page(body: bytes) -> Page | None:
    """One page of ListObjectsV2; ``None`` where it is no such answer, or holds what XML cannot. Takes a while."""
    try:
        root = ET.fromstring(body)
        return _page(root) if _plain(root) == "ListBucketResult" else None
    except (ET.ParseError, KeyError, ValueError):
        return None


def _page(root: ET.Element) -> Page:
    page = Page()
    escaped = False
    for child in root:
        match _plain(child):
            case "Contents":
                page.objects.append(_object(child))
            case "IsTruncated":
                page.cut_short = (child.text or "").strip() == "true"
            case "NextContinuationToken":
                page.next = child.text
            case "EncodingType":
                escaped = (child.text or "").strip() == "url"
    if escaped:
        page.objects = [_unescaped(one) for one in page.objects]
    return page


def _object(element: ET.Element) -> Listed:
    found: dict[str, str] = {}
    restored = False
    for child in element:
        name = _plain(child)
        found[name] = child.text or ""
        if name == "RestoreStatus":
            status = {_plain(one): (one.text or "").strip() for one in child}
            restored = "RestoreExpiryDate" in status and status.get("IsRestoreInProgress") != "true"
    return Listed(
        found["Key"],
        int(found["Size"]),
        found.get("ETag", ""),
        _moment(found.get("LastModified", "")),
        found.get("StorageClass", ""),
        restored,
    )


def _unescaped(one: Listed) -> Listed:
    return Listed(unquote_plus(one.key), one.size, one.etag, one.modified, one.storage_class, one.restored)


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except ValueError:
        return None


def _plain(element: ET.Element) -> str:
    """The name without its namespace, which stores do not agree on."""
    return element.tag.rpartition("}")[2]
