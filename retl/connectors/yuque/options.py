"""What users write to reach Yuque, and what it comes to."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal, get_args
from urllib.parse import urlsplit

import msgspec

from retl.connectors.base import Connector, Source
from retl.connectors.yuque.settings import MOST_AT_ONCE, Login, Reading
from retl.connectors.yuque.source import YuqueSource
from retl.model.duration import parse_duration
from retl.model.errors import ConfigError
from retl.model.secret import Secret, reveal

Kind = Literal["Doc", "Sheet", "Table", "Board", "Thread", "HtmlDoc"]

_PATH = "/api/v2"
_CONTROL = re.compile(r"[\x00-\x20\x7f-\uffff]")


class Yuque(Connector, kw_only=False, forbid_unknown_fields=True):
    """The documents of books of Yuque, one row each, by its open API 2.0."""

    type_name: ClassVar[str] = "yuque"
    summary: ClassVar[str] = "Documents of the books of Yuque, by its open API."
    example: ClassVar[str] = 'source = { type = "yuque", token = "${YUQUE_TOKEN}" }'

    url: Annotated[
        str,
        msgspec.Meta(
            description="The address of the site; that of the space, for an enterprise with a host of its own."
        ),
    ] = "https://www.yuque.com"
    token: Annotated[
        Secret | str | None,
        msgspec.Meta(description="May read groups, books and documents: `${NAME}` or `retl.env(...)`."),
    ] = None
    kinds: Annotated[
        list[Kind] | None,
        msgspec.Meta(
            description="The kinds of documents to read: `Doc`, `Sheet`, `Table`, `Board`, `Thread`, `HtmlDoc`; all when unset."
        ),
    ] = None
    attachments: Annotated[
        bool,
        msgspec.Meta(
            description="Whether a column `attachments` lists the addresses of images and files in a document."
        ),
    ] = False
    reconcile: Annotated[
        float | str,
        msgspec.Meta(
            description="How often all documents are listed, where the installation can tell what has changed: this finds those "
            "that are gone for ever."
        ),
    ] = "1d"
    longest_wait: Annotated[
        float | str,
        msgspec.Meta(
            description="How long a scan waits where the quota is used up. If the service asks for longer, the scan ends there, and the "
            "next one goes on behind what is in the target."
        ),
    ] = "2h"
    request_timeout: Annotated[float | str, msgspec.Meta(description="How long one answer may take.")] = 60
    max_bytes: Annotated[
        int, msgspec.Meta(description="How many bytes one answer may have; a larger document is left out.", ge=1024)
    ] = 64 * 1024 * 1024
    max_requests: Annotated[
        int, msgspec.Meta(description="How many requests all scans together make at once.", ge=1, le=MOST_AT_ONCE)
    ] = MOST_AT_ONCE
    tls_ca: Annotated[
        str | None,
        msgspec.Meta(
            description="A PEM file with the authorities to trust; the usual ones when unset.", extra={"path": True}
        ),
    ] = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def source(self) -> Source:
        return YuqueSource(self.login, self.reading())

    def login(self) -> Login:
        """Where to and as whom. Raises ``ConfigError`` for what is missing or makes no sense."""
        site = self._site()
        return Login(
            api=site + _PATH,
            site=site,
            timeout=parse_duration(self.request_timeout, what="request_timeout").total_seconds(),
            longest_wait=parse_duration(self.longest_wait, what="longest_wait").total_seconds(),
            most_bytes=self.max_bytes,
            at_once=self.max_requests,
            tls_ca=self.tls_ca,
            token=self._token(),
        )

    def reading(self) -> Reading:
        """What is read. Raises ``ConfigError`` for a length of time that is not one."""
        return Reading(
            kinds=frozenset(get_args(Kind) if self.kinds is None else self.kinds),
            attachments=self.attachments,
            reconcile=parse_duration(self.reconcile, what="reconcile").total_seconds(),
        )

    def _site(self) -> str:
        url = self.url.strip().rstrip("/").removesuffix(_PATH)
        try:
            place = urlsplit(url)
            valid = place.scheme in ("http", "https") and place.hostname and place.port != 0
        except ValueError:
            valid = False
        if not valid or place.username or place.query or place.fragment:
            raise ConfigError(
                "the url of yuque is not the address of a site.",
                remedy="write https://www.yuque.com, or the address of your space; the token is an option of its own.",
                system=self.type_name,
            )
        return url

    def _token(self) -> str:
        token = "" if self.token is None else reveal(self.token).strip()
        if not token or _CONTROL.search(token):
            raise ConfigError(
                "yuque needs a token, of letters and digits." if token else "yuque needs a token.",
                remedy='make one in the settings of your account or group, and name it: token = "${YUQUE_TOKEN}".',
                system=self.type_name,
            )
        return token
