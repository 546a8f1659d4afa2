"""Numbers out of files that others wrote."""

from __future__ import annotations

from typing import SupportsFloat


def number_or(value: object, otherwise: float) -> float:
    """The value as a float; `otherwise` where it is none (a missing field, another type, a text, a zero divisor)."""
    if not isinstance(value, SupportsFloat | str | bytes):
        return otherwise
    try:
        return float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return otherwise
