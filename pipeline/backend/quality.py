"""Judges a joined drive without ground truth: pass, warn or fail, with reasons and frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np

from pipeline.backend.config import QualityConfig
from pipeline.backend.frame_order import turned_back
from pipeline.backend.join import Edge, JoinResult
from pipeline.backend.sim3 import Array

Level = Literal["pass", "warn", "fail"]
_FIXES_WARN = 0.7  # share of the fixes within the drive's time that must agree with it
_SCALE_WARN = 0.05  # deviation of the metric scale, as a share
_RANK: dict[Level, int] = {"pass": 0, "warn": 1, "fail": 2}


@dataclass(frozen=True)
class Finding:
    """One fault. frames: half open; chunk: the number of the faulty chunk, None if the fault is not one chunk's."""

    level: Level
    kind: str
    frames: range
    chunk: int | None
    reason: str


@dataclass(frozen=True)
class ChunkFigures:
    """One chunk. noise, inliers, log_scale: the worst values of its overlaps (see Edge); scale_jump: log of its scale
    over the median of the chunks around it; level: the worst of the findings that concern it."""

    chunk: int
    noise: float
    inliers: float
    log_scale: float
    scale_jump: float
    level: Level


@dataclass(frozen=True)
class Verdict:
    """level: the worst of the findings; findings: in order of frames; chunks: one entry each; figures: of the drive."""

    level: Level
    findings: tuple[Finding, ...]
    chunks: tuple[ChunkFigures, ...]
    figures: dict[str, float]

    def in_frames(self, cameras: int) -> Verdict:
        """The verdict on instants of a rig of so many cameras, as one on its frames."""
        findings = (
            replace(one, frames=range(one.frames.start * cameras, one.frames.stop * cameras)) for one in self.findings
        )
        return replace(self, findings=tuple(findings))

    def to_dict(self) -> dict[str, object]:
        """Plain values for a manifest."""
        findings = [
            {
                "level": f.level,
                "kind": f.kind,
                "frame_start": f.frames.start,
                "frame_stop": f.frames.stop,
                "chunk": f.chunk,
                "reason": f.reason,
            }
            for f in self.findings
        ]
        chunks = [
            {name: value if np.isfinite(value) else None for name, value in asdict(c).items() if name != "level"}
            | {"level": c.level}
            for c in self.chunks
        ]
        return {"verdict": self.level, "figures": self.figures, "findings": findings, "chunks": chunks}


def assess_quality(
    joined: JoinResult,
    config: QualityConfig | None = None,
    more: Sequence[Finding] = (),
    least_residual: float = 0.0,
    least_turn: float = 0.0,
) -> Verdict:
    """The verdict on a joined drive. more: findings of other checks, which are added; least_residual: an overlap whose
    positions disagree by a smaller share of a chunk's path is no fault, even if all others agree much better;
    least_turn: the same for its rotations, in degrees.

    A chunk is called faulty if all of its overlaps are noisy, because a bad chunk spoils both of its overlaps. A single
    noisy overlap is reported as such.
    """
    config = config or QualityConfig()
    findings = [
        *_overlap_findings(joined, config, (least_residual, least_turn)),
        *_scale_findings(joined, config),
        *_speed_findings(joined, config),
        *_drive_findings(joined, config),
        *_order_findings(joined),
        *more,
    ]
    findings.sort(key=lambda f: (f.frames.start, f.frames.stop, f.kind))
    scale = _log_scales(joined)
    chunks = []
    for number, (first, last) in enumerate(joined.chunk_frames):
        edges = [e for e in joined.edges if number in (e.first, e.second)]
        touching = (
            f.level
            for f in findings
            if f.chunk == number
            or (
                f.chunk is None and f.kind not in ("drive", "lens") and f.frames.start <= last and first < f.frames.stop
            )
        )
        chunks.append(
            ChunkFigures(
                number,
                max((max(e.noise) for e in edges), default=1.0),
                min((e.inliers for e in edges), default=1.0),
                max((e.log_scale for e in edges), default=0.0),
                float(scale[number]),
                _worst(touching),
            )
        )
    return Verdict(_worst(f.level for f in findings), tuple(findings), tuple(chunks), _figures(joined))


def with_findings(verdict: Verdict, findings: Sequence[Finding], figures: Mapping[str, float]) -> Verdict:
    """The verdict with further findings and figures; levels can only get worse."""
    every = sorted([*verdict.findings, *findings], key=lambda f: (f.frames.start, f.frames.stop, f.kind))
    chunks = tuple(
        replace(one, level=_worst([one.level, *(f.level for f in findings if f.chunk == one.chunk)]))
        for one in verdict.chunks
    )
    return Verdict(_worst(f.level for f in every), tuple(every), chunks, {**verdict.figures, **figures})


def _figures(joined: JoinResult) -> dict[str, float]:
    """Medians over overlaps and counts, for the manifest; only finite numbers."""
    edges = [e for e in joined.edges if not e.bridged and np.isfinite(e.log_scale)]
    placed: dict[str, float] = {}
    if joined.georeference is not None:
        off = joined.georeference.residual_m[joined.georeference.used, :2]
        placed = {
            "fixes_used_share": float(joined.georeference.used.mean()),
            "fix_residual_m": float(np.sqrt((off**2).sum(1).mean())),
        }
    if joined.metric is not None:
        placed["scale_deviation"] = joined.metric.deviation
    return placed | {
        "overlap_residual": float(np.median([e.residual for e in edges])) if edges else 0.0,
        "overlap_turn": float(np.median([e.turn for e in edges])) if edges else 0.0,
        "overlap_log_scale": float(np.median([e.log_scale for e in edges])) if edges else 0.0,
        "overlap_inliers": float(np.median([e.inliers for e in edges])) if edges else 0.0,
        "missing_overlaps": float(sum(e.bridged for e in joined.edges)),
        "filled_share": float(joined.filled.mean()),
        "loops_accepted": float(sum(one.accepted for one in joined.loops)),
        "loops_rejected": float(sum(not one.accepted for one in joined.loops)),
        "looseness": float(joined.variance_inflation),
    }


def _overlap_findings(joined: JoinResult, config: QualityConfig, least: tuple[float, float]) -> list[Finding]:
    """Missing, thin and noisy overlaps. If all overlaps of a chunk are noisy, the chunk is the fault."""
    noisy: dict[int, tuple[Level, str]] = {}
    findings = []
    for number, edge in enumerate(joined.edges):
        frames = _shared_frames(joined, edge)
        names = f"chunks {edge.first} and {edge.second}"
        if edge.bridged:
            reason = f"{names} share no usable frame, {edge.expected} were expected: the motion is continued"
            findings.append(Finding("fail", "missing overlap", frames, None, reason))
            continue
        if edge.frames < config.overlap_warn * edge.expected:
            reason = f"{names} share {edge.frames} usable frames, {edge.expected} were expected"
            findings.append(Finding("warn", "thin overlap", frames, None, reason))
        if edge.inliers < config.inliers_fail or not np.isfinite(edge.log_scale):
            reason = f"depths of {names} agree for {edge.inliers:.0%} of the pixels"
            findings.append(Finding("fail", "no depth", frames, None, reason))
            continue
        judged = _judge(edge, config, names, least)
        if judged is not None:
            noisy[number] = judged

    blamed: set[int] = set()
    for chunk, (first, last) in enumerate(joined.chunk_frames):
        sides = [n for n in (chunk - 1, chunk) if 0 <= n < len(joined.edges)]
        guilty = len(sides) == 2 and all(n in noisy for n in sides)
        if len(sides) == 1 and len(joined.edges) > 1:
            # The first and last chunk have one overlap: they are at fault if the neighbour's other overlap is good.
            beyond = 1 if chunk == 0 else len(joined.edges) - 2
            guilty = sides[0] in noisy and beyond not in noisy
        if guilty:
            blamed.update(sides)
            level, reason = max((noisy[n] for n in sides), key=lambda one: _RANK[one[0]])
            findings.append(Finding(level, "noisy chunk", range(first, last + 1), chunk, reason))
    for number, (level, reason) in noisy.items():
        if number not in blamed:
            frames = _shared_frames(joined, joined.edges[number])
            findings.append(Finding(level, "noisy overlap", frames, None, reason))
    return findings


def _judge(edge: Edge, config: QualityConfig, names: str, least: tuple[float, float]) -> tuple[Level, str] | None:
    """Level and reason of one overlap's noise; None if it is within the limits."""
    own = list(edge.noise)
    if edge.residual_share < least[0]:
        own[1] = 0.0
    if edge.turn < least[1]:
        own[0] = 0.0
    worst = max(own)
    limits: tuple[tuple[Level, float, float, float, float], ...] = (
        ("fail", config.noise_fail, config.turn_fail, config.log_scale_fail, config.inliers_fail),
        ("warn", config.noise_warn, config.turn_warn, config.log_scale_warn, config.inliers_warn),
    )
    for level, noise, turn, log_scale, inliers in limits:
        if worst > noise:
            what = ("rotations", "positions", "depths")[int(np.argmax(own))]
            return level, f"{what} of {names} disagree {worst:.1f} times as much as in the median overlap"
        if edge.turn > turn or edge.log_scale > log_scale or edge.inliers < inliers:
            return level, (
                f"{names} disagree by {np.degrees(edge.turn):.2g} degrees and {edge.log_scale:.2g} in log "
                f"depth (rms), and about {1 - edge.inliers:.0%} of the pixels"
            )
    return None


def _scale_findings(joined: JoinResult, config: QualityConfig) -> list[Finding]:
    """Chunks whose scale differs much from that of the chunks around them. Joining corrects it, but it is a sign of a
    bad prediction."""
    scale = _log_scales(joined)
    spread = 1.4826 * float(np.median(np.abs(scale)))
    limit = max(config.scale_jump * spread, config.scale_jump_least)
    findings = []
    for chunk in np.nonzero(np.abs(scale) > limit)[0] if len(scale) > 4 else ():
        first, last = joined.chunk_frames[chunk]
        reason = f"chunk {chunk} is scaled by {np.exp(scale[chunk]):.3g} of the chunks around it"
        findings.append(Finding("warn", "scale jump", range(first, last + 1), int(chunk), reason))
    return findings


def _speed_findings(joined: JoinResult, config: QualityConfig) -> list[Finding]:
    """Motions between two frames that are too large for a car."""
    apart = np.maximum(np.diff(joined.frame_index), 1)
    step = np.linalg.norm(np.diff(joined.world_from_camera[:, :3, 3], axis=0), axis=1) / apart
    if len(step) < 8:
        return []
    around = np.array([np.median(step[max(0, n - 15) : n + 16]) for n in range(len(step))])
    usual = np.maximum(around, float(np.median(step)))
    findings = []
    for n in np.nonzero(step > config.speed_jump * usual)[0]:
        frames = range(int(joined.frame_index[n]), int(joined.frame_index[n + 1]) + 1)
        reason = f"a step of {step[n]:.3g} a frame where {usual[n]:.3g} is usual"
        findings.append(Finding("warn", "speed", frames, None, reason))
    return findings


def _order_findings(joined: JoinResult) -> list[Finding]:
    """A trajectory that often reverses direction."""
    back = turned_back(joined.world_from_camera[:, :3, 3])
    if not back:
        return []
    first, last = int(joined.frame_index[back[0]]), int(joined.frame_index[back[-1]])
    reason = (
        f"the motion goes to and fro {len(back)} times, first at frame {first}: the frames are probably not in the "
        "order of time; check how their names sort"
    )
    return [Finding("warn", "frame order", range(first, last + 1), None, reason)]


def _drive_findings(joined: JoinResult, config: QualityConfig) -> list[Finding]:
    """Faults of the drive as a whole."""
    everything = range(int(joined.frame_index[0]), int(joined.frame_index[-1]) + 1)
    findings = []
    filled = float(joined.filled.mean())
    if filled > config.filled_warn:
        level: Level = "fail" if filled > config.filled_fail else "warn"
        reason = f"{filled:.0%} of the frames are filled in"
        findings.append(Finding(level, "drive", everything, None, reason))
    rejected = sum(not one.accepted for one in joined.loops)
    if len(joined.loops) >= 4 and rejected > config.loops_warn * len(joined.loops):
        reason = f"{rejected} of {len(joined.loops)} loops contradict the trajectory"
        findings.append(Finding("warn", "drive", everything, None, reason))
    findings += [Finding("warn", "drive", everything, None, reason) for reason in _position_reasons(joined)]
    if joined.variance_inflation > config.looseness_warn:
        reason = f"loops found the chain's variance {joined.variance_inflation:.0f} times too small"
        findings.append(Finding("warn", "drive", everything, None, reason))
    return findings


def _position_reasons(joined: JoinResult) -> list[str]:
    """Why fixes are not used, or how they disagree with the images."""
    if joined.relative_because:
        return [f"positions are not used: {joined.relative_because}"]
    place = joined.georeference
    if place is None:
        return []
    within = np.isfinite(place.residual_m[:, 0])
    agreeing = float(place.used[within].mean()) if within.any() else 0.0
    reasons = []
    if agreeing < _FIXES_WARN:
        reasons.append(f"{1 - agreeing:.0%} of the fixes contradict the images")
    if joined.metric is not None and joined.metric.deviation > _SCALE_WARN:
        reasons.append(f"the metric scale (from {joined.metric.source}) is uncertain by {joined.metric.deviation:.0%}")
    return reasons


def _log_scales(joined: JoinResult) -> Array:
    """(K,) log scale of each chunk over the median of the ten around it, so that slow drift of scale does not count."""
    scale = np.log([one.scale for one in joined.world_from_chunk])
    return np.array([scale[n] - np.median(scale[max(0, n - 5) : n + 6]) for n in range(len(scale))])


def _shared_frames(joined: JoinResult, edge: Edge) -> range:
    """The frames from the second chunk's first to the first chunk's last; if the chunks do not meet, the gap."""
    start, stop = joined.chunk_frames[edge.second][0], joined.chunk_frames[edge.first][1] + 1
    return range(start, stop) if start < stop else range(stop - 1, start + 1)


def _worst(levels: Iterable[Level]) -> Level:
    return max(levels, key=_RANK.__getitem__, default="pass")
