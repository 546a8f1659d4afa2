"""Numbers of bytes as readable text."""

from __future__ import annotations

_UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def size_text(count: float) -> str:
    """Bytes in decimal units with three digits: 1.2 GB, 340 MB."""
    for unit, factor in _UNITS:
        if count >= factor:
            value = count / factor
            text = f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"
            return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"
    return f"{count:.0f} B"


def size_option(count: float) -> str:
    """The same as the value of an option, in one word: 1.2GB."""
    return size_text(count).replace(" ", "").replace(",", "")
