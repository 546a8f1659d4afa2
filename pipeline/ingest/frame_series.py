"""Which files of a folder are the frames of one drive, and in what order. Names alone; no file is opened.

A folder may hold more than one series of pictures (a second camera, masks, the same frames in a second format) and
other files. One series is taken; everything else is counted and named.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Words in names that tell a kind of picture that no camera took.
_NOT_CAMERA = re.compile(
    r"(?:^|[^a-z])(mask|masks|seg|segmentation|semantic|instance|label|labels|depth|disp|disparity|flow|normal|normals|"
    r"alpha|conf|confidence|thumb|thumbnail|preview|gt|overlay)(?:[^a-z]|$)"
)
_CAMERA_NUMBER = re.compile(r"(?:^|[^a-z])(?:cam|camera|image|img|view|lens|sensor|channel|ch)[-_ ]?$")
# Of several cameras side by side the one that looks ahead is taken.
_AHEAD = re.compile(r"(?:^|[^a-z])(front|fwd|forward|main|left|rgb|color|colour)(?:[^a-z]|$)")
_NUMBER = re.compile(r"\d+")
_SHARED = 0.5  # share of a series' numbers that another one has too: they lie side by side, not one after the other
_FEWEST = 2  # pictures of a series
_MOST_CAMERAS = 16
_SHOWN = 6  # kinds that are named one by one


@dataclass(frozen=True)
class Series:
    """The frames of a drive: their places in the names given, in order. notes: what is not used, a sentence each."""

    order: tuple[int, ...]
    notes: tuple[str, ...] = ()


def find_series(names: Sequence[str]) -> Series:
    """The series of pictures that a folder's drive consists of.

    Pictures are put in the order of their numbers. Digits with one point between them are one decimal number where all
    names are read so (1616102901.05 before .1), unless trailing zeros say that they are counters (1.10 behind 1.9). Of
    two names of which one begins with the other the shorter comes first ("x.jpg" before "x (1).jpg").

    Args:
        names: file names of pictures, in any order.
    """
    places, notes = _one_series(names)
    decimal = _has_decimal_numbers([_stem(names[place]) for place in places])
    order = sorted(places, key=lambda place: natural_key(names[place], decimal))
    return Series(tuple(order), notes)


def natural_key(name: str, decimal: bool = False) -> tuple[tuple[object, ...], str]:
    """Sort key that counts: frame2 before frame10. Equal numbers (2 and 02) fall back to the text.

    decimal: read digits, a point and digits as one number with a fraction.
    """
    parts = re.split(r"(\d+\.\d+|\d+)" if decimal else r"(\d+)", _stem(name))
    # Text and numbers alternate, so that text is compared with text and number with number.
    return tuple(_number(part) if i % 2 else part for i, part in enumerate(parts)), name


def unused_files(names: Sequence[str], reasons: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence for each kind of file that is not used, the most frequent first: "3 files .txt are not used".

    Args:
        names: the files; those whose names begin with "." are nobody's pictures and are not counted.
        reasons: ending in lower case -> why it is not used and what to do.
    """
    kinds = Counter(_ending(name) for name in names if not name.startswith("."))
    said = []
    for ending, count in sorted(kinds.items(), key=lambda item: (item[0] not in reasons, -item[1], item[0]))[:_SHOWN]:
        what = (
            f"{count} file{'s' * (count != 1)} {ending or 'without an ending'} {'are' if count != 1 else 'is'} not used"
        )
        said.append(f"{what}: {reasons[ending]}" if ending in reasons else what)
    left = len(kinds) - _SHOWN
    return (*said, *([f"files of {left} other kinds are not used"] if left > 0 else []))


def _one_series(names: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """The places of one series, and what is said of the others."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        groups[_pattern(name)].append(place)
    if len(groups) < 2:
        return list(range(len(names))), ()
    numbers = {pattern: {_numbers(names[place]) for place in places} for pattern, places in groups.items()}
    kept = sorted(groups, key=lambda pattern: _rank(pattern, len(groups[pattern])))
    taken: list[str] = []
    notes: list[str] = []
    for pattern in kept:
        beside = next((other for other in taken if _side_by_side(numbers[pattern], numbers[other])), None)
        if beside is None or len(groups[pattern]) < _FEWEST:
            taken.append(pattern)
            continue
        notes.append(
            f"{len(groups[pattern])} pictures {_shown(pattern)} are not used: they lie side by side with the "
            f"{len(groups[beside])} pictures {_shown(beside)}, which are; give each series a folder of its own to "
            "reconstruct it"
        )
    return sorted(place for pattern in taken for place in groups[pattern]), tuple(notes)


def _rank(pattern: str, count: int) -> tuple[bool, int, bool, bool, str]:
    """Which series is taken: pictures of a camera, the longest, the one that looks ahead, the smaller files."""
    stem = _stem(pattern)
    return (
        bool(_NOT_CAMERA.search(stem)),
        -count,
        not _AHEAD.search(stem),
        not pattern.endswith((".jpg", ".jpeg")),
        pattern,
    )


def _side_by_side(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> bool:
    """Whether two series have the same numbers: two pictures of each moment."""
    shared = len(one & other)
    return shared >= _FEWEST and shared >= _SHARED * min(len(one), len(other))


def _pattern(name: str) -> str:
    """A name with "#" for its numbers, but for the number of a camera ("cam0", "image_02"), in lower case."""
    stem, ending = _stem(name).lower(), _ending(name)
    parts, at = [], 0
    for found in _NUMBER.finditer(stem):
        before = stem[at : found.start()]
        is_camera = bool(_CAMERA_NUMBER.search(stem[: found.start()])) and int(found[0]) < _MOST_CAMERAS
        followed = bool(_NUMBER.search(stem, found.end()))  # else it is the frame's own number: image_0007
        parts += [before, found[0] if is_camera and followed else "#"]
        at = found.end()
    return "".join([*parts, stem[at:]]) + ending


def _numbers(name: str) -> tuple[str, ...]:
    """The numbers of a name that its pattern does not hold."""
    pattern, stem = _stem(_pattern(name)), _stem(name)
    found = [match[0] for match in _NUMBER.finditer(stem)]
    marks = re.findall(r"#|\d+", pattern)
    return tuple(number.lstrip("0") or "0" for number, mark in zip(found, marks, strict=False) if mark == "#")


def _shown(pattern: str) -> str:
    return repr(pattern.replace("#", "*"))


def _has_decimal_numbers(stems: Sequence[str]) -> bool:
    """Whether "digits.digits" is one number in all names: it is in each, and fractions are not all of one length, and
    none has a trailing zero, which a counter has and a fraction that is printed shortest has not."""
    found = [re.findall(r"(?<![\d.])\d+\.(\d+)(?![\d.])", stem) for stem in stems]
    if not found or any(len(fractions) != 1 for fractions in found):
        return False
    fractions = [one[0] for one in found]
    if len({len(fraction) for fraction in fractions}) == 1:
        return False
    return not any(len(fraction) > 1 and fraction.endswith("0") for fraction in fractions)


def _number(text: str) -> tuple[int, str]:
    """A number that sorts exactly, whatever its length: the whole part, then the digits of the fraction."""
    whole, _, fraction = text.partition(".")
    return int(whole), fraction.rstrip("0")


def _stem(name: str) -> str:
    """The name without its ending."""
    stem, point, ending = name.rpartition(".")
    return stem if point and stem and not ending.isdigit() else name


def _ending(name: str) -> str:
    stem, point, ending = name.rpartition(".")
    return f".{ending.lower()}" if point and stem and not ending.isdigit() else ""
