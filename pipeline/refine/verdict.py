"""Findings from the images: where tracks contradict the cameras, the depth or the calibration of a result.

Thresholds were chosen on the real clip and on rendered drives (README.md of this folder). On the real clip the true
cameras have a median distance of 0.3 pixels and 98 % of the tracks within 1.5; the network alone has 2.4 and 48 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.refine.evidence import PairEvidence


@dataclass(frozen=True)
class ImageQualityConfig:
    """Limits beyond which images contradict a result.

    Distances are Sampson's, in pixels of the tracked picture, whose long side has at most 1,280 pixels. Shares are of
    the tracks within 1.5 of these pixels.
    """

    share_warn: float = 0.85
    """A smaller mean share over the drive gives a warning."""
    share_fail: float = 0.5
    """With a smaller mean share the drive fails."""
    distance_warn: float = 1.0
    """A larger median distance over the drive gives a warning."""
    distance_fail: float = 3.0
    """With a larger median distance the drive fails."""
    pair_share_warn: float = 0.5
    """A pair of frames with a smaller share, and at least `pair_tracks` tracks, is where the trajectory is broken."""
    pair_tracks: int = 16
    """Least number of tracks of a pair that can be called broken."""
    scale_step_warn: float = 0.13
    """Largest step of log scale between a pair of frames and the pair two frames earlier."""
    depth_spread_warn: float = 0.45
    """Largest median, over the drive, of the pairs' robust deviations of log dense from log triangulated depth."""
    depth_offset_warn: float = 0.15
    """Largest median log ratio of dense and triangulated depth in a chunk."""
    aspect_warn: float = 0.1
    """Largest log of fx over fy."""
    view_warn: tuple[float, float] = (20.0, 150.0)
    """Smallest and largest horizontal field of view, in degrees."""
    focal_warn: float = 0.05
    """Largest log ratio of the focal length and its estimate from tracks, if it is also above three deviations."""
    untracked_warn: float = 0.5
    """Largest share of frames with too few tracks to be judged."""


@dataclass(frozen=True)
class ImageFinding:
    """One contradiction. kind: "images" or "camera"; frames: half-open range of frames, numbered as in PairEvidence;
    chunk: its number if one chunk is the cause; reason: one sentence for the user."""

    level: Literal["warn", "fail"]
    kind: str
    frames: range
    chunk: int | None
    reason: str


@dataclass(frozen=True)
class FocalEvidence:
    """used: focal length in use; asked: its estimate from tracks, both in source pixels; deviation: standard deviation
    of the log of `asked`."""

    used: float
    asked: float
    deviation: float


def image_findings(
    pairs: Sequence[PairEvidence],
    chunk_of: NDArray[np.int64],
    cameras: NDArray[np.float64],
    width: int,
    picture_scale: float,
    focal: FocalEvidence | None,
    config: ImageQualityConfig | None = None,
    names: Sequence[str] = (),
) -> list[ImageFinding]:
    """Findings of a drive of N frames.

    pairs: from `collect_evidence`; chunk_of (N,): the chunk that gives each frame its pose; cameras (N, 4): fx fy cx cy
    in source pixels, NaN where unknown; width: of the source image; picture_scale: source pixels in a pixel of the
    tracked picture; focal: estimate of the focal length, None where there is none; names: of the cameras of a rig,
    whose frames take turns; each is judged by itself.
    """
    config = config or ImageQualityConfig()
    everything = range(len(chunk_of))
    findings: list[ImageFinding] = []

    def drive(level: Literal["warn", "fail"], reason: str) -> None:
        findings.append(ImageFinding(level, "images", everything, None, reason))

    used = [pair for pair in pairs if pair.judged]
    moving = [pair for pair in pairs if pair.judged or pair.tracks < 8]
    if pairs and len(moving) > 4 and len(used) < (1 - config.untracked_warn) * len(moving):
        drive(
            "warn", f"too few corners could be tracked in {1 - len(used) / len(moving):.0%} of the frames to judge them"
        )
    turns = max(len(names), 1)
    for camera in range(turns):
        mine = [pair for pair in used if pair.first % turns == camera]
        share, distance = drive_figures(mine)
        said = _contradict(share, distance) + (f" of camera {names[camera]}" if names else "")
        if share < config.share_fail or distance > config.distance_fail * picture_scale:
            drive("fail", said)
        elif share < config.share_warn or distance > config.distance_warn * picture_scale:
            drive("warn", said)
    if used:
        findings += _broken(used, chunk_of, config, 2 * turns)
        findings += _scale_steps(used, config, 2 * turns)
        findings += _depths(used, chunk_of, config)
        spreads = [pair.spread for pair in used if np.isfinite(pair.spread)]
        if spreads and float(np.median(spreads)) > config.depth_spread_warn:
            drive(
                "warn",
                f"dense depth deviates from triangulated depth by {np.expm1(np.median(spreads)):.0%} (robust)",
            )
    findings += _camera(cameras, width, everything, config)
    if focal is not None:
        off = float(np.log(focal.used / focal.asked))
        if abs(off) > config.focal_warn and abs(off) > 3 * focal.deviation:
            drive("warn", f"the focal length is {focal.used:.0f} pixels; tracks give {focal.asked:.0f}")
    return findings


def drive_figures(pairs: Sequence[PairEvidence]) -> tuple[float, float]:
    """Mean over the judged pairs of the share of tracks within 1.5 pixels of the tracked picture, and the median of
    their median distances in source pixels; both NaN where no pair is judged."""
    used = [pair for pair in pairs if pair.judged]
    if not used:
        return float("nan"), float("nan")
    return float(np.mean([pair.share for pair in used])), float(np.median([pair.distance for pair in used]))


def _contradict(share: float, distance: float) -> str:
    return (
        f"the images contradict the cameras: {share:.0%} of the tracks within 1.5 pixels of their epipolar lines, "
        f"median {distance:.2f}"
    )


def _broken(
    used: Sequence[PairEvidence], chunk_of: NDArray[np.int64], config: ImageQualityConfig, apart: int
) -> list[ImageFinding]:
    """Stretches of the trajectory whose pairs of frames the tracks contradict. apart: second frame of a pair minus its
    first."""
    bad = [pair for pair in used if pair.tracks >= config.pair_tracks and pair.share < config.pair_share_warn]
    stretches: list[list[PairEvidence]] = []
    for pair in bad:
        if stretches and pair.first - stretches[-1][-1].first <= apart:
            stretches[-1].append(pair)
        else:
            stretches.append([pair])
    findings = []
    for stretch in stretches:
        frames = range(stretch[0].first, stretch[-1].second + 1)
        chunks = {int(chunk_of[place]) for place in frames}
        worst = min(stretch, key=lambda pair: pair.share)
        reason = (
            f"the images contradict the cameras: {worst.share:.0%} of {worst.tracks} tracks within 1.5 pixels, "
            f"median {worst.distance:.1f}, between frames {worst.first} and {worst.second}"
        )
        findings.append(ImageFinding("warn", "images", frames, chunks.pop() if len(chunks) == 1 else None, reason))
    return findings


def _scale_steps(used: Sequence[PairEvidence], config: ImageQualityConfig, apart: int) -> list[ImageFinding]:
    findings = []
    for pair in used:
        if np.isfinite(pair.scale) and abs(pair.scale) > max(config.scale_step_warn, 4 * pair.scale_error):
            frames = range(max(pair.first - apart, 0), pair.second + 1)
            reason = (
                f"step lengths contradict the images: scale jumps by {np.exp(pair.scale):.2f} at frame {pair.first}"
            )
            findings.append(ImageFinding("warn", "images", frames, None, reason))
    return findings


def _depths(
    used: Sequence[PairEvidence], chunk_of: NDArray[np.int64], config: ImageQualityConfig
) -> list[ImageFinding]:
    """Chunks whose dense depth is larger or smaller than the depth that their cameras triangulate."""
    by_chunk: dict[int, list[PairEvidence]] = {}
    for pair in used:
        if np.isfinite(pair.depth):
            by_chunk.setdefault(int(chunk_of[pair.first]), []).append(pair)
    findings = []
    for chunk, pairs in sorted(by_chunk.items()):
        offset = float(np.median([pair.depth for pair in pairs]))
        if len(pairs) >= 3 and abs(offset) > config.depth_offset_warn:
            frames = range(pairs[0].first, pairs[-1].first + 1)
            reason = f"dense depth of chunk {chunk} is {np.exp(-offset):.2f} of what its cameras triangulate"
            findings.append(ImageFinding("warn", "images", frames, chunk, reason))
    return findings


def _camera(
    cameras: NDArray[np.float64], width: int, everything: range, config: ImageQualityConfig
) -> list[ImageFinding]:
    known = cameras[np.isfinite(cameras).all(1)]
    if not len(known):
        return []
    fx, fy = np.median(known[:, 0]), np.median(known[:, 1])
    findings = []
    if abs(np.log(fx / fy)) > config.aspect_warn:
        reason = f"pixels are not square: focal lengths of {fx:.0f} and {fy:.0f} pixels"
        findings.append(ImageFinding("warn", "camera", everything, None, reason))
    view = float(np.degrees(2 * np.arctan(width / (2 * fx))))
    if not config.view_warn[0] < view < config.view_warn[1]:
        low, high = config.view_warn
        reason = f"the horizontal field of view is {view:.0f} degrees; {low:.0f} to {high:.0f} are usual"
        findings.append(ImageFinding("warn", "camera", everything, None, reason))
    return findings
