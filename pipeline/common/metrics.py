"""The metrics that Ray exports as `ray_<name>`, each declared once, and how they are counted.

Ranks count through `pipeline.forward.rank_meter`; the driver counts through `pipeline.fleet.status.run_metrics`.
Without Ray in the process nothing is recorded and nothing fails.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.util import metrics as ray_metrics


@dataclass(frozen=True)
class Metric:
    """One metric: its name without Ray's prefix, its unit in the name, its labels."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()

    @property
    def exported(self) -> str:
        """Its name on a metrics page."""
        return f"ray_{self.name}"


DRIVES = Metric("city_drives", "gauge", "Drives of the run by state", ("state",))
FRAMES = Metric("city_frames_total", "counter", "Frames of drives published by this run")
POINTS = Metric("city_points_total", "counter", "Points of drives published by this run")
BYTES = Metric("city_bytes_total", "counter", "Bytes of drives published by this run")
STAGE_SECONDS = Metric("city_stage_seconds_total", "counter", "Seconds by stage, summed over drives", ("stage",))
GPU_SECONDS = Metric("city_gpu_seconds_total", "counter", "GPU seconds that drives took in the network")
PHASE_SECONDS = Metric("city_phase_seconds_total", "counter", "Seconds of a rank by phase", ("phase", "rank"))
INPUT_WAIT = Metric("city_input_wait_seconds_total", "counter", "Seconds a rank waited for frames", ("rank",))
ALL_REDUCE = Metric("city_allreduce_seconds_total", "counter", "Seconds a rank spent in collectives", ("rank",))
STORE_MOVED = Metric(
    "city_store_moved_bytes_total", "counter", "Bytes of waiting chunks pushed to a slower tier", ("tier", "rank")
)
METRICS = (
    DRIVES,
    FRAMES,
    POINTS,
    BYTES,
    STAGE_SECONDS,
    GPU_SECONDS,
    PHASE_SECONDS,
    INPUT_WAIT,
    ALL_REDUCE,
    STORE_MOVED,
)


def add(metric: Metric, amount: float, **labels: str) -> None:
    """Count up by `amount`; an amount of zero or less does nothing."""
    if amount > 0 and ray.is_initialized():
        _made(metric).inc(amount, tags=labels)


def put(metric: Metric, value: float, **labels: str) -> None:
    """Set a gauge."""
    if ray.is_initialized():
        _made(metric).set(value, tags=labels)


@functools.cache
def _made(metric: Metric) -> Any:  # Ray has no types: a Counter with inc, or a Gauge with set
    kind = {"counter": ray_metrics.Counter, "gauge": ray_metrics.Gauge}[metric.kind]
    return kind(metric.name, description=metric.help, tag_keys=metric.labels)
