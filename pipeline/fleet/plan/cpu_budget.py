"""The CPU cores that a rank needs beside the network, for `jobs.reconstruct --plan`.

A GPU waits if decoding, following corners, adjusting and publishing are slower than the network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import RunConfig

STAGE_COSTS = Path(__file__).with_name("stage_costs.json")
_OF_REFINEMENT = "adjustment"


@dataclass(frozen=True)
class CpuBudget:
    """core_seconds: for one frame, by stage. source: how and where they were measured. frames_per_s: of one rank."""

    core_seconds: Mapping[str, float]
    source: str
    frames_per_s: float

    @staticmethod
    def of(config: RunConfig, frames_per_s: float) -> CpuBudget:
        """The stored figures of the stages that a run with these settings has, for a rank that processes
        `frames_per_s`. `jobs.benchmark --what drive --drive.input DRIVE` measures yours."""
        stored = json.loads(STAGE_COSTS.read_text())
        costs = dict(stored["core_seconds_a_frame"])
        if not config.refine:  # corners are followed all the same, for the verdict
            del costs[_OF_REFINEMENT]
        return CpuBudget(costs, f"{stored['measured']} ({stored['machine']})", frames_per_s)

    @property
    def cores_a_rank(self) -> float:
        """Cores that keep up with one rank."""
        return sum(self.core_seconds.values()) * self.frames_per_s

    def said(self, unit: str, cores_there: float) -> str:
        """The budget in words. unit: "GPU" or "CPU rank"; cores_there: cores of the cluster for each rank."""
        parts = ", ".join(f"{name} {self.frames_per_s * spent:.1f}" for name, spent in self.core_seconds.items())
        text = (
            f"{self.cores_a_rank:.1f} cores a {unit} beside the network keep up with {self.frames_per_s:.1f} frames/s "
            f"({parts}; {self.source})"
        )
        if cores_there < self.cores_a_rank:
            reached = cores_there / sum(self.core_seconds.values())
            text += f"; this cluster has {cores_there:.1f}: expect {reached:.1f} frames/s, or add CPU nodes"
        return text
