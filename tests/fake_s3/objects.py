"""Objects, and how they look in XML."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote_plus
from xml.sax.saxutils import escape

_CLASSES_TO_RESTORE = ("GLACIER", "DEEP_ARCHIVE", "Archive", "ColdArchive")


@dataclass
class Object:
    """One object. ``restored`` is that of a class which must be restored first."""

    content: bytes
    storage_class: str = "STANDARD"
    restored: bool = False
    modified: datetime = field(default_factory=lambda: datetime.now(UTC))
    etag: str = ""

    def __post_init__(self) -> None:
        self.etag = self.etag or f'"{hashlib.md5(self.content).hexdigest()}"'

    @property
    def readable(self) -> bool:
        return self.restored or self.storage_class not in _CLASSES_TO_RESTORE


def page(bucket: str, objects: dict[str, Object], query: dict[str, str], most: int) -> str:
    """An answer to ListObjectsV2, in the order of S3: that of the bytes of keys."""
    prefix, after = query.get("prefix", ""), query.get("continuation-token", "")
    keys = sorted(key for key in objects if key.startswith(prefix) and key > after)
    most = min(most, int(query.get("max-keys", most)))
    chosen, cut = keys[:most], len(keys) > most
    encoded = query.get("encoding-type") == "url"
    more = f"<NextContinuationToken>{_text(chosen[-1])}</NextContinuationToken>" if cut else ""
    encoding = "<EncodingType>url</EncodingType>" if encoded else ""
    contents = "".join(_contents(key, objects[key], encoded) for key in chosen)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{bucket}</Name><IsTruncated>{str(cut).lower()}</IsTruncated>{encoding}{contents}{more}</ListBucketResult>"
    )


def _contents(key: str, found: Object, encoded: bool) -> str:
    name = quote_plus(key, safe="/") if encoded else _text(key)
    moment = found.modified.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    restored = (
        "<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>"
        "<RestoreExpiryDate>2099-01-01T00:00:00.000Z</RestoreExpiryDate></RestoreStatus>"
    )
    return (
        f"<Contents><Key>{name}</Key><LastModified>{moment}</LastModified><ETag>{escape(found.etag)}</ETag>"
        f"<Size>{len(found.content)}</Size><StorageClass>{found.storage_class}</StorageClass>"
        f"{restored if found.restored else ''}</Contents>"
    )


def _text(key: str) -> str:
    """What XML cannot hold is written as a number, as S3 does: a parser refuses some of those."""
    return "".join(f"&#{ord(sign)};" if sign < " " else sign for sign in escape(key))


def error(code: str, message: str, **more: str) -> str:
    """The body of a refusal."""
    extra = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in more.items())
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{escape(message)}</Message>'
        f"{extra}<RequestId>0</RequestId></Error>"
    )
