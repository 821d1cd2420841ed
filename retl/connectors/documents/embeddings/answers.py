"""Read what an OpenAI-compatible service answers: believe nothing that was not checked. No I/O."""

from __future__ import annotations

import base64
import binascii

import msgspec
import numpy as np
import pyarrow as pa

from retl.connectors.rows.vectors import Numbers, to_numbers

_LONGEST = 300


class BadAnswer(Exception):
    """The answer is not what was promised."""


class OtherDimensions(Exception):
    """The vectors are longer or shorter than was said."""

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        self.dimensions = dimensions


class _Item(msgspec.Struct):
    embedding: msgspec.Raw
    index: int


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    total_tokens: int | None = None


class _Vectors(msgspec.Struct):
    data: list[_Item]
    usage: _Usage | None = None


class Problem(msgspec.Struct):
    """An error as the service tells it."""

    message: str = ""
    code: str | int | None = None
    type: str | None = None
    param: str | None = None


class _Failed(msgspec.Struct):
    error: Problem | str | None = None
    message: str | None = None
    detail: msgspec.Raw = msgspec.Raw(b"")


def read_vectors(content: bytes, texts: int, dimensions: int) -> tuple[Numbers, int]:
    """The vectors of so many texts in their order, and the tokens that the service has counted.

    Raises ``BadAnswer`` or ``OtherDimensions``.
    """
    try:
        found = msgspec.json.decode(content, type=_Vectors)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadAnswer(f"it is not what the interface promises: {error}") from None
    if sorted(item.index for item in found.data) != list(range(texts)):
        raise BadAnswer(f"it has {len(found.data):,} vectors for {texts:,} texts, or numbers them wrongly")
    raws = [bytes(item.embedding) for item in sorted(found.data, key=lambda item: item.index)]
    usage = found.usage or _Usage()
    return _numbers(raws, dimensions), usage.total_tokens or usage.prompt_tokens or 0


def _numbers(raws: list[bytes], dimensions: int) -> Numbers:
    if all(raw[:1] == b'"' for raw in raws):
        return _from_base64(raws, dimensions)
    try:
        return to_numbers(pa.array(raws, pa.binary()).cast(pa.string()), dimensions)
    except (ValueError, pa.ArrowException) as error:
        _check_dimensions([raw.count(b",") + 1 for raw in raws if raw.strip(b"[] ")], dimensions)
        raise BadAnswer(str(error)) from None


def _from_base64(raws: list[bytes], dimensions: int) -> Numbers:
    try:
        packed = [base64.b64decode(raw[1:-1].replace(b"\\/", b"/"), validate=True) for raw in raws]
    except binascii.Error as error:
        raise BadAnswer(f"a vector is not base64: {error}") from None
    _check_dimensions([len(bytes_) // 4 for bytes_ in packed], dimensions)
    if any(len(bytes_) != 4 * dimensions for bytes_ in packed):
        raise BadAnswer("a vector ends in the middle of a number")
    numbers = np.frombuffer(b"".join(packed), dtype="<f4").astype(np.float32).reshape(-1, dimensions)
    if not np.isfinite(numbers).all():
        raise BadAnswer("a vector holds a number that is not finite")
    return numbers


def _check_dimensions(found: list[int], dimensions: int) -> None:
    """All alike, but not what was said: then it is the declaration that is wrong."""
    if found and len(set(found)) == 1 and found[0] != dimensions:
        raise OtherDimensions(found[0])


def read_problem(content: bytes) -> Problem:
    """What a problem says, in one of the forms that services have."""
    try:
        found = msgspec.json.decode(content, type=_Failed)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Problem(message=_short(content.decode(errors="replace")))
    if isinstance(found.error, Problem):
        return msgspec.structs.replace(found.error, message=_short(found.error.message))
    text = found.error or found.message or bytes(found.detail).decode(errors="replace")
    return Problem(message=_short(text))


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _LONGEST else f"{flat[:_LONGEST]}…"
