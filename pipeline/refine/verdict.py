"""Findings from the images: where they contradict the cameras, the depth or the calibration of a result.

Thresholds were chosen on the real clip (truth 0.3 px and 98 % within 1.5 px, the network alone 2.4 px and 48 %) and on
rendered drives (README.md of this folder).
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
    """When the images contradict a result. Shares are of tracks within 1.5 pixels of their epipolar line."""

    share_warn: float = 0.85
    """Least share over the drive ..."""
    share_fail: float = 0.5
    """... below which its cameras are not those of the pictures."""
    distance_warn: float = 1.0
    """Largest median distance over the drive, pixels of a picture 1,280 wide at most ..."""
    distance_fail: float = 3.0
    """... beyond which its cameras are not those of the pictures."""
    pair_share_warn: float = 0.5
    """Least share of a pair of frames; one with many tracks and less is a place where the trajectory is broken."""
    pair_tracks: int = 16
    """Tracks that a pair needs to be called broken."""
    scale_step_warn: float = 0.13
    """Largest step of log scale between two pairs of frames that follow each other."""
    depth_spread_warn: float = 0.45
    """Largest robust deviation of log dense depth from triangulated depth, over the drive."""
    depth_offset_warn: float = 0.15
    """Largest median of log dense over triangulated depth, over a chunk."""
    aspect_warn: float = 0.1
    """Largest log of fx over fy."""
    view_warn: tuple[float, float] = (20.0, 150.0)
    """Degrees across the picture that a camera may see."""
    focal_warn: float = 0.1
    """Largest log of a focal length against what the images ask for, where they tell it at least that well."""
    untracked_warn: float = 0.5
    """Largest share of frames in which too little can be followed to judge anything."""


@dataclass(frozen=True)
class ImageFinding:
    """One contradiction. frames: half-open range of places; chunk: where one is to blame."""

    level: Literal["warn", "fail"]
    kind: str
    frames: range
    chunk: int | None
    reason: str


@dataclass(frozen=True)
class FocalEvidence:
    """Focal length in use and the one that the images ask for, in source pixels; deviation of the latter's log."""

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
) -> list[ImageFinding]:
    """Findings of a drive. chunk_of (N,): the chunk that gives each place its pose; cameras (N, 4)."""
    config = config or ImageQualityConfig()
    everything = range(len(chunk_of))
    findings: list[ImageFinding] = []

    def drive(level: Literal["warn", "fail"], reason: str) -> None:
        findings.append(ImageFinding(level, "images", everything, None, reason))

    used = [pair for pair in pairs if pair.judged]
    moving = [pair for pair in pairs if pair.judged or pair.tracks < 8]
    if pairs and len(moving) > 4 and len(used) < (1 - config.untracked_warn) * len(moving):
        drive(
            "warn", f"too little can be followed through the images in {1 - len(used) / len(moving):.0%} of the frames"
        )
    if used:
        share, distance = drive_figures(pairs)
        if share < config.share_fail or distance > config.distance_fail * picture_scale:
            drive("fail", _contradict(share, distance))
        elif share < config.share_warn or distance > config.distance_warn * picture_scale:
            drive("warn", _contradict(share, distance))
        findings += _broken(used, chunk_of, config)
        findings += _scale_steps(used, config)
        findings += _depths(used, chunk_of, config)
        spreads = [pair.spread for pair in used if np.isfinite(pair.spread)]
        if spreads and float(np.median(spreads)) > config.depth_spread_warn:
            drive(
                "warn",
                f"dense depth is off triangulated depth by {np.expm1(np.median(spreads)):.0%} (robust deviation)",
            )
    findings += _camera(cameras, width, everything, config)
    if focal is not None:
        off = float(np.log(focal.used / focal.asked))
        if abs(off) > config.focal_warn and abs(off) > 3 * focal.deviation:
            drive("warn", f"the focal length is {focal.used:.0f} pixels, the images ask for {focal.asked:.0f}")
    return findings


def drive_figures(pairs: Sequence[PairEvidence]) -> tuple[float, float]:
    """Mean share of tracks within 1.5 pixels and median of the pairs' median distances; NaN where none is judged."""
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
    used: Sequence[PairEvidence], chunk_of: NDArray[np.int64], config: ImageQualityConfig
) -> list[ImageFinding]:
    """Stretches of pairs that the images contradict."""
    bad = [pair for pair in used if pair.tracks >= config.pair_tracks and pair.share < config.pair_share_warn]
    stretches: list[list[PairEvidence]] = []
    for pair in bad:
        if stretches and pair.first - stretches[-1][-1].first <= 2:
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


def _scale_steps(used: Sequence[PairEvidence], config: ImageQualityConfig) -> list[ImageFinding]:
    findings = []
    for pair in used:
        if np.isfinite(pair.scale) and abs(pair.scale) > max(config.scale_step_warn, 4 * pair.scale_error):
            frames = range(max(pair.first - 2, 0), pair.second + 1)
            reason = (
                f"step lengths contradict the images: scale jumps by {np.exp(pair.scale):.2f} at frame {pair.first}"
            )
            findings.append(ImageFinding("warn", "images", frames, None, reason))
    return findings


def _depths(
    used: Sequence[PairEvidence], chunk_of: NDArray[np.int64], config: ImageQualityConfig
) -> list[ImageFinding]:
    """Chunks whose dense depth is larger or smaller than their cameras triangulate."""
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
        reason = f"the camera sees {view:.0f} degrees across, {low:.0f} to {high:.0f} are usual"
        findings.append(ImageFinding("warn", "camera", everything, None, reason))
    return findings
