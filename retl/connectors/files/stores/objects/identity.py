"""What names the content of an object: its ETag, which is opaque, and its size."""

from __future__ import annotations


def identity_of(etag: str, size: int) -> str:
    """The identity of a content; the same from a listing and from a HEAD."""
    return f"{bare(etag)}:{size}"


def etag_of(identity: str) -> str:
    """The ETag in an identity, as a condition of a GET wants it."""
    etag = identity.rpartition(":")[0]
    return etag if etag.startswith("W/") else f'"{etag}"'


def bare(etag: str) -> str:
    """An ETag without its quotes, which some stores leave out; a weak one keeps them."""
    return etag if etag.startswith("W/") else etag.strip('"')
