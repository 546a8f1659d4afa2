"""Settings of the back end, declared once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from pipeline.common.settings import ALWAYS, setting


@dataclass(frozen=True)
class QualityConfig:
    """When a drive is called doubtful (warn) or unusable (fail); noise is over the drive's median
    overlap's."""

    noise_warn: float = setting(2.0, expert=True, identity=ALWAYS)
    """An overlap this many times as noisy as the drive's median one is doubtful."""
    noise_fail: float = setting(8.0, expert=True, identity=ALWAYS)
    """... and this many times is a failure."""
    turn_warn: float = setting(0.02, expert=True, identity=ALWAYS)
    """Radians (rms) by which two chunks may disagree about a frame's rotation."""
    turn_fail: float = setting(0.1, expert=True, identity=ALWAYS)
    """... beyond which they do not show the same drive."""
    log_scale_warn: float = setting(0.05, expert=True, identity=ALWAYS)
    """Log depth ratio (rms over frames) that two chunks may leave unexplained."""
    log_scale_fail: float = setting(0.25, expert=True, identity=ALWAYS)
    """... beyond which their depths contradict each other."""
    inliers_warn: float = setting(0.3, expert=True, identity=ALWAYS)
    """Least share of pixels whose depths agree."""
    inliers_fail: float = setting(0.1, expert=True, identity=ALWAYS)
    """... below which an overlap says nothing."""
    overlap_warn: float = setting(0.5, expert=True, identity=ALWAYS)
    """Least share of the planned overlap with usable frames; none at all is a failure."""
    scale_jump: float = setting(6.0, expert=True, identity=ALWAYS)
    """A chunk whose scale is this many robust deviations from the drive's median is doubtful ..."""
    scale_jump_least: float = setting(0.3, expert=True, identity=ALWAYS)
    """... if the log of the ratio is at least this."""
    speed_jump: float = setting(4.0, expert=True, identity=ALWAYS)
    """A step this many times the median of the 30 around it, and of the drive, is no car's."""
    filled_warn: float = setting(0.1, expert=True, identity=ALWAYS)
    """Share of frames without a pose of their own."""
    filled_fail: float = setting(0.5, expert=True, identity=ALWAYS)
    """... beyond which the trajectory is made up."""
    loops_warn: float = setting(0.5, expert=True, identity=ALWAYS)
    """Share of rejected loops (of at least four) beyond which the revisits are doubtful."""
    looseness_warn: float = setting(9.0, expert=True, identity=ALWAYS)
    """Factor by which loops may find the chain's variance too small."""

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
    """Estimate a scale per chunk (Sim(3)); False trusts the network's scale and joins by rigid motion
    (SE(3))."""
    drift: bool = setting(True, expert=True, identity=ALWAYS)
    """Estimate how each chunk bends and stretches inside, from what its neighbours say of the same frames."""
    road: bool = setting(True, expert=True)
    """Let the camera's height above the road hold the scale of the chunks, where a road is seen."""
    max_pixels: int = setting(1024, expert=True, identity=ALWAYS)
    """Pixels of a frame that are compared, on a regular grid; more cost time and gain nothing measurable."""
    confidence_floor: float = setting(0.1, expert=True, identity=ALWAYS)
    """Pixels count above this share of the smaller median confidence of two chunks."""
    huber_delta: float = setting(0.1, expert=True, identity=ALWAYS)
    """Log depth ratio beyond which two chunks are said to disagree about a pixel."""
    rounds: ClassVar[int] = 5
    """Re-weighting rounds of the robust depth ratio of a frame."""
    iterations: ClassVar[int] = 8
    """Gauss-Newton steps of a solution at most; they end early when nothing moves."""
    loop_confidence: float = setting(0.99999, expert=True, identity=ALWAYS)
    """A loop is rejected when its residual is less likely than one minus this, were it true."""

    unseen_turn: float = setting(0.004, expert=True, identity=ALWAYS)
    """Radians by which two neighbouring chunks may be off together, which their overlap does not show: what a loop may
    contradict the chain by grows from it."""
    unseen_scale: float = setting(0.03, expert=True, identity=ALWAYS)
    """The same of the log of the scale."""
    unseen_place: float = setting(0.03, expert=True, identity=ALWAYS)
    """The same of the position, as a share of the way from one chunk to the next."""

    unseen_lean: float = setting(0.002, expert=True, identity=ALWAYS)
    """Radians by which every chunk of a drive may be off the one before in the same way. Only loops that bear each
    other out are believed on its account."""
    unseen_growth: float = setting(0.005, expert=True, identity=ALWAYS)
    """The same of the log of the scale, all along a drive."""

    FORMER_SETTINGS: ClassVar = ("rounds", "iterations")

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
