"""Render city drives with ground truth: python -m jobs.synthesize --output URI --drives 3 --frames 600 --seed 7.

Writes drives in KITTI's layout to a folder or a bucket (files: see pipeline/synthetic/write.py).
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from jobs.command import run_job
from pipeline import storage
from pipeline.common.progress import Reporter
from pipeline.common.settings import POSITIONAL
from pipeline.common.visible_text import show
from pipeline.synthetic import DriveSpec, read_drive, write_drive
from pipeline.synthetic.one_city import CityDriveSpec
from pipeline.synthetic.rig import MOST_CAMERAS
from pipeline.synthetic.write import usual_processes


@dataclass(frozen=True)
class SynthesizeConfig:
    """What to render and where to write it."""

    output: str = field(metadata=POSITIONAL)
    """Folder or bucket URI; sequences/ and poses/ are made in it."""
    drives: int = 3
    """How many drives; they are numbered from 00."""
    frames: int = 600
    """Frames of each drive, ten in a second."""
    seed: int = 7
    """Seed of the first drive; the next drives take the following numbers. Equal seeds give equal drives."""
    height: int = 168
    """Image height in pixels."""
    width: int = 336
    """Image width in pixels."""
    supersample: int = 2
    """Rays for each pixel along each axis; 1 is fastest, 2 smooths edges."""
    lens: Literal["fisheye", "barrel", "equirectangular"] | None = None
    """A lens instead of a pinhole: fisheye (Kannala-Brandt, 150 degrees across), barrel (k1 = -0.3) or
    equirectangular (all around)."""
    field_of_view: float | None = None
    """Degrees across of a pinhole; by default drawn from the seed, 76 to 84."""
    bonnet: bool = False
    """Show the bonnet of the car in the pictures, and write its masks."""
    bonnet_shake: float = 0.0
    """Pixels by which the bonnet moves in the pictures at most, as the car pitches and rolls and the camera shakes."""
    orientation: int = 1
    """EXIF orientation (1 to 8) with which frames are stored; readers turn them upright."""
    cameras: int = 1
    """Cameras of the car, at most 6: 2 are a stereo pair, 3 and more look around (pipeline/synthetic/rig.py)."""
    side_field_of_view: float | None = None
    """Degrees across of the cameras beside the front one; by default as the front one."""
    side_height: int | None = None
    """Height in pixels of the pictures of the cameras beside the front one; by default as the front one's."""
    city: int | None = None
    """Seed of one city through whose same streets all drives go, each from a start, in a lane and at a speed of its
    own; by default each drive has a city of its own. sequences/ID/city.json says where each starts."""
    opposite: int = 0
    """With --city: number of drives, the last ones, that go the other way."""
    lights: int = 1
    """With --city: number of different lights (sun, sky, weather), which the drives use in turn."""
    parked: int | None = None
    """With --city: number of the drive (from 0) that has one more parked car than the others."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to render: cpu or cuda."""
    processes: int | None = None
    """Processes that render a drive on the CPU; each takes 0.4 GB. By default one for each core, at most 8."""

    def __post_init__(self) -> None:
        """Raises ValueError naming a field that cannot be rendered."""
        for name, least in (
            ("drives", 1),
            ("frames", 1),
            ("seed", 0),
            ("height", 8),
            ("width", 8),
            ("supersample", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.processes is not None and self.processes < 1:
            raise ValueError(f"processes must be at least 1, not {self.processes}")
        if not 1 <= self.cameras <= MOST_CAMERAS:
            raise ValueError(f"cameras must be 1 to {MOST_CAMERAS}, not {self.cameras}")
        if self.cameras > 1 and self.lens is not None:
            raise ValueError("several cameras have no lens; leave out --lens or --cameras")
        if self.cameras == 1 and (self.side_field_of_view, self.side_height) != (None, None):
            raise ValueError("one camera has none beside it; leave out --side-field-of-view and --side-height")
        if self.city is None and (self.opposite or self.lights != 1 or self.parked is not None):
            raise ValueError("--opposite, --lights and --parked are of drives through one city; give --city SEED")
        if self.city is not None and self.lens is not None:
            raise ValueError("drives through one city have no lens; leave out --lens or --city")
        if not 0 <= self.opposite <= self.drives:
            raise ValueError(f"opposite must be 0 to {self.drives} (the drives), not {self.opposite}")
        if self.lights < 1:
            raise ValueError(f"lights must be at least 1, not {self.lights}")
        if self.parked is not None and not 0 <= self.parked < self.drives:
            raise ValueError(f"parked must be a drive, 0 to {self.drives - 1}, not {self.parked}")
        if not 1 <= self.orientation <= 8:
            raise ValueError(f"orientation must be 1 to 8, not {self.orientation}")


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(SynthesizeConfig, _render, arguments, prog="jobs.synthesize")


def _render(config: SynthesizeConfig) -> None:
    begin = time.monotonic()
    output = storage.absolute(config.output)
    processes = config.processes or usual_processes()
    sequences: list[str] = []
    with Reporter() as reporter:
        for number in range(config.drives):
            spec = DriveSpec(
                config.seed + number,
                config.frames,
                config.height,
                config.width,
                config.supersample,
                config.lens,
                config.bonnet,
                config.orientation,
                config.cameras,
                config.field_of_view,
                config.bonnet_shake,
                config.side_field_of_view,
                config.side_height,
                _in_city(config, number),
            )
            name, done = f"{number:02d}", 0

            def progress(count: int, total: int, name: str = name) -> None:
                nonlocal done
                reporter.advance(f"drive {name}", count - done, total, "frames")
                done = count

            sequences.append(write_drive(spec, output, name, progress, device=config.device, processes=processes))
    show(summary(sequences, time.monotonic() - begin))


def _in_city(config: SynthesizeConfig, number: int) -> CityDriveSpec | None:
    if config.city is None:
        return None
    light = None if number % config.lights == 0 else config.city + number % config.lights
    opposite = number >= config.drives - config.opposite
    return CityDriveSpec(config.city, 0, opposite, light, number == config.parked)


def summary(sequences: list[str], seconds: float) -> str:
    """Where the drives are, and how long they are."""
    lines = []
    for sequence in sequences:
        drive = read_drive(sequence)
        step = np.linalg.norm(np.diff(drive.world_from_camera[:, :3, 3], axis=0), axis=1)
        lines.append(f"drive {drive.drive_id}: {len(drive.image_uris)} frames, {step.sum():.0f} m  {sequence}")
    return "\n".join(lines + [f"{len(sequences)} drives in {seconds:.1f} s"])


if __name__ == "__main__":
    sys.exit(main())
