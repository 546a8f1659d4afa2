"""Settings of the back end, declared once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from pipeline.common.settings import ALWAYS, setting


@dataclass(frozen=True)
class QualityConfig:
    """Thresholds beyond which a drive is doubtful (warn) or unusable (fail). Noise is relative to the drive's median
    overlap."""

    noise_warn: float = setting(2.0, expert=True, identity=ALWAYS)
    """Noise of an overlap, relative to the drive's median one, above which it gives a warning."""
    noise_fail: float = setting(8.0, expert=True, identity=ALWAYS)
    """Noise of an overlap, relative to the drive's median one, above which the drive fails."""
    turn_warn: float = setting(0.02, expert=True, identity=ALWAYS)
    """Difference (rms, radians) of two chunks' rotations of a frame above which there is a warning."""
    turn_fail: float = setting(0.1, expert=True, identity=ALWAYS)
    """Difference (rms, radians) of two chunks' rotations of a frame above which the drive fails."""
    log_scale_warn: float = setting(0.05, expert=True, identity=ALWAYS)
    """Difference of two chunks' log depths (rms over frames) after joining above which there is a warning."""
    log_scale_fail: float = setting(0.25, expert=True, identity=ALWAYS)
    """Difference of two chunks' log depths (rms over frames) after joining above which the drive fails."""
    inliers_warn: float = setting(0.3, expert=True, identity=ALWAYS)
    """Share of an overlap's pixels whose depths agree below which there is a warning."""
    inliers_fail: float = setting(0.1, expert=True, identity=ALWAYS)
    """Share of an overlap's pixels whose depths agree below which the drive fails."""
    overlap_warn: float = setting(0.5, expert=True, identity=ALWAYS)
    """Least share of the planned overlap with usable frames; none at all is a failure."""
    scale_jump: float = setting(6.0, expert=True, identity=ALWAYS)
    """Difference of a chunk's log scale from that of the chunks around it, in robust deviations of the drive, above
    which there is a warning."""
    scale_jump_least: float = setting(0.3, expert=True, identity=ALWAYS)
    """Least difference of a chunk's log scale from that of the chunks around it for that warning."""
    speed_jump: float = setting(4.0, expert=True, identity=ALWAYS)
    """A motion between two frames gives a warning if it is so many times the median of the 30 around it, and of the
    drive."""
    filled_warn: float = setting(0.1, expert=True, identity=ALWAYS)
    """Share of frames with an interpolated pose (bad images) above which there is a warning."""
    filled_fail: float = setting(0.5, expert=True, identity=ALWAYS)
    """Share of frames with an interpolated pose (bad images) above which the drive fails."""
    loops_warn: float = setting(0.5, expert=True, identity=ALWAYS)
    """Share of rejected loops (of at least four) above which there is a warning."""
    looseness_warn: float = setting(9.0, expert=True, identity=ALWAYS)
    """There is a warning if the loops show that the chain's variance is too small by more than this factor."""

    def __post_init__(self) -> None:
        for low, high in (("noise", 1), ("turn", 1), ("log_scale", 1), ("filled", 1), ("inliers", -1)):
            warn, fail = getattr(self, f"{low}_warn"), getattr(self, f"{low}_fail")
            if not warn > 0 or not fail > 0 or (fail - warn) * high < 0:
                raise ValueError(f"{low}: expected above zero and warn before fail, got {warn}, {fail}")
        for name in (
            "overlap_warn",
            "scale_jump",
            "scale_jump_least",
            "speed_jump",
            "loops_warn",
            "looseness_warn",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above zero, got {getattr(self, name)}")


@dataclass(frozen=True)
class BackendConfig:
    """How chunks are joined into one trajectory."""

    scale: bool = setting(True, expert=True, identity=ALWAYS)
    """Estimate a scale per chunk (Sim(3)); False keeps the network's scale and joins by rigid motion (SE(3))."""
    drift: bool = setting(True, expert=True, identity=ALWAYS)
    """Estimate how each chunk bends and stretches inside, by comparing frames that it shares with its neighbours."""
    road: bool = setting(True, expert=True)
    """Where a road is seen, use the camera's constant height above it to hold the scale of the chunks."""
    max_pixels: int = setting(1024, expert=True, identity=ALWAYS)
    """Pixels of a frame that are compared, on a regular grid. More pixels cost time without a measurable gain."""
    confidence_floor: float = setting(0.1, expert=True, identity=ALWAYS)
    """Pixels count if their confidence is above this share of the smaller of two chunks' median confidences."""
    huber_delta: float = setting(0.1, expert=True, identity=ALWAYS)
    """Log depth ratio beyond which two chunks disagree about a pixel."""
    rounds: ClassVar[int] = 5
    """Rounds of re-weighting for the robust depth ratio of a frame."""
    iterations: ClassVar[int] = 8
    """Most Gauss-Newton steps of one solution. They end earlier when the steps become small."""
    loop_confidence: float = setting(0.99999, expert=True, identity=ALWAYS)
    """A loop is rejected if a true loop would have so large a residual with a probability below one minus this."""

    unseen_turn: float = setting(0.004, expert=True, identity=ALWAYS)
    """Standard deviation, radians, of a rotation error that two neighbouring chunks share, so that their overlap does
    not show it. A larger value lets loops contradict the chain by more."""
    unseen_scale: float = setting(0.03, expert=True, identity=ALWAYS)
    """The same for the log of the scale."""
    unseen_place: float = setting(0.03, expert=True, identity=ALWAYS)
    """The same for the position, as a share of the distance from one chunk to the next."""

    unseen_lean: float = setting(0.002, expert=True, identity=ALWAYS)
    """Standard deviation, radians, of a rotation error that is the same from each chunk of a drive to the next. A loop
    that is plausible only because of it is accepted only if other loops agree with it."""
    unseen_growth: float = setting(0.005, expert=True, identity=ALWAYS)
    """The same for the log of the scale."""

    FORMER_SETTINGS: ClassVar = ("rounds", "iterations")  # constants now; older results name them

    quality: QualityConfig = field(default_factory=QualityConfig)
    """Thresholds of the verdict without ground truth."""

    def __post_init__(self) -> None:
        if not self.huber_delta > 0:
            raise ValueError(f"huber_delta must be above zero, got {self.huber_delta}")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {self.max_pixels}")
        if not 0 <= self.confidence_floor < 1:
            raise ValueError(f"confidence_floor must be in [0, 1), got {self.confidence_floor}")
        for name in ("unseen_turn", "unseen_scale", "unseen_place", "unseen_lean", "unseen_growth"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0.5 < self.loop_confidence < 1:
            raise ValueError(f"loop_confidence must be between 0.5 and 1, got {self.loop_confidence}")
