"""Reconstructs the sequences of a benchmark in one run over many drives and compares them with their truth."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Listed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from pipeline import storage
from pipeline.common.progress import Reporter
from pipeline.config import RunConfig
from pipeline.errors import DriveError, PipelineError
from pipeline.evaluation import Comparison, align, compare, evaluate, open_estimate
from pipeline.evaluation.benchmarks import Benchmark, Sequence
from pipeline.evaluation.benchmarks.scores import FULL, VARIANTS, Score
from pipeline.evaluation.clouds import Cloud, CloudErrors, compare_clouds, thinned
from pipeline.evaluation.peak_memory import PeakMemory
from pipeline.evaluation.sources import Truth
from pipeline.fleet.discover.drive_ref import DriveRef
from pipeline.fleet.records.ledger import DriveRow
from pipeline.fleet.run import run_fleet
from pipeline.publish import Manifest, PublishedDrive, read_manifest

_CUBES = 10  # clouds are thinned to one point per cube, whose side is the threshold divided by this
_SCORES, _FRAMES, _RECTIFIED = "_scores", "_frames", "rectified.json"


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
    command: Listed[str] = (),
) -> list[Score]:
    """Score every sequence with the whole method, and without each part in `ablate` (gcs, gcm, loops).

    Each variant is one run over all sequences, published below <output>/<benchmark>/<variant>/. Results that exist with
    the same settings are kept. The score of a sequence that fails contains the reason; the others continue.
    config.input, output and drive_id are set here; command: the command line, for the ledger; told: called with each
    score. Raises DriveError if the data set does not exist, StorageError if the output cannot be written.
    """
    names = benchmark.sequences(data, sequences)
    data = storage.absolute(data)
    scores = []
    for variant in (FULL, *ablate):
        run = VARIANTS[variant](config)
        place = storage.join(storage.absolute(output), benchmark.name, variant)
        found: dict[str, Sequence] = {}
        refs: list[DriveRef] = []
        failed: dict[str, str] = {}
        for name in names:
            try:
                sequence = found[name] = benchmark.read(data, name)
                refs.append(DriveRef(sequence.drive_id, _rectified(benchmark, sequence, place)))
            except (PipelineError, ValueError) as error:
                failed[name] = " ".join(str(error).split())
        rows, peak = _reconstructed(replace(run, input=data, output=place), refs, command)
        for name in names:
            try:
                if name in failed:
                    raise DriveError(failed[name])
                score = _score(benchmark, found[name], variant, place, rows[found[name].drive_id], peak, seed)
            except (PipelineError, ValueError) as error:
                score = Score(name, variant, failed=" ".join(str(error).split()))
            scores.append(score)
            told(score)
    return scores


def _reconstructed(config: RunConfig, refs: list[DriveRef], command: Listed[str]) -> tuple[Mapping[str, DriveRow], int]:
    """Run all drives; returns the outcome of each and the peak memory of the run in bytes. Raises KeyboardInterrupt if
    the run was interrupted."""
    if not refs:
        return {}, 0
    with Reporter() as reporter, PeakMemory() as memory:
        state = run_fleet(config, refs, reporter, command=command)
    if state.info.state == "interrupted":
        raise KeyboardInterrupt
    if state.info.message:
        raise DriveError(state.info.message)
    return state.rows, memory.peak


def _score(
    benchmark: Benchmark, sequence: Sequence, variant: str, place: str, row: DriveRow, peak: int, seed: int
) -> Score:
    if row.state not in ("published", "skipped"):
        raise DriveError(row.reason or f"drive {sequence.drive_id} is {row.state}")
    note = storage.join(place, _SCORES, f"{sequence.drive_id}.json")
    manifest = read_manifest(place, sequence.drive_id)
    known = _stored_score(note)
    if known is not None and known.identity != manifest.identity:
        known = None
    made_now = row.state == "published"
    if known is not None and known.seed == seed and not made_now:
        return known.score
    spent = sum(seconds for stage, seconds in row.seconds.items() if stage != "find")  # finding is not included
    cost = (spent, peak) if made_now else (known.score.seconds, known.score.peak_memory) if known else (None, None)
    score = _evaluated(benchmark, sequence, variant, place, manifest, cost, seed)
    text = json.dumps(asdict(_StoredScore(manifest.identity, seed, score)), indent=1)
    storage.write_bytes_atomically(note, text.encode())
    return score


def _rectified(benchmark: Benchmark, sequence: Sequence, place: str) -> str:
    """The folder of frames to reconstruct: the data set's own, or rectified ones, which are made once for all
    variants."""
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


@dataclass(frozen=True)
class _StoredScore:
    """An earlier score of the result with this identity, as it is stored with the results."""

    identity: str
    seed: int
    score: Score


def _stored_score(uri: str) -> _StoredScore | None:
    """An earlier score; None if there is none that can be read."""
    try:
        return storage.parse_record(storage.read_bytes(uri), _StoredScore, "earlier score")
    except (storage.NotFoundError, storage.DamagedError):
        return None


def _evaluated(
    benchmark: Benchmark,
    sequence: Sequence,
    variant: str,
    place: str,
    manifest: Manifest,
    cost: tuple[float | None, int | None],
    seed: int,
) -> Score:
    estimate = open_estimate(place, sequence.drive_id)
    comparison = compare(estimate, Truth(sequence.frames, sequence.truth))
    result = evaluate(comparison, with_depth=False).trajectory.sim3
    clouds = None
    if benchmark.cloud_threshold is not None and sequence.cloud is not None and manifest.counts.points:
        assert estimate.drive is not None
        clouds = _clouds(benchmark, sequence, estimate.drive, comparison, benchmark.cloud_threshold, seed)
    seconds, peak = cost
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
    """Compare the published points with the true cloud, in the truth's world; both are thinned in the same way, and
    points far from the camera's path are left out."""
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
    """The points (n, 3) that are at most `reach` metres from a camera position in path (m, 3)."""
    if reach is None or not len(points):
        return points
    distance, _ = cKDTree(path).query(points, distance_upper_bound=reach)
    return points[np.isfinite(distance)]
