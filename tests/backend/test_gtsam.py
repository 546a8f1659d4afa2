"""The same chunks and loops in gtsam (BSD): Sim(3) between factors, graduated non-convexity for the loops.

This comparison is the reason why the back end has its own solver. Its figures stand in pipeline/benchmark/README.md.
gtsam is not a dependency of the project: `pip install gtsam`, then `pytest -m full tests/backend/test_gtsam.py -s`.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pipeline.backend import BackendConfig, Sim3, join_chunks
from pipeline.backend.chunk import Chunk
from pipeline.backend.loop_residuals import loop_windows
from pipeline.backend.overlap import measure_overlap

CONFIG = BackendConfig()


def in_gtsam(gtsam: Any, one: Sim3) -> Any:
    """gtsam's similarity moves x to scale * (rotation x + translation)."""
    return gtsam.Similarity3(gtsam.Rot3(one.rotation), one.translation / one.scale, one.scale)


def from_gtsam(one: Any) -> Sim3:
    scale = float(one.scale())
    return Sim3(scale, one.rotation().matrix(), scale * np.asarray(one.translation()))


def true_relative(scenario: Any, first: Chunk, second: Chunk) -> Sim3:
    """first_from_second by the true trajectory, exact at the reference frames; scales from the length of the path."""
    truth = scenario.world_from_cam

    def gauge(chunk: Chunk) -> Sim3:
        world_from_reference = truth[chunk.frame_index[chunk.reference]]
        true, own = truth[chunk.frame_index][:, :3, 3], chunk.chunk_from_camera[:, :3, 3]
        ratio = np.linalg.norm(np.diff(true, axis=0), axis=1).sum() / np.linalg.norm(np.diff(own, axis=0), axis=1).sum()
        local = chunk.chunk_from_camera[chunk.reference]
        rotation = world_from_reference[:3, :3] @ local[:3, :3].T
        return Sim3(float(ratio), rotation, world_from_reference[:3, 3] - ratio * rotation @ local[:3, 3])

    return gauge(first).inverse() @ gauge(second)


def gtsam_poses(gtsam: Any, scenario: Any) -> tuple[np.ndarray, np.ndarray]:
    """Camera poses of all frames, and which loops it weighs above one half."""
    chunks = [Chunk.read(c, max_pixels=CONFIG.max_pixels) for c in scenario.chunks]
    edges = [measure_overlap(a, b, (k, k + 1), CONFIG).rigid_guess() for k, (a, b) in enumerate(pairwise(chunks))]
    # the true noise of the edges, which no back end can know
    errors = np.array(
        [
            gtsam.Similarity3.Logmap(in_gtsam(gtsam, edge.inverse() @ true_relative(scenario, a, b)))
            for edge, (a, b) in zip(edges, pairwise(chunks), strict=True)
        ]
    )
    sigma = np.sqrt((errors**2).mean(0))
    model = gtsam.noiseModel.Diagonal.Sigmas(sigma)
    graph, start = gtsam.NonlinearFactorGraph(), gtsam.Values()
    graph.add(gtsam.PriorFactorSimilarity3(0, gtsam.Similarity3(), gtsam.noiseModel.Isotropic.Sigma(7, 1e-6)))
    placed = [Sim3.identity()]
    for k, edge in enumerate(edges):
        graph.add(gtsam.BetweenFactorSimilarity3(k, k + 1, in_gtsam(gtsam, edge), model))
        placed.append(placed[-1] @ edge)
    for k, one in enumerate(placed):
        start.insert(k, in_gtsam(gtsam, one))
    trusted = graph.size()
    middle = np.array([(c.frame_index[0] + c.frame_index[-1]) / 2 for c in chunks])
    for raw, pair in zip(scenario.loop_chunks, scenario.loop_pairs, strict=True):
        loop = Chunk.read(raw, max_pixels=CONFIG.max_pixels)
        sides, homes = [], []
        for window, frame in zip(loop_windows(loop, pair), pair, strict=True):
            homes.append(int(np.abs(middle - frame).argmin()))
            only = np.arange(window.start, window.stop)
            sides.append(measure_overlap(chunks[homes[-1]], loop, (homes[-1], -1), CONFIG, only=only).rigid_guess())
        between = in_gtsam(gtsam, sides[0] @ sides[1].inverse())
        loop_model = gtsam.noiseModel.Diagonal.Sigmas(sigma * 2**0.5)  # two alignments
        graph.add(gtsam.BetweenFactorSimilarity3(homes[0], homes[1], between, loop_model))
    weights = np.ones(0)
    if graph.size() > trusted:
        settings = gtsam.GncLMParams(gtsam.LevenbergMarquardtParams())
        settings.setKnownInliers(list(range(trusted)))
        optimizer = gtsam.GncLMOptimizer(graph, start, settings)
        optimizer.setInlierCostThresholdsAtProbability(CONFIG.loop_confidence)
        solved = optimizer.optimize()
        weights = np.asarray(optimizer.getWeights())[trusted:]
    else:
        solved = gtsam.LevenbergMarquardtOptimizer(graph, start).optimize()
    poses = np.zeros((len(scenario.world_from_cam), 4, 4))
    for number, chunk in enumerate(chunks):
        mine = chunk.frame_index >= chunk.frame_index[0] + (15 if number else 0)
        world_from_chunk = from_gtsam(solved.atSimilarity3(number))
        poses[chunk.frame_index[mine]] = world_from_chunk.transform_pose(chunk.chunk_from_camera[mine])
    return poses, weights > 0.5


@pytest.mark.full
@pytest.mark.parametrize("false_loops", [0, 4, 12])
def test_joining_is_nearer_to_the_truth_than_a_pose_graph_of_gtsam(
    make: Callable[..., Any], drives: ModuleType, false_loops: int
) -> None:
    gtsam = pytest.importorskip("gtsam", reason="gtsam is no dependency: pip install gtsam")
    scenario = make(seed=0, false_loops=false_loops)
    begin = time.process_time()
    poses, kept = gtsam_poses(gtsam, scenario)
    middle = time.process_time()
    ours = join_chunks(scenario.chunks, loop_chunks=scenario.loop_chunks, loop_pairs=scenario.loop_pairs)
    end = time.process_time()
    theirs = drives.ate(poses, scenario.world_from_cam)
    mine = drives.ate(ours.world_from_camera, scenario.world_from_cam)
    false = np.array(scenario.false_loop)
    print(
        f"\nseed 0, {false_loops} false loops: gtsam {theirs:.2f} m in {middle - begin:.1f} s of CPU, "
        f"{kept[~false].sum()} of {(~false).sum()} true and {kept[false].sum()} false loops kept; "
        f"ours {mine:.2f} m in {end - middle:.1f} s"
    )
    assert mine < theirs
