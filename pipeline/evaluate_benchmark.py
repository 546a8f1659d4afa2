"""A benchmark's sequences through the whole pipeline and against their truth, one after the other, resumable."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.errors import DriveError
from pipeline.evaluation import Comparison, align, compare, evaluate, open_estimate
from pipeline.evaluation.benchmarks import Benchmark, Sequence
from pipeline.evaluation.benchmarks.scores import FULL, VARIANTS, Score
from pipeline.evaluation.clouds import Cloud, CloudErrors, compare_clouds, thinned
from pipeline.evaluation.memory import PeakMemory
from pipeline.evaluation.sources import Truth
from pipeline.progress import Reporter
from pipeline.publish import Manifest, PublishedDrive
from pipeline.reconstruct import reconstruct

_CUBES = 10  # clouds are thinned to cubes of a tenth of the threshold
_SCORES, _FRAMES, _RECTIFIED = "_scores", "_frames", "rectified.json"
_SET_UP = ("find", "start Ray")  # not the time of a drive


def evaluate_benchmark(
    benchmark: Benchmark,
    data: str,
    output: str,
    config: RunConfig,
    *,
    sequences: tuple[str, ...] = (),
    ablate: tuple[str, ...] = (),
    seed: int = 0,
    told: Callable[[Score], None] = lambda score: None,
) -> list[Score]:
    """Score every sequence, with all of the method and without each part in `ablate` (gcs, gcm, loops).

    Results are published below <output>/<benchmark>/<variant>/; what is there from before with the same settings is not
    made again. A sequence that fails has a score that says why, and the others go on. config.input, output and drive_id
    are the benchmark's. Raises DriveError where the data set is not there, StorageError where the output cannot be
    written.
    """
    names = benchmark.sequences(data, sequences)
    scores = []
    for variant in (FULL, *ablate):
        run = replace(config, **VARIANTS[variant])
        place = storage.join(storage.absolute(output), benchmark.name, variant)
        for name in names:
            try:
                score = _score(benchmark, storage.absolute(data), name, variant, place, run, seed)
            except (DriveError, ValueError) as error:
                score = Score(name, variant, failed=" ".join(str(error).split()))
            scores.append(score)
            told(score)
    return scores


def _score(
    benchmark: Benchmark, data: str, name: str, variant: str, place: str, config: RunConfig, seed: int
) -> Score:
    sequence = benchmark.read(data, name)
    note = storage.join(place, _SCORES, f"{sequence.drive_id}.json")
    manifest, peak = _reconstructed(benchmark, sequence, place, config)
    known = _noted(note)
    if known is not None and known.get("identity") == manifest.identity and known.get("seed") == seed:
        return Score(**known["score"])
    if known is not None and known.get("identity") == manifest.identity and peak is None:
        peak = known["score"]["peak_memory"]
    score = _judged(benchmark, sequence, variant, place, manifest, peak, seed)
    text = json.dumps({"identity": manifest.identity, "seed": seed, "score": asdict(score)}, indent=1)
    storage.write_bytes_atomically(note, text.encode())
    return score


def _reconstructed(
    benchmark: Benchmark, sequence: Sequence, place: str, config: RunConfig
) -> tuple[Manifest, int | None]:
    """The manifest of the sequence's drive, and the peak memory of making it where it was made now."""
    frames = _rectified(benchmark, sequence, place)
    config = replace(config, input=frames, output=place, drive_id=sequence.drive_id)
    reporter = Reporter()
    try:
        with PeakMemory() as memory:
            result = reconstruct(config, reporter)
    finally:
        reporter.close()
    return result.manifest, None if result.was_there else memory.peak


def _rectified(benchmark: Benchmark, sequence: Sequence, place: str) -> str:
    """The frames to reconstruct: the data set's own, or rectified ones, made once for all variants."""
    if sequence.rectify is None:
        return sequence.frames
    above = storage.parent_and_name(place)[0]
    folder = storage.join(above, _FRAMES, sequence.drive_id)
    if not storage.exists(storage.join(folder, _RECTIFIED)):
        with tempfile.TemporaryDirectory(prefix="rectified-") as scratch:
            sequence.rectify(Path(scratch))
            for file in sorted(Path(scratch).iterdir()):
                storage.upload(file, storage.join(folder, file.name))
        note = json.dumps({"benchmark": benchmark.name, "sequence": sequence.name}).encode()
        storage.write_bytes_atomically(storage.join(folder, _RECTIFIED), note)
    return folder


def _noted(uri: str) -> dict[str, Any] | None:
    """What is known of an earlier evaluation; None where nothing or nothing readable is."""
    try:
        values = json.loads(storage.read_bytes(uri))
        Score(**values["score"])
    except (storage.NotFoundError, ValueError, KeyError, TypeError):
        return None
    return dict(values)


def _judged(
    benchmark: Benchmark,
    sequence: Sequence,
    variant: str,
    place: str,
    manifest: Manifest,
    peak: int | None,
    seed: int,
) -> Score:
    estimate = open_estimate(place, sequence.drive_id)
    comparison = compare(estimate, Truth(sequence.frames, sequence.truth))
    result = evaluate(comparison, with_depth=False).trajectory.sim3
    clouds = None
    if benchmark.cloud_threshold is not None and sequence.cloud is not None and manifest.counts.points:
        assert estimate.drive is not None
        clouds = _clouds(benchmark, sequence, estimate.drive, comparison, benchmark.cloud_threshold, seed)
    seconds = sum(spent for stage, spent in manifest.timings.items() if stage not in _SET_UP)
    hundred = result.rpe.over_100m
    return Score(
        sequence=sequence.name,
        variant=variant,
        frames=manifest.counts.frames,
        compared=comparison.matched.compared,
        ate=result.ate.rmse,
        ate_percent=result.ate.percent,
        rte=hundred.translation_rmse,
        rre=hundred.rotation_rmse,
        kitti_translation=result.kitti_step10.translation_percent,
        kitti_rotation=result.kitti_step10.rotation_per_100m,
        chamfer=None if clouds is None else clouds.chamfer,
        f1=None if clouds is None else clouds.f1,
        clouds=None if clouds is None else asdict(clouds),
        seconds=seconds,
        frames_per_s=manifest.counts.frames / seconds if seconds else None,
        peak_memory=peak,
        code_version=manifest.code_version,
    )


def _clouds(
    benchmark: Benchmark,
    sequence: Sequence,
    drive: PublishedDrive,
    comparison: Comparison,
    threshold: float,
    seed: int,
) -> CloudErrors:
    """The published points in the truth's world against the true cloud, both thinned alike and cut to what the camera
    came near to."""
    assert sequence.cloud is not None
    true_from_world = align(comparison.estimated_poses, comparison.true_poses, with_scale=True)
    size = threshold / _CUBES
    path = comparison.true_poses[:, :3, 3]

    def estimated() -> Iterator[Cloud]:
        for table in drive.point_batches(columns="xyz", voxel=size / true_from_world.scale):
            xyz = np.stack([table[axis].to_numpy() for axis in "xyz"], -1).astype(np.float64)
            yield _near(true_from_world.apply(xyz).astype(np.float32), path, benchmark.cloud_reach)

    true = (_near(piece, path, benchmark.cloud_reach) for piece in sequence.cloud())
    try:
        return compare_clouds(thinned(estimated(), size, seed), thinned(true, size, seed), threshold)
    except ValueError as error:
        raise DriveError(f"{sequence.name}: {error}") from None


def _near(points: Cloud, path: np.ndarray, reach: float | None) -> Cloud:
    """The points (n, 3) at most `reach` metres from some camera of path (m, 3)."""
    if reach is None or not len(points):
        return points
    distance, _ = cKDTree(path).query(points, distance_upper_bound=reach)
    return points[np.isfinite(distance)]
