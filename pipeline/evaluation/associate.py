"""Matches the frames of an estimate with those of the truth: by number, by time or by the names of their images.

Frames without a pose (`missing`) are never matched. Frames whose pose was interpolated (`filled`) count like any other,
unless `filled="skip"` leaves them out. The estimate's frame numbers are kept, so relative errors are never computed
across a frame that was left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DriveError
from pipeline.evaluation.metrics import FEWEST_POSES, FloatArray, IntArray, Pairs

Match = Literal["auto", "index", "time", "name"]
Filled = Literal["count", "skip"]


@dataclass(frozen=True, eq=False)
class PosedFrames:
    """N frames of one trajectory: world_from_camera (N, 4, 4), NaN for a missing frame; known, filled (N,) bool;
    timestamps_s (N,), rising, or None; names (N,) of their images, all different, or None; what: its name in messages.

    Raises DriveError if these differ in number or times do not rise.
    """

    what: str
    world_from_camera: FloatArray
    known: NDArray[np.bool_]
    filled: NDArray[np.bool_]
    timestamps_s: FloatArray | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        count = len(self.world_from_camera)
        for name, values in (("timestamps", self.timestamps_s), ("names", self.names)):
            if values is not None and len(values) != count:
                raise DriveError(f"{self.what}: expected {count} {name}, one per pose, got {len(values)}")
        if self.timestamps_s is not None:
            falls = np.flatnonzero(~(np.diff(self.timestamps_s) > 0))
            if len(falls):
                frame = int(falls[0]) + 1
                raise DriveError(f"{self.what}: expected rising times, frame {frame} is no later than the one before")

    def __len__(self) -> int:
        return len(self.world_from_camera)

    @staticmethod
    def of(
        what: str,
        poses: FloatArray,
        timestamps_s: FloatArray | None = None,
        names: tuple[str, ...] | None = None,
    ) -> PosedFrames:
        """Frames that all have a pose, none of them interpolated."""
        every = np.ones(len(poses), bool)
        return PosedFrames(what, poses, every, ~every, timestamps_s, names)


@dataclass(frozen=True)
class Matched:
    """Numbers of frames. by: index, time or name; tolerance_s: for time only, else None.

    compared: how many of the estimate_frames and truth_frames were compared; filled_compared: how many of these were
    interpolated; filled_skipped: interpolated frames that were left out; missing: frames without a pose; unmatched:
    frames without a true pose.
    """

    by: str
    tolerance_s: float | None
    estimate_frames: int
    truth_frames: int
    compared: int
    filled_compared: int
    filled_skipped: int
    missing: int
    unmatched: int


def associate(
    estimate: PosedFrames,
    truth: PosedFrames,
    by: Match = "auto",
    *,
    tolerance_s: float = 0.01,
    filled: Filled = "count",
) -> tuple[Pairs, Matched]:
    """The positions (n,), (n,) of matching frames in estimate and truth, rising, and a summary.

    auto: by time if both have times, else by image name if they have names in common, else by number. Raises DriveError
    if that is impossible (different lengths, no times) or fewer than three frames match.
    """
    chosen = _choose(estimate, truth) if by == "auto" else by
    if chosen == "time":
        if estimate.timestamps_s is None or truth.timestamps_s is None:
            lacking = (truth if estimate.timestamps_s is not None else estimate).what
            raise DriveError(f"{lacking} has no times to match frames by; use --match index or name")
        first, second = match_times(estimate.timestamps_s, truth.timestamps_s, tolerance_s)
    elif chosen == "name":
        if estimate.names is None or truth.names is None:
            lacking = (truth if estimate.names is not None else estimate).what
            raise DriveError(f"{lacking} has no image names to match frames by; use --match index or time")
        first, second = match_names(estimate.names, truth.names)
    else:
        if len(estimate) != len(truth):
            raise DriveError(
                f"lengths differ: {estimate.what} has {len(estimate)} poses, {truth.what} has {len(truth)}; "
                f"matching by number needs equal lengths (or --match time or name, if both have these)"
            )
        first = second = np.arange(len(estimate))
    unmatched = int(estimate.known.sum()) - int(estimate.known[first].sum())
    use = estimate.known[first] & truth.known[second]
    skipped = use & estimate.filled[first] if filled == "skip" else np.zeros(len(first), bool)
    first, second = first[use & ~skipped], second[use & ~skipped]
    if len(first) < FEWEST_POSES:
        near = f" within {tolerance_s:g} s" if chosen == "time" else ""
        raise DriveError(
            f"at least {FEWEST_POSES} frames must match; of {len(estimate)} of {estimate.what} "
            f"and {len(truth)} of {truth.what} {len(first)} do, by {chosen}{near}"
        )
    return (first, second), Matched(
        by=chosen,
        tolerance_s=tolerance_s if chosen == "time" else None,
        estimate_frames=len(estimate),
        truth_frames=len(truth),
        compared=len(first),
        filled_compared=int(estimate.filled[first].sum()),
        filled_skipped=int(skipped.sum()),
        missing=int((~estimate.known).sum()),
        unmatched=unmatched,
    )


def match_times(first: FloatArray, second: FloatArray, tolerance_s: float) -> Pairs:
    """Positions (n,), (n,) in two rising series of seconds that are nearest to each other, at most tolerance_s
    apart."""
    there, back = _nearest(first, second), _nearest(second, first)
    place = np.arange(len(first))
    # 1 ns more: times in text files are rounded, and a tolerance of one frame should include one frame.
    good = (back[there] == place) & (np.abs(second[there] - first) <= tolerance_s + 1e-9)
    return place[good], there[good]


def match_names(first: tuple[str, ...], second: tuple[str, ...]) -> Pairs:
    """Positions (n,), (n,) of equal names, in the order of the first. Raises DriveError if the second has them in
    another order."""
    place = {name: number for number, name in enumerate(second)}
    pairs = np.array([(i, place[name]) for i, name in enumerate(first) if name in place], np.int64).reshape(-1, 2)
    if (np.diff(pairs[:, 1]) <= 0).any():
        raise DriveError("images have the same names in another order; use --match index or time")
    return pairs[:, 0], pairs[:, 1]


def _choose(estimate: PosedFrames, truth: PosedFrames) -> Match:
    if estimate.timestamps_s is not None and truth.timestamps_s is not None:
        return "time"
    if estimate.names is not None and truth.names is not None and set(estimate.names) & set(truth.names):
        return "name"
    return "index"


def _nearest(values: FloatArray, among: FloatArray) -> IntArray:
    after = np.clip(np.searchsorted(among, values), 1, max(len(among) - 1, 1))
    if len(among) == 1:
        return np.zeros(len(values), np.int64)
    return np.where(values - among[after - 1] <= among[after] - values, after - 1, after)
