"""Which entries of a source without a cursor are in the target: files, documents, partitions."""

from __future__ import annotations

import msgspec

from retl.model.errors import ConfigError

LONGEST_NAME = 1024
"""The most bytes of UTF-8 that the name of an entry may have: as many as a key of S3."""


class ManifestEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One entry whose rows are in the target, with the identity under which it was read.

    Entries are ordered by the code points of their names, which is the order of their
    UTF-8 bytes. Raises ``ConfigError`` for a name that no store can keep.
    """

    name: str
    identity: str
    """What changes when the content does: an ETag, a size and a time, a version."""
    rows: int = 0
    """How many rows of it were delivered."""
    facts: dict[str, str] = {}
    """Anything else that the source wants to remember."""

    def __post_init__(self) -> None:
        if not self.name or len(self.name.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
            raise ConfigError(
                f"{self.name[:100]!r} cannot name an entry: a name has from 1 to {LONGEST_NAME:,} bytes of UTF-8.",
                remedy="give the file or document a shorter name.",
            )


class ManifestChange(msgspec.Struct, frozen=True):
    """What one commit changes in a manifest: entries that are in the target now, and names that are not any more."""

    put: tuple[ManifestEntry, ...] = ()
    remove: tuple[str, ...] = ()
