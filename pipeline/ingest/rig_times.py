"""Which pictures of two cameras of a car belong to one instant, and how much later the second one takes them."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline import storage
from pipeline.errors import DriveError
from pipeline.ingest.drive import Drive

_AT_ONCE_NS = 1_000_000  # at 20 m/s the car moves by 2 cm
_STEADY_NS = 10_000_000  # at 10 m/s by 0.1 m
_NOTED_NS = 10_000_000
_LOST = 0.1  # most of the pictures that are not a late camera's; if more were, it is not always late by the same time
_DIGITS = 4  # of a share of the time between two instants


@dataclass(frozen=True)
class Matched:
    """A camera's pictures at the instants of the reference camera.

    step: the frame at each instant, None where there is none; late: by how much its pictures are later than the
    reference's, as a share of the usual time between two used instants; 0 where it is less than a millisecond, not the
    same for all pictures, or unknown; out_of_step: it is not the same for all; apart_ns: by how many nanoseconds they
    are later, the quantiles 10 %, 50 % and 90 %.
    """

    step: list[int | None]
    late: float = 0.0
    out_of_step: bool = False
    apart_ns: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def notes(self, folder: str, reference: str) -> list[str]:
        """A sentence on pictures that are far from the instant."""
        low, usual, high = self.apart_ns
        if self.out_of_step:
            return [
                f"camera {folder} takes its pictures up to {max(-low, high) / 1e6:.0f} ms before or after {reference}, "
                "not always by the same time; they count as one instant, so its place on the car is estimated and "
                "tells no metres"
            ]
        if not self.late or abs(usual) < _NOTED_NS:
            return []
        when = "after" if usual > 0 else "before"
        return [
            f"camera {folder} takes its pictures {abs(usual) / 1e6:.0f} ms {when} {reference}; its poses are those of "
            "that moment"
        ]


def matched(
    base: Drive, other: Drive, tolerance_s: float, taken: Sequence[int], at_once: bool, pictures: str
) -> Matched:
    """The pictures of a camera at each instant of `base`, the reference camera.

    tolerance_s: most seconds between pictures of one instant; taken: the instants that are used; at_once: the cameras
    are triggered together, so that their times tell only which pictures belong together; pictures: their name in
    messages. Where a camera has no times, pictures of one name belong together. Raises DriveError without such
    pictures.
    """
    if base.timestamps_ns is None or other.timestamps_ns is None:
        return Matched(_of_one_name(base, other, pictures))
    ours, theirs, most = base.timestamps_ns, other.timestamps_ns, int(tolerance_s * 1e9)
    step = [_nearest(theirs, time, time, most) for time in ours]
    if at_once or len(taken) < 2:
        return Matched(step)
    apart = _apart(ours, theirs, step, taken)
    if abs(apart[1]) >= _AT_ONCE_NS:
        # A picture half a step away is as near to the next instant, but the camera is always late by the same time.
        again = [_nearest(theirs, time + round(apart[1]), time, most) for time in ours]
        lost = sum(step[instant] is not None and again[instant] is None for instant in taken)
        if lost <= max(1, _LOST * len(taken)):
            step, apart = again, _apart(ours, theirs, again, taken)
    low, usual, high = apart
    late = usual / float(np.median(np.diff([ours[instant] for instant in taken])))
    if high - low >= _STEADY_NS or abs(late) > 1:
        return Matched(step, 0.0, True, apart)
    return Matched(step, round(late, _DIGITS) if abs(usual) >= _AT_ONCE_NS else 0.0, False, apart)


def _apart(
    ours: Sequence[int], theirs: Sequence[int], step: Sequence[int | None], taken: Sequence[int]
) -> tuple[float, float, float]:
    """Nanoseconds by which pictures are later at the instants `taken`: the quantiles 10 %, 50 % and 90 %."""
    pairs = ((step[instant], ours[instant]) for instant in taken)
    apart = [theirs[place] - time for place, time in pairs if place is not None]
    low, usual, high = np.quantile(apart, (0.1, 0.5, 0.9)).tolist() if apart else (0.0, 0.0, 0.0)
    return low, usual, high


def _nearest(times: Sequence[int], expected: int, instant: int, most: int) -> int | None:
    """The place of the time that is nearest to the expected one, if it is not farther than `most` from that nor from
    the instant."""
    at = bisect.bisect_left(times, expected)
    around = [place for place in (at - 1, at) if 0 <= place < len(times)]
    best = min(around, key=lambda place: abs(times[place] - expected))
    return best if max(abs(times[best] - expected), abs(times[best] - instant)) <= most else None


def _of_one_name(base: Drive, other: Drive, pictures: str) -> list[int | None]:
    places = {_stem(uri): place for place, uri in enumerate(other.uris)}
    step = [places.get(_stem(uri)) for uri in base.uris]
    if not any(place is not None for place in step):
        raise DriveError(
            f"{pictures} have neither times nor names in common with the others'; give pictures of one instant the "
            "same name"
        )
    return step


def _stem(uri: str) -> str:
    return storage.parent_and_name(uri)[1].rpartition(".")[0]
