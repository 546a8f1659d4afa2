"""Examines columns of texts as bytes, without a Python string for each text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def letters_of(texts: pa.Array) -> npt.NDArray[np.uint8]:
    """All bytes of a column (string or binary, no nulls), one text behind the other; a view."""
    _, ends, values = texts.buffers()
    if values is None or not len(texts):
        return np.zeros(0, np.uint8)
    at = np.frombuffer(ends, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(values, np.uint8)[at[0] : at[-1]]


def has_letter(texts: pa.Array, letters: bytes) -> bool:
    """Whether one of these ASCII letters stands in any of the texts."""
    there = letters_of(texts)
    return any(bool((there == letter).any()) for letter in letters)
