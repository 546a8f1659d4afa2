"""Settings of the back end, declared once."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class QualityConfig:
    """When a drive is called doubtful (warn) or unusable (fail); noise is over the drive's median
    overlap's."""

    noise_warn: float = 2.0
    """An overlap this many times as noisy as the drive's median one is doubtful."""
    noise_fail: float = 8.0
    """... and this many times is a failure."""
    turn_warn: float = 0.02
    """Radians (rms) by which two chunks may disagree about a frame's rotation."""
    turn_fail: float = 0.1
    """... beyond which they do not show the same drive."""
    log_scale_warn: float = 0.05
    """Log depth ratio (rms over frames) that two chunks may leave unexplained."""
    log_scale_fail: float = 0.25
    """... beyond which their depths contradict each other."""
    inliers_warn: float = 0.3
    """Least share of pixels whose depths agree."""
    inliers_fail: float = 0.1
    """... below which an overlap says nothing."""
    overlap_warn: float = 0.5
    """Least share of the planned overlap with usable frames; none at all is a failure."""
    scale_jump: float = 6.0
    """A chunk whose scale is this many robust deviations from the drive's median is doubtful ..."""
    scale_jump_least: float = 0.3
    """... if the log of the ratio is at least this."""
    speed_jump: float = 4.0
    """A step this many times the median of the 30 around it, and of the drive, is no car's."""
    filled_warn: float = 0.1
    """Share of frames without a pose of their own."""
    filled_fail: float = 0.5
    """... beyond which the trajectory is made up."""
    loops_warn: float = 0.5
    """Share of rejected loops (of at least four) beyond which the revisits are doubtful."""
    looseness_warn: float = 9.0
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

    scale: bool = True
    """Estimate a scale per chunk (Sim(3)); False trusts the network's scale and joins by rigid motion
    (SE(3))."""
    drift: bool = True
    """Estimate how each chunk bends and stretches inside, from what its neighbours say of the same frames."""
    max_pixels: int = 1024
    """Pixels of a frame that are compared, on a regular grid; more cost time and gain nothing measurable."""
    confidence_floor: float = 0.1
    """Pixels count above this share of the smaller median confidence of two chunks."""
    huber_delta: float = 0.1
    """Log depth ratio beyond which two chunks are said to disagree about a pixel."""
    rounds: int = 5
    """Re-weighting rounds of the robust depth ratio of a frame."""
    iterations: int = 8
    """Gauss-Newton steps of a solution at most; they end early when nothing moves."""
    loop_confidence: float = 0.99999
    """A loop is rejected when its residual is less likely than one minus this, were it true."""

    unseen_turn: float = 0.004
    """Radians by which two neighbouring chunks may be off together, which their overlap does not show: what a loop may
    contradict the chain by grows from it."""
    unseen_scale: float = 0.03
    """The same of the log of the scale."""
    unseen_place: float = 0.03
    """The same of the position, as a share of the way from one chunk to the next."""

    unseen_lean: float = 0.002
    """Radians by which every chunk of a drive may be off the one before in the same way. Only loops that bear each
    other out are believed on its account."""
    unseen_growth: float = 0.005
    """The same of the log of the scale, all along a drive."""

    quality: QualityConfig = field(default_factory=QualityConfig)
    """Thresholds of the verdict without ground truth."""

    def __post_init__(self) -> None:
        if not self.huber_delta > 0:
            raise ValueError(f"huber_delta must be above zero, got {self.huber_delta}")
        for name in ("rounds", "iterations", "max_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.confidence_floor < 1:
            raise ValueError(f"confidence_floor must be in [0, 1), got {self.confidence_floor}")
        for name in ("unseen_turn", "unseen_scale", "unseen_place", "unseen_lean", "unseen_growth"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0.5 < self.loop_confidence < 1:
            raise ValueError(f"loop_confidence must be between 0.5 and 1, got {self.loop_confidence}")
