"""Reads numbers and angles from the cells of a table, in the notations that people and loggers use."""

from __future__ import annotations

import re

_NAN = float("nan")
_LETTERS = {"N": 1.0, "E": 1.0, "S": -1.0, "W": -1.0}
_MARKS = re.compile(r"deg|min|sec|[°ºo˚dm:'′’\"″”\s]", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?")


def number_of(text: str) -> float:
    """A number with a point or a comma; NaN for anything else."""
    text = text.strip().strip("\"'")
    if "," in text and "." not in text:
        text = text.replace(",", ".")
    try:
        return float(text)
    except ValueError:
        return _NAN


def angle_of(text: str) -> float:
    """Degrees of a latitude or longitude: a number, or degrees, minutes and seconds (49 30 15, 49:30:15,
    49 deg 30.25', with the usual signs), with the letter of its hemisphere before or behind; NaN for anything else."""
    text = text.strip().strip('"')
    sign = 1.0
    for at, rest in ((0, slice(1, None)), (-1, slice(None, -1))):
        letter = text[at : at + 1 or None].upper()
        if letter in _LETTERS and not _ends_seconds(text, at):
            sign, text = _LETTERS[letter], text[rest].strip()
            break
    plain = number_of(text.rstrip("°º "))
    if plain == plain:
        return sign * plain if sign > 0 else -abs(plain)
    parts = _MARKS.sub(" ", text.replace(",", ".").rstrip("sS")).split()
    if not 1 <= len(parts) <= 3 or not all(_NUMBER.fullmatch(part) for part in parts):
        return _NAN
    if parts[0].startswith("-"):
        sign = -1.0
    degrees, minutes, seconds = ([abs(float(parts[0])), *map(float, parts[1:])] + [0.0, 0.0])[:3]
    whole = degrees == int(degrees) and (len(parts) < 3 or minutes == int(minutes))
    if not (0 <= minutes < 60 and 0 <= seconds < 60 and (whole or len(parts) == 1)):
        return _NAN
    return sign * (degrees + minutes / 60 + seconds / 3600)


def hemisphere_of(text: str) -> float:
    """-1 for south and west, 1 for north and east, NaN for anything else."""
    return _LETTERS.get(text.strip().strip("\"'")[:1].upper(), _NAN)


def _ends_seconds(text: str, at: int) -> bool:
    """Whether a last s stands for seconds (49d30m15s), not for south."""
    return at == -1 and text[-1] == "s" and "m" in text.lower()
