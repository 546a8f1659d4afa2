"""TUM RGB-D (Sturm et al. 2012): hand-held indoor sequences with motion capture."""

from __future__ import annotations

import numpy as np

from pipeline import storage
from pipeline.errors import DriveError
from pipeline.evaluation.associate import match_times
from pipeline.evaluation.benchmarks.sequence import Benchmark, Sequence, image_names, named_truth
from pipeline.evaluation.sources import read_poses

_TOLERANCE_S = 0.02  # as in the benchmark's own tools


def _find(data: str) -> tuple[str, ...]:
    return tuple(
        name for name in storage.list_folders(data) if storage.exists(storage.join(data, name, "groundtruth.txt"))
    )


def _read(data: str, name: str) -> Sequence:
    folder = storage.join(data, name)
    frames = storage.join(folder, "rgb")
    names = image_names(frames)
    title = f"TUM {name}"
    try:
        times = np.array([float(one) for one in names])
    except ValueError:
        raise DriveError(f"{title}: images are named by their time in seconds, got {names[0]!r}") from None
    truth = read_poses(storage.join(folder, "groundtruth.txt"))
    if truth.timestamps_s is None:
        raise DriveError(f"{title}: groundtruth.txt: expected times and poses, 8 numbers per line")
    first, second = match_times(times, truth.timestamps_s, _TOLERANCE_S)
    poses = {names[i]: truth.world_from_camera[j] for i, j in zip(first, second, strict=True)}
    return Sequence(name, frames, named_truth(title, names, poses))


TUM = Benchmark(
    name="tum",
    title="TUM RGB-D",
    source="https://cvg.cit.tum.de/data/datasets/rgbd-dataset/download",
    layout="rgbd_dataset_freiburg1_desk/rgb/1305031452.791720.png and .../groundtruth.txt",
    find=_find,
    read=_read,
)
