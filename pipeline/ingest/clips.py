"""Tells which videos of a folder are clips of one recording: chapters, numbered pieces, files named after their time.

Names decide first. Headers of a few files are read where the names could also be those of separate drives. A clip that
does not follow the clip before it within 5 s begins another drive.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.ingest.frame_series import natural_key
from pipeline.ingest.name_times import time_in
from pipeline.ingest.video import ClipHeader, is_video_name

_SECOND = 10**9
MOST_GAP_NS = 5 * _SECOND
"""A clip that begins later than this after the end of the one before it begins another drive."""
_MOST_OVERLAP_NS = 2 * _SECOND  # names have whole seconds, and some cameras record a second twice
_LONGEST_NS = 3 * 3600 * _SECOND  # longest clip: names further apart are no neighbours, and no header is read
_RANGE = ".."

# GoPro's chapters: GX010042, GX020042 (HEVC; GH: AVC, GS: spherical); before 2018 GOPR0042, GP010042, GP020042.
_GOPRO = re.compile(r"(?P<family>g[hxs]|gp)(?P<chapter>\d\d|r)?(?P<file>\d{4})", re.IGNORECASE)
_GOPRO_FIRST = re.compile(r"gopr(?P<file>\d{4})", re.IGNORECASE)
_LAST_NUMBER = re.compile(r"^(?P<before>.*?)(?P<number>\d+)(?P<after>\D*)$")
# Words that say that a file is a piece of a longer one.
_PIECE = re.compile(
    r"(?:^|[^a-z])(seg|segm|segment|part|pt|chunk|chapter|chap|piece|slice|split|fragment)s?[-_ .]?$", re.IGNORECASE
)

Header = Callable[[str], ClipHeader | None]
"""The header of the clip of this name; None where it cannot be read, as in a file that was cut off."""


@dataclass(frozen=True)
class _Clip:
    name: str
    series: tuple[str, ...]  # clips of one series may belong together
    number: int  # of a chapter or a piece; or a counter after a time
    time_ns: int | None = None  # the time in the name

    @property
    def order(self) -> tuple[int, int, object]:
        return self.time_ns or 0, self.number, natural_key(self.name)


def clip_runs(names: Sequence[str], header: Header) -> list[tuple[str, ...]]:
    """The videos of one folder as runs of clips that follow each other, in natural order of their first names. A video
    that is not joined is a run of one name.

    Args:
        names: file names of videos.
        header: reads a header; called for few of them.

    These are joined: GoPro's chapters of one recording; names that differ in a number after a word such as "seg" or
    "part"; names with times, where each clip begins when the one before it ends; and other names that differ in a
    number, where headers say that each clip begins when the one before it ends.
    """
    series: dict[tuple[str, ...], list[_Clip]] = defaultdict(list)
    for name in names:
        clip = _read(name)
        series[clip.series].append(clip)
    runs: list[tuple[str, ...]] = []
    for clips in series.values():
        clips.sort(key=lambda clip: clip.order)
        run = [clips[0].name]
        for clip, follows in zip(clips[1:], _Links(clips, header).follow(), strict=True):
            if not follows:
                runs.append(tuple(run))
                run = []
            run.append(clip.name)
        runs.append(tuple(run))
    return sorted(runs, key=lambda run: natural_key(run[0]))


def range_name(run: Sequence[str]) -> str:
    """The name of a run of clips below its folder: first..last."""
    return f"{run[0]}{_RANGE}{run[-1]}"


def ends_of_range(name: str) -> tuple[str, str] | None:
    """The first and the last clip of a name made by `range_name`; None for other names."""
    first, found, last = name.partition(_RANGE)
    both = found and is_video_name(first) and is_video_name(last)
    return (first, last) if both else None


def clips_between(names: Sequence[str], first: str, last: str) -> tuple[str, ...]:
    """The clips of one series from the first to the last one, in order; empty where one of the two is missing."""
    ends = [_read(name) for name in (first, last)]
    if ends[0].series != ends[1].series or not {first, last} <= set(names):
        return ()
    clips = sorted((clip for clip in map(_read, names) if clip.series == ends[0].series), key=lambda clip: clip.order)
    return tuple(clip.name for clip in clips if ends[0].order <= clip.order <= ends[1].order)


def start_of(name: str) -> int | None:
    """The time in a clip's name, at which it begins, in nanoseconds since 1970; None where the name has no time."""
    return _read(name).time_ns


def _read(name: str) -> _Clip:
    stem, _, ending = name.rpartition(".")
    ending = ending.lower()
    first = _GOPRO_FIRST.fullmatch(stem)
    if first is not None:
        return _Clip(name, ("gopro", "gp", first["file"], ending), 0)
    chapter = _GOPRO.fullmatch(stem)
    if chapter is not None and (chapter["chapter"] or "").isdigit():
        return _Clip(name, ("gopro", chapter["family"].lower(), chapter["file"], ending), int(chapter["chapter"]))
    told = time_in(stem)
    if told is not None:
        before, after = stem[: told.begin].lower(), stem[told.end :].lower()
        counter = _LAST_NUMBER.match(after)
        if counter is None:
            return _Clip(name, ("time", before, after, ending), 0, told.time_ns)
        kept = f"{counter['before']}#{counter['after']}"
        return _Clip(name, ("time", before, kept, ending), int(counter["number"]), told.time_ns)
    number = _LAST_NUMBER.match(stem.lower())
    if number is None:
        return _Clip(name, ("name", stem, ending), 0)
    kind = "piece" if _PIECE.search(number["before"]) else "number"
    return _Clip(name, (kind, number["before"], number["after"], ending), int(number["number"]))


class _Links:
    """Which clips of a series, in order, follow the one before them."""

    def __init__(self, clips: Sequence[_Clip], header: Header) -> None:
        self._clips, self._ask = clips, header
        self._headers: dict[int, ClipHeader | None] = {}

    def follow(self) -> list[bool]:
        """Whether each clip but the first follows the one before it."""
        count = len(self._clips) - 1
        if count < 1:
            return []
        kind = self._clips[0].series[0]
        if kind == "gopro":
            return [self._step(i) == 1 for i in range(count)]
        if kind == "time":
            return self._by_time()
        if kind == "piece":
            return self._by_number()
        if kind == "number" and any(self._continues(i) for i in sorted({0, count // 2, count - 1})):
            return [self._continues(i) for i in range(count)]
        return [False] * count

    def _by_time(self) -> list[bool]:
        """By the times in names and the lengths of clips. A clip needs no header where an earlier one with the same
        time difference followed."""
        steps = [(b.time_ns or 0) - (a.time_ns or 0) for a, b in itertools.pairwise(self._clips)]
        followed: list[int] = []
        found = []
        for i, step in enumerate(steps):
            if step == 0:
                found.append(self._step(i) == 1)
                continue
            follows = any(abs(step - other) <= _SECOND for other in followed)
            if not follows and step <= _LONGEST_NS:
                clip = self._header(i) or (self._header(i - 1) if i else None) or self._header(i + 1)
                follows = clip is not None and -_MOST_OVERLAP_NS <= step - clip.duration_ns <= MOST_GAP_NS
                if follows:
                    followed.append(step)
            found.append(follows)
        return found

    def _by_number(self) -> list[bool]:
        """By numbers, unless a number is missing or the clocks of the first and the last clip show a gap."""
        count = len(self._clips) - 1
        found = []
        for i in range(count):
            step = self._step(i)
            if step > 1:
                clip = self._header(i) or self._header(i + 1)
                found.append(clip is not None and (step - 1) * clip.duration_ns <= MOST_GAP_NS)
            else:
                found.append(step == 1)
        if all(found):
            ends = self._header(0), self._header(count)
            if ends[0] is None or ends[1] is None or None in (ends[0].created_ns, ends[1].created_ns):
                return found
            passed = (ends[1].created_ns or 0) - (ends[0].created_ns or 0)
            if passed <= count * ends[0].duration_ns + MOST_GAP_NS:
                return found  # no gap; or all clips have the time of the whole recording that was cut
        return [follows and not self._has_gap(i) for i, follows in enumerate(found)]

    def _has_gap(self, i: int) -> bool:
        """Whether times in headers show a gap of more than 5 s between a clip and the next."""
        one, two = self._header(i), self._header(i + 1)
        if one is None or two is None or one.created_ns is None or two.created_ns is None:
            return False
        return two.created_ns - one.created_ns - one.duration_ns > MOST_GAP_NS

    def _continues(self, i: int) -> bool:
        """Whether headers say that the next clip begins when this one ends."""
        one, two = self._header(i), self._header(i + 1)
        if one is None or two is None or self._step(i) != 1:
            return False
        if two.start_ns > 0 and abs(two.start_ns - one.start_ns - one.duration_ns) <= _SECOND:
            return True
        if one.created_ns is None or two.created_ns is None:
            return False
        return abs(two.created_ns - one.created_ns - one.duration_ns) <= _MOST_OVERLAP_NS

    def _step(self, i: int) -> int:
        return self._clips[i + 1].number - self._clips[i].number

    def _header(self, i: int) -> ClipHeader | None:
        if i not in self._headers:
            self._headers[i] = self._ask(self._clips[i].name)
        return self._headers[i]
