"""The XML that stores of objects answer with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET
from xml.parsers import expat

import msgspec


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


class Listed(msgspec.Struct, frozen=True, gc=False):
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
    reader = _PageReader()
    try:
        reader.read(body)
    except (expat.ExpatError, KeyError, ValueError):
        return None
    if reader.root != "ListBucketResult":
        return None
    if reader.about.get("EncodingType", "").strip() == "url":
        reader.objects = [_unescaped(one) for one in reader.objects]
    truncated = reader.about.get("IsTruncated", "").strip() == "true"
    return Page(reader.objects, reader.about.get("NextContinuationToken"), truncated)


class _PageReader:
    """Takes the objects out of a page while it is parsed.

    A tree of elements would be some thousand objects that the collector of cyclic garbage counts, and each tenth page it
    would look through all that the process holds: for a tenth of a second nothing else runs.
    """

    def __init__(self) -> None:
        self.root = ""
        self.about: dict[str, str] = {}
        self.objects: list[Listed] = []
        self._depth = 0
        self._text = ""
        self._found: dict[str, str] = {}
        self._status: dict[str, str] = {}

    def read(self, body: bytes) -> None:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._add
        parser.Parse(body, True)

    def _start(self, name: str, _: object) -> None:
        self._depth += 1
        self._text = ""
        if self._depth == 1:
            self.root = _without_prefix(name)

    def _add(self, text: str) -> None:
        self._text += text

    def _end(self, name: str) -> None:
        self._depth -= 1
        word = _without_prefix(name)
        if self._depth == 1 and word == "Contents":
            self.objects.append(_object(self._found, self._status))
            self._found, self._status = {}, {}
        elif self._depth == 1:
            self.about[word] = self._text
        elif self._depth == 2:
            self._found[word] = self._text
        else:
            self._status[word] = self._text.strip()
        self._text = ""


def _object(found: dict[str, str], status: dict[str, str]) -> Listed:
    return Listed(
        found["Key"],
        int(found["Size"]),
        found.get("ETag", ""),
        _moment(found.get("LastModified", "")),
        found.get("StorageClass", ""),
        "RestoreExpiryDate" in status and status.get("IsRestoreInProgress") != "true",
    )


def _unescaped(one: Listed) -> Listed:
    return Listed(unquote_plus(one.key), one.size, one.etag, one.modified, one.storage_class, one.restored)


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except ValueError:
        return None


def _without_prefix(name: str) -> str:
    """A name without the prefix of its namespace, which stores do not agree on."""
    return name.rpartition(":")[2]


def _plain(element: ET.Element) -> str:
    """The name without its namespace, which stores do not agree on."""
    return element.tag.rpartition("}")[2]
