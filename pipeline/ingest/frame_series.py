"""Which files of a folder are the frames of one drive, and in what order. Uses only names; no file is opened.

A folder may contain several series of pictures (a second camera, masks, the same frames in a second format) and other
files. One series is used; all other files are counted and named.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Words in names of pictures that no camera took.
_NOT_CAMERA = re.compile(
    r"(?:^|[^a-z])(mask|masks|seg|segmentation|semantic|instance|label|labels|depth|disp|disparity|flow|normal|normals|"
    r"alpha|conf|confidence|thumb|thumbnail|preview|gt|overlay)(?:[^a-z]|$)"
)
_CAMERA_NUMBER = re.compile(r"(?:^|[^a-z])(?:cam|camera|image|img|view|lens|sensor|channel|ch)[-_ ]?$")
# Words in names of cameras that look ahead. Of several cameras such a one is used.
_AHEAD = re.compile(r"(?:^|[^a-z])(front|fwd|forward|main|left|rgb|color|colour)(?:[^a-z]|$)")
_NUMBER = re.compile(r"\d+")
_SHARED = 0.5  # share of numbers that two series have in common above which they show the same moments
_FEWEST = 2  # least number of pictures of a series
_MOST_CAMERAS = 16
_SHOWN = 6  # kinds of files that are named; of the others the number


@dataclass(frozen=True)
class Series:
    """The frames of a drive: their places in the given names, in order. notes: on files that are not used, a sentence
    each."""

    order: tuple[int, ...]
    notes: tuple[str, ...] = ()


def find_series(names: Sequence[str]) -> Series:
    """The series of pictures that a folder's drive consists of.

    Pictures are sorted by their numbers. Digits around one point are a decimal number (1616102901.05 before .1), if
    they are in all names; trailing zeros show that they are two counters instead (1.10 after 1.9). If one name begins
    with another one, the shorter comes first ("x.jpg" before "x (1).jpg").

    Args:
        names: file names of pictures, in any order.
    """
    places, notes = _one_series(names)
    decimal = _has_decimal_numbers([_stem(names[place]) for place in places])
    order = sorted(places, key=lambda place: natural_key(names[place], decimal))
    return Series(tuple(order), notes)


def natural_key(name: str, decimal: bool = False) -> tuple[tuple[object, ...], str]:
    """Sort key by numbers: frame2 before frame10. Names with equal numbers (2 and 02) are sorted as text.

    decimal: read digits, a point and digits as one number with a fraction.
    """
    parts = re.split(r"(\d+\.\d+|\d+)" if decimal else r"(\d+)", _stem(name))
    # text and numbers alternate, so text is compared with text and numbers with numbers
    return tuple(_number(part) if i % 2 else part for i, part in enumerate(parts)), name


def unused_files(names: Sequence[str], reasons: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence for each kind of file that is not used, the most frequent first: "3 files .txt are not used".

    Args:
        names: the files; hidden files (names that begin with ".") are not counted.
        reasons: ending in lower case -> why such files are not used and what to do.
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
    """The places of the series that is used, and notes on the others."""
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
    """Sort key by which the series to use comes first: of a camera, longest, looking ahead, with smaller files."""
    stem = _stem(pattern)
    return (
        bool(_NOT_CAMERA.search(stem)),
        -count,
        not _AHEAD.search(stem),
        not pattern.endswith((".jpg", ".jpeg")),
        pattern,
    )


def _side_by_side(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> bool:
    """Whether two series share their numbers, and so have two pictures of each moment."""
    shared = len(one & other)
    return shared >= _FEWEST and shared >= _SHARED * min(len(one), len(other))


def _pattern(name: str) -> str:
    """A name in lower case with "#" in place of its numbers, except the number of a camera ("cam0", "image_02")."""
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
    """The numbers of a name that "#" replaces in its pattern."""
    pattern, stem = _stem(_pattern(name)), _stem(name)
    found = [match[0] for match in _NUMBER.finditer(stem)]
    marks = re.findall(r"#|\d+", pattern)
    return tuple(number.lstrip("0") or "0" for number, mark in zip(found, marks, strict=False) if mark == "#")


def _shown(pattern: str) -> str:
    return repr(pattern.replace("#", "*"))


def _has_decimal_numbers(stems: Sequence[str]) -> bool:
    """Whether "digits.digits" is a decimal number: it is in every name, the fractions differ in length, and none ends
    with a zero. Counters have trailing zeros; shortest decimal fractions do not."""
    found = [re.findall(r"(?<![\d.])\d+\.(\d+)(?![\d.])", stem) for stem in stems]
    if not found or any(len(fractions) != 1 for fractions in found):
        return False
    fractions = [one[0] for one in found]
    if len({len(fraction) for fraction in fractions}) == 1:
        return False
    return not any(len(fraction) > 1 and fraction.endswith("0") for fraction in fractions)


def _number(text: str) -> tuple[int, str]:
    """Sort key of a number of any length: the integer part, then the digits of the fraction."""
    whole, _, fraction = text.partition(".")
    return int(whole), fraction.rstrip("0")


def _stem(name: str) -> str:
    """The name without its ending."""
    stem, point, ending = name.rpartition(".")
    return stem if point and stem and not ending.isdigit() else name


def _ending(name: str) -> str:
    stem, point, ending = name.rpartition(".")
    return f".{ending.lower()}" if point and stem and not ending.isdigit() else ""
