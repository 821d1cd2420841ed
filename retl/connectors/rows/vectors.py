"""Vectors as canonical text and as numbers, column by column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Numbers = np.ndarray[Any, np.dtype[np.float32]]


def to_canonical(numbers: Numbers) -> pa.Array:
    """One text for each row of a matrix, ``[0.1,-2]``: with as few digits as tell each number from all others of 32 bits."""
    rows, columns = numbers.shape
    digits = pa.array(np.ascontiguousarray(numbers, dtype=np.float32).reshape(-1)).cast(pa.string())
    edges = pa.array(np.arange(0, (rows + 1) * columns, columns, dtype=np.int32))
    joined = pc.binary_join(pa.ListArray.from_arrays(edges, digits), ",")
    return pc.binary_join_element_wise("[", joined, "]", "")


def to_numbers(texts: pa.Array, dimensions: int) -> Numbers:
    """The vectors of JSON arrays of numbers. Raises ``ValueError`` unless each has so many, all of them finite."""
    listed = pc.split_pattern(pc.utf8_trim(texts, "[] \t\r\n"), ",")
    if listed.null_count or not pc.all(pc.equal(pc.list_value_length(listed), dimensions)).as_py():
        raise ValueError("a vector has another number of dimensions")
    numbers = pc.utf8_trim_whitespace(listed.flatten()).cast(pa.float32()).to_numpy(zero_copy_only=False)
    if not np.isfinite(numbers).all():
        raise ValueError("a vector holds a number that is not finite")
    shaped: Numbers = numbers.reshape(-1, dimensions)
    return shaped


def to_packed(texts: pa.Array, dimensions: int) -> pa.Array:
    """Canonical texts as bytes, four for each number, the lowest first; NULLs kept. Raises as ``to_numbers`` does."""
    there = texts.is_valid()
    numbers = np.ascontiguousarray(to_numbers(texts.filter(there), dimensions), dtype="<f4")
    packed = iter(numbers.view(np.uint8).reshape(len(numbers), -1))
    return pa.array([next(packed, np.empty(0)).tobytes() if kept else None for kept in there.to_pylist()], pa.binary())


def from_hex(digits: pa.Array) -> pa.Array:
    """What ``to_packed`` has made, written as hexadecimal digits, as canonical texts; NULLs kept."""
    values = [
        None if value is None else np.frombuffer(bytes.fromhex(value), dtype="<f4") for value in digits.to_pylist()
    ]
    texts = [None if value is None else to_canonical(value.reshape(1, -1))[0].as_py() for value in values]
    return pa.array(texts, pa.string())
