"""Measures rendering: frames of the city at training's size, on one core and on a GPU if there is one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipeline.benchmark.report import Measured, Row, rate
from pipeline.synthetic import CityDrive

_TARGET_PER_S = 10  # training city_tiny uses 30 frames per second on a core, and each frame three times or more


@dataclass(frozen=True)
class RenderingBenchmark:
    """Frames with depth that one core and one GPU render per second."""

    frames: int = 48
    """Frames to render."""
    height: int = 64
    """Height of a frame."""
    width: int = 128
    """Width of a frame."""
    seed: int = 7
    """Seed of the drive."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the setting."""
        if self.frames < 1:
            raise ValueError(f"rendering.frames must be at least 1, not {self.frames}")
        CityDrive(self.seed, 1, self.height, self.width)

    def measure(self, say: Callable[[str], None]) -> Measured:
        """Render the same frames with one and with four rays per pixel."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        values: dict[str, object] = {"frames": self.frames, "size": [self.width, self.height]}
        rows = []
        try:
            for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
                for side in (1, 2):
                    say(
                        f"rendering: {self.frames} frames of {self.width}x{self.height}, {side * side} rays per pixel, "
                        f"{device}"
                    )
                    wall, cpu = self._seconds(side, device)
                    spent = cpu if device == "cpu" else wall
                    name = "one core" if device == "cpu" else "one GPU"
                    values[f"{device}_rays_{side * side}"] = {
                        "seconds": wall,
                        "cpu_seconds": cpu,
                        "frames_per_second": self.frames / spent,
                    }
                    rows.append(
                        Row(
                            f"{side * side} rays per pixel, {name}",
                            rate(self.frames, spent, "frames"),
                            f"{_TARGET_PER_S} frames/s",
                            self.frames / spent >= _TARGET_PER_S,
                        )
                    )
        finally:
            torch.set_num_threads(threads)
        return Measured(values, tuple(rows))

    def _seconds(self, side: int, device: str) -> tuple[float, float]:
        drive = CityDrive(self.seed, self.frames, self.height, self.width, supersample=side, device=device)
        drive.render(range(min(2, self.frames)))
        begin, cpu = time.perf_counter(), time.process_time()
        drive.render(range(self.frames))  # its arrays are copied to the host, so a GPU has finished
        return time.perf_counter() - begin, time.process_time() - cpu
