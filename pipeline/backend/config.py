"""Settings of the back end, declared once."""

from __future__ import annotations

from dataclasses import dataclass


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

    def __post_init__(self) -> None:
        if not self.huber_delta > 0:
            raise ValueError(f"huber_delta must be above zero, got {self.huber_delta}")
        for name in ("rounds", "iterations", "max_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.confidence_floor < 1:
            raise ValueError(f"confidence_floor must be in [0, 1), got {self.confidence_floor}")
        if not 0.5 < self.loop_confidence < 1:
            raise ValueError(f"loop_confidence must be between 0.5 and 1, got {self.loop_confidence}")
