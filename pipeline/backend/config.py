"""Settings of the back end, declared once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BackendConfig:
    """How chunks are joined into one trajectory."""

    scale: bool = True
    """Estimate a scale per chunk (Sim(3)); False joins by rigid motion (SE(3)) for metric networks."""
    huber_delta: float = 0.1
    """Residual, relative to the scene's median depth unit of the chunk, where the Huber loss turns linear."""
    rounds: int = 5
    """Re-weighting rounds of a robust alignment."""
    confidence_floor: float = 0.1
    """Pixels count above this share of the smaller median confidence of two chunks."""

    def __post_init__(self) -> None:
        if not self.huber_delta > 0:
            raise ValueError(f"huber_delta must be above zero, got {self.huber_delta}")
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")
        if not 0 <= self.confidence_floor < 1:
            raise ValueError(f"confidence_floor must be in [0, 1), got {self.confidence_floor}")
