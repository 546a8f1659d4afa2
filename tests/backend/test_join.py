"""Chunks become one trajectory: accurate, robust against wrong loops and bad input, and always finite."""

import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pipeline.backend import BackendConfig, JoinResult, Sim3, join_chunks
from pipeline.backend.chunk import Chunk, Shared
from pipeline.backend.overlap import measure_overlap
from pipeline.errors import AlignmentError
from tests.backend.align import align_points


def with_loops(scenario: Any, **settings: Any) -> JoinResult:
    return join_chunks(scenario.chunks, loop_chunks=scenario.loop_chunks, loop_pairs=scenario.loop_pairs, **settings)


def plain_chain(scenario: Any) -> np.ndarray:
    """The published method: each Sim(3) from points of the overlap, one after the other."""
    chunks = [Chunk.read(c) for c in scenario.chunks]
    placed = [Sim3.identity()]
    poses = np.zeros((len(scenario.world_from_cam), 4, 4))
    for number, chunk in enumerate(chunks):
        if number:
            before = chunks[number - 1]
            placed.append(placed[-1] @ align_points(before, chunk, Shared.of(before, chunk)))
        mine = chunk.frame_index >= chunk.frame_index[0] + (15 if number else 0)
        poses[chunk.frame_index[mine]] = placed[-1].transform_pose(chunk.chunk_from_camera[mine])
    return poses


def healthy(result: JoinResult) -> None:
    """Finite, orthonormal, starting at the identity."""
    poses = result.world_from_camera
    assert np.isfinite(poses).all() and np.isfinite(result.depth_scale).all()
    rotation = poses[:, :3, :3]
    assert np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max() < 1e-9
    np.testing.assert_allclose(poses[0], np.eye(4), atol=1e-9)
    assert (np.diff(result.frame_index) > 0).all() and (result.depth_scale > 0).all()


def test_the_robust_start_equals_the_plain_alignment_on_clean_data(make: Callable[..., Any]) -> None:
    chunks = [Chunk.read(c) for c in make(seed=3, limit=150, noise=1e-4, loops=0).chunks]
    for number, (a, b) in enumerate(pairwise(chunks)):
        overlap = measure_overlap(a, b, (number, number + 1), BackendConfig())
        assert overlap is not None
        plain = align_points(a, b, Shared.of(a, b))
        np.testing.assert_allclose(overlap.rigid_guess().matrix(), plain.matrix(), atol=2e-3)


def test_chunks_without_errors_give_the_true_trajectory(make: Callable[..., Any], drives: ModuleType) -> None:
    scenario = make(seed=1, limit=400, noise=1e-3, loops=0)
    result = join_chunks(scenario.chunks)
    healthy(result)
    assert drives.ate(result.world_from_camera, scenario.world_from_cam) < 0.01
    assert result.frame_index.tolist() == list(range(400))
    assert (np.bincount(result.owner)[1:-1] == 30).all()


def test_depth_scale_brings_all_depths_to_one_unit(make: Callable[..., Any]) -> None:
    scenario = make(seed=5, limit=400, loops=0)
    result = join_chunks(scenario.chunks)
    unit = []
    for number, chunk in enumerate(scenario.chunks):
        for position, frame in enumerate(chunk.frame_index):
            if result.owner[frame] == number:
                true = drives_depth(scenario, frame)
                unit.append(np.median(chunk.depth[position] * result.depth_scale[frame] / true))
    assert np.std(np.log(unit)) < 0.02


def drives_depth(scenario: Any, frame: int) -> np.ndarray:
    import chunked_drive

    return chunked_drive._true_depth(int(frame), 8, 20)


@pytest.mark.parametrize("seed", [0, 4])
def test_a_chain_is_at_most_three_quarters_of_the_plain_error(
    make: Callable[..., Any], drives: ModuleType, seed: int
) -> None:
    scenario = make(seed=seed, limit=1500, loops=0)
    result = join_chunks(scenario.chunks)
    ours = drives.ate(result.world_from_camera, scenario.world_from_cam)
    assert ours < 0.75 * drives.ate(plain_chain(scenario), scenario.world_from_cam)


def test_wrong_loops_are_rejected_with_a_reason_and_true_loops_reduce_the_error(
    make: Callable[..., Any], drives: ModuleType
) -> None:
    scenario = make(seed=2, limit=2400, loops=8, false_loops=6)
    chain = join_chunks(scenario.chunks)
    result = with_loops(scenario)
    healthy(result)
    assert [not one.accepted for one in result.loops] == scenario.false_loop
    assert all(one.reason for one in result.loops)
    assert all("contradicts" in one.reason for one in result.loops if not one.accepted)
    error = drives.ate(result.world_from_camera, scenario.world_from_cam)
    assert error < 0.75 * drives.ate(chain.world_from_camera, scenario.world_from_cam)
    scenario.loop_chunks, scenario.loop_pairs = scenario.loop_chunks[:-6], scenario.loop_pairs[:-6]
    assert error < 1.1 * drives.ate(with_loops(scenario).world_from_camera, scenario.world_from_cam)


def test_where_all_loops_are_wrong_the_chain_is_the_result(make: Callable[..., Any], drives: ModuleType) -> None:
    scenario = make(seed=6, limit=900, loops=0, false_loops=5)
    chain = drives.ate(join_chunks(scenario.chunks).world_from_camera, scenario.world_from_cam)
    wrong = [number for number, false in enumerate(scenario.false_loop) if false]
    scenario.loop_chunks = [scenario.loop_chunks[n] for n in wrong]
    scenario.loop_pairs = [scenario.loop_pairs[n] for n in wrong]
    result = with_loops(scenario)
    assert not any(one.accepted for one in result.loops)
    assert drives.ate(result.world_from_camera, scenario.world_from_cam) < 1.1 * chain + 0.05


def bent_drive(folder: Path, make: Callable[..., Any], drives: ModuleType, rate: float) -> Any:
    """All chunks see the drive bent by `rate` (radians per frame), so they agree with each other and are wrong; loop
    chunks see the true drive."""
    right = make(seed=3, limit=1700, loops=3)
    truth = right.world_from_cam
    angle = rate * np.arange(len(truth))
    turn = np.tile(np.eye(3), (len(truth), 1, 1))
    turn[:, 0, 0] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 0, 2], turn[:, 2, 0] = np.sin(angle), -np.sin(angle)
    steps = np.einsum("nij,nj->ni", turn[:-1], np.diff(truth[:, :3, 3], axis=0))
    bent = truth.copy()
    bent[:, :3, :3] = turn @ truth[:, :3, :3]
    bent[1:, :3, 3] = truth[0, :3, 3] + np.cumsum(steps, axis=0)
    np.savetxt(folder / "bent.txt", bent[:, :3].reshape(-1, 12))
    wrong = drives.make_scenario(str(folder / "bent.txt"), seed=3, limit=1700, loops=0)
    right.chunks = wrong.chunks
    return right


def test_loops_are_accepted_where_overlaps_do_not_show_the_errors_of_the_chain(
    tmp_path: Path, make: Callable[..., Any], drives: ModuleType
) -> None:
    right = bent_drive(tmp_path, make, drives, 0.00005)
    assert right.loop_chunks
    before = drives.ate(join_chunks(right.chunks).world_from_camera, right.world_from_cam)
    result = with_loops(right)
    assert before > 2
    assert any(one.accepted for one in result.loops)
    assert drives.ate(result.world_from_camera, right.world_from_cam) < 0.7 * before
    blind = BackendConfig(unseen_turn=0, unseen_scale=0, unseen_place=0, unseen_lean=0, unseen_growth=0)
    assert not any(one.accepted for one in with_loops(right, config=blind).loops)


def test_where_the_chain_has_a_trend_loops_that_agree_are_accepted_and_a_single_loop_is_not(
    tmp_path: Path, make: Callable[..., Any], drives: ModuleType
) -> None:
    right = bent_drive(tmp_path, make, drives, 0.00015)
    before = drives.ate(join_chunks(right.chunks).world_from_camera, right.world_from_cam)
    result = with_loops(right)
    assert sum(one.accepted for one in result.loops) >= 2
    assert drives.ate(result.world_from_camera, right.world_from_cam) < 0.5 * before
    assert not any(one.accepted for one in with_loops(right, config=BackendConfig(unseen_lean=0)).loops)
    right.loop_chunks, right.loop_pairs = right.loop_chunks[:1], right.loop_pairs[:1]
    assert not with_loops(right).loops[0].accepted


@pytest.mark.slow
@pytest.mark.parametrize("seed", [5, 7])
def test_on_a_long_drive_all_of_a_few_wrong_loops_are_rejected_without_a_true_one(
    seed: int, make: Callable[..., Any], drives: ModuleType
) -> None:
    scenario = make(seed=seed, false_loops=4)
    scenario.loop_chunks, scenario.loop_pairs = scenario.loop_chunks[-4:], scenario.loop_pairs[-4:]
    assert not any(one.accepted for one in with_loops(scenario).loops)


def test_chunks_without_drift_are_not_made_worse(make: Callable[..., Any], drives: ModuleType) -> None:
    scenario = make(seed=7, limit=900, loops=0)
    for chunk in scenario.chunks:  # exact cameras with white noise only
        rng = np.random.default_rng(int(chunk.frame_index[0]))
        pose = np.linalg.inv(scenario.world_from_cam[chunk.frame_index]) @ scenario.world_from_cam[chunk.frame_index[0]]
        pose[:, :3, 3] += rng.normal(0, 0.01, (len(pose), 3))
        chunk.cam_from_world = pose[:, :3]
        chunk.depth = np.stack([drives_depth(scenario, f) for f in chunk.frame_index])
        chunk.depth = chunk.depth * rng.normal(1, 0.02, chunk.depth.shape)
    with_drift = join_chunks(scenario.chunks)
    without = join_chunks(scenario.chunks, config=BackendConfig(drift=False))
    errors = [drives.ate(r.world_from_camera, scenario.world_from_cam) for r in (with_drift, without)]
    assert errors[0] < errors[1] + 0.5


def test_the_order_of_frames_in_a_chunk_does_not_matter(make: Callable[..., Any]) -> None:
    scenario = make(seed=8, limit=250, loops=0)
    first = join_chunks(scenario.chunks)
    for chunk in scenario.chunks:
        order = np.argsort(chunk.frame_index)
        for name in ("frame_index", "cam_from_world", "depth", "confidence"):
            setattr(chunk, name, getattr(chunk, name)[order])
        chunk.intrinsics = np.broadcast_to(chunk.intrinsics, (len(order), 3, 3))
    again = join_chunks(scenario.chunks)
    np.testing.assert_allclose(first.world_from_camera, again.world_from_camera, atol=1e-6)


def test_rigid_joining_keeps_the_networks_scale(make: Callable[..., Any], drives: ModuleType) -> None:
    scenario = make(seed=9, limit=600, loops=0)
    for chunk in scenario.chunks:  # a metric network: undo the arbitrary scale of each gauge
        local = scenario.world_from_cam[chunk.frame_index]
        true = np.linalg.norm(local[:, :3, 3] - local[0, :3, 3], axis=1).sum()
        scale = true / np.linalg.norm(chunk.cam_from_world[:, :, 3], axis=1).sum()
        chunk.cam_from_world = chunk.cam_from_world.copy()
        chunk.cam_from_world[:, :, 3] *= scale
        chunk.depth = chunk.depth * scale
    result = join_chunks(scenario.chunks, config=BackendConfig(scale=False))
    healthy(result)
    np.testing.assert_allclose([one.scale for one in result.world_from_chunk], 1.0, atol=1e-6)
    assert drives.ate(result.world_from_camera, scenario.world_from_cam) < 5


@dataclass
class Lazy(Sequence[Any]):
    """Chunks that are made on access; counts how many exist at the same time."""

    chunks: list[Any]

    def __post_init__(self) -> None:
        self.living: weakref.WeakSet[Any] = weakref.WeakSet()
        self.most = 0

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, number: Any) -> Any:
        gc.collect()
        made = replace(self.chunks[number], depth=self.chunks[number].depth.copy())
        self.living.add(made)
        self.most = max(self.most, len(self.living))
        return made


Lazy.__hash__ = object.__hash__  # type: ignore[assignment]


def test_few_chunks_are_in_memory_at_a_time(make: Callable[..., Any]) -> None:
    scenario = make(seed=1, limit=400, loops=0, false_loops=2)
    for chunk in scenario.chunks:
        chunk.__class__.__hash__ = object.__hash__
    lazy = Lazy(scenario.chunks)
    result = join_chunks(lazy, loop_chunks=scenario.loop_chunks, loop_pairs=scenario.loop_pairs)
    assert lazy.most <= 3
    held = sum(x.nbytes for x in vars(result).values() if isinstance(x, np.ndarray))
    assert held < 300 * len(result.frame_index)


def test_fewer_pixels_per_frame_give_the_same_accuracy(make: Callable[..., Any], drives: ModuleType) -> None:
    scenario = make(seed=2, limit=900, loops=0, height=24, width=60)
    errors = [
        drives.ate(
            join_chunks(scenario.chunks, config=BackendConfig(max_pixels=m)).world_from_camera, scenario.world_from_cam
        )
        for m in (400, 1440)
    ]
    assert errors[0] < 1.25 * errors[1] + 0.1


# --- degenerate input gives a result, or an error that names the cause


def small(make: Callable[..., Any], **settings: Any) -> Any:
    return make(seed=4, limit=120, loops=0, **settings)


def test_one_chunk_alone_is_the_trajectory(make: Callable[..., Any], drives: ModuleType) -> None:
    scenario = make(seed=0, limit=40, loops=0)
    result = join_chunks(scenario.chunks)
    healthy(result)
    assert result.edges == () and drives.ate(result.world_from_camera, scenario.world_from_cam) < 0.5


def test_chunks_of_two_frames_with_one_in_common_join(make: Callable[..., Any]) -> None:
    result = join_chunks(make(seed=0, limit=6, chunk_size=2, overlap=1, loops=0).chunks, overlap=1)
    healthy(result)
    assert len(result.frame_index) == 6


def test_a_chunk_of_identical_frames_joins(make: Callable[..., Any]) -> None:
    scenario = small(make)
    chunk = scenario.chunks[1]
    chunk.cam_from_world = np.broadcast_to(np.eye(4, dtype=np.float32)[:3], chunk.cam_from_world.shape)
    healthy(join_chunks(scenario.chunks))


@pytest.mark.parametrize("fault", ["nan depth", "zero confidence", "negative depth", "infinite confidence"])
def test_an_overlap_without_usable_depth_joins_with_less_confidence(make: Callable[..., Any], fault: str) -> None:
    scenario = small(make)
    chunk = scenario.chunks[1]
    shared = chunk.frame_index < 60
    chunk.depth, chunk.confidence = chunk.depth.copy(), chunk.confidence.copy()
    if fault == "nan depth":
        chunk.depth[shared] = np.nan
    elif fault == "negative depth":
        chunk.depth[shared] = -1
    elif fault == "infinite confidence":
        chunk.confidence[shared] = np.inf
    else:
        chunk.confidence[shared] = 0
    result = join_chunks(scenario.chunks)
    healthy(result)
    assert result.edges[0].inliers == 0 and result.edges[1].inliers > 0.5


def test_nothing_but_nan_depth_still_gives_a_trajectory(make: Callable[..., Any]) -> None:
    scenario = small(make)
    for chunk in scenario.chunks:
        chunk.depth = np.full_like(chunk.depth, np.nan)
    healthy(join_chunks(scenario.chunks))


def test_a_missing_overlap_is_bridged_and_reported(make: Callable[..., Any], drives: ModuleType) -> None:
    scenario = make(seed=0, limit=120, chunk_size=40, overlap=0, loops=0)
    result = join_chunks(scenario.chunks, overlap=10)
    healthy(result)
    assert all(edge.bridged and edge.frames == 0 and edge.weight == 0 for edge in result.edges)
    assert drives.ate(result.world_from_camera, scenario.world_from_cam) < 10


def test_bad_frames_are_ignored_and_get_an_interpolated_pose(make: Callable[..., Any], drives: ModuleType) -> None:
    scenario = small(make)
    for chunk in scenario.chunks:
        chunk.ok = ~np.isin(chunk.frame_index, [44, 45, 46])
        chunk.cam_from_world = chunk.cam_from_world.copy()
        chunk.cam_from_world[~chunk.ok, :, 3] += 40
    result = join_chunks(scenario.chunks)
    healthy(result)
    assert np.nonzero(result.filled)[0].tolist() == [44, 45, 46]
    assert drives.ate(result.world_from_camera, scenario.world_from_cam) < 0.5


def test_a_pose_that_is_not_finite_raises_an_error_that_names_its_frame(make: Callable[..., Any]) -> None:
    scenario = small(make)
    scenario.chunks[1].cam_from_world = scenario.chunks[1].cam_from_world * np.nan
    with pytest.raises(AlignmentError, match=r"pose of frame \d+ is not finite"):
        join_chunks(scenario.chunks)


def test_missing_chunks_and_chunks_out_of_order_raise_an_error_that_says_so(make: Callable[..., Any]) -> None:
    with pytest.raises(AlignmentError, match="at least one chunk"):
        join_chunks([])
    with pytest.raises(AlignmentError, match="in order of time"):
        join_chunks(small(make).chunks[::-1])


def test_a_loop_that_cannot_be_read_is_rejected_and_the_drive_is_joined(make: Callable[..., Any]) -> None:
    scenario = make(seed=1, limit=400, loops=0, false_loops=1)
    loop = scenario.loop_chunks[0]
    i, _ = scenario.loop_pairs[0]
    loop.cam_from_world = loop.cam_from_world * np.nan
    result = join_chunks(scenario.chunks, loop_chunks=[loop, loop], loop_pairs=[scenario.loop_pairs[0], (i, 10**6)])
    healthy(result)
    assert [one.accepted for one in result.loops] == [False, False]
    assert "not finite" in result.loops[0].reason and "no chunk" in result.loops[1].reason


def test_invalid_settings_are_refused() -> None:
    for wrong in ({"max_pixels": 0}, {"huber_delta": 0}, {"confidence_floor": 1}, {"loop_confidence": 1}):
        with pytest.raises(ValueError):
            BackendConfig(**wrong)


# --- full size: the table


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed, noise, chain, loops",
    [
        pytest.param(0, 1, 16.27, 2.97, marks=pytest.mark.full),
        pytest.param(1, 1, 15.92, 3.16, marks=pytest.mark.full),
        pytest.param(2, 1, 22.11, 4.58, marks=pytest.mark.full),
        pytest.param(0, 2, 33.06, 6.19, marks=pytest.mark.full),
    ],
)
def test_at_full_size_the_error_is_below_half_of_the_published_method(
    make: Callable[..., Any], drives: ModuleType, seed: int, noise: float, chain: float, loops: float
) -> None:
    for false_loops in (0, 4, 12):
        scenario = make(seed=seed, noise=noise, false_loops=false_loops)
        result = with_loops(scenario)
        assert [not one.accepted for one in result.loops] == scenario.false_loop
        assert drives.ate(result.world_from_camera, scenario.world_from_cam) < 0.5 * loops
    alone = join_chunks(scenario.chunks)
    assert drives.ate(alone.world_from_camera, scenario.world_from_cam) < 0.5 * chain
