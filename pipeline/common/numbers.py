"""Reads numbers from files that other programs wrote."""

from __future__ import annotations

from typing import SupportsFloat


def number_or(value: object, otherwise: float) -> float:
    """The value as a float; `otherwise` where it is no number (missing field, other type, text, zero divisor)."""
    if not isinstance(value, SupportsFloat | str | bytes):
        return otherwise
    try:
        return float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return otherwise
