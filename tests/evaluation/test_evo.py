"""Agreement with the evo package, on the stored pair of KITTI 00 and on random trajectories."""

import copy
import json

import numpy as np
import pytest

from pipeline.evaluation import evaluate_trajectory, read_poses
from pipeline.evaluation.associate import match_times
from tests.evaluation.paths import drifted, moved, walk

metrics = pytest.importorskip("evo.core.metrics")
from evo.core import sync, trajectory  # noqa: E402

EVO_PAIRS = {
    "over_1_frame": (1, metrics.Unit.frames, True),
    "over_10_frames": (10, metrics.Unit.frames, True),
    "over_1m": (1.0, metrics.Unit.meters, True),
    "over_100m": (100.0, metrics.Unit.meters, True),
    "over_100m_of_estimate": (100.0, metrics.Unit.meters, False),
}


def test_the_stored_numbers_of_kitti_00_are_reproduced(shared):
    folder = shared / "data" / "trajectories"
    expected = json.loads((folder / "KITTI_00_ORB.expected.json").read_text())
    estimate, truth = (
        read_poses(str(folder / name)).world_from_camera for name in ("KITTI_00_ORB.txt", "KITTI_00_gt.txt")
    )
    result = evaluate_trajectory(estimate, truth)
    assert result.poses == expected["n"]
    assert result.path_length == pytest.approx(expected["path_length_m"], rel=1e-9)
    for name, errors in (("se3", result.se3), ("sim3", result.sim3)):
        assert errors.ate.rmse == pytest.approx(expected[f"ate_rmse_{name}"], rel=1e-9)
        rpe = errors.rpe.over_100m_of_estimate
        # The files' rotations are rounded to six digits, so the result depends on the order of products.
        assert rpe.translation_mean == pytest.approx(expected[f"rpe100m_trans_mean_{name}"], rel=1e-6)
        assert rpe.rotation_mean == pytest.approx(expected[f"rpe100m_rot_deg_mean_{name}"], rel=1e-6)


@pytest.mark.parametrize(("seed", "scale"), [(0, 1.0), (1, 0.2), (2, 1.3)])
def test_random_trajectories_have_the_same_errors_as_in_evo(seed, scale):
    truth = walk(140, seed)
    estimate = moved(drifted(truth, seed + 50, position=0.03), scale, seed)
    result = evaluate_trajectory(estimate, truth)
    reference = trajectory.PosePath3D(poses_se3=list(truth))
    for errors, correct_scale in ((result.se3, False), (result.sim3, True)):
        path = trajectory.PosePath3D(poses_se3=list(copy.deepcopy(estimate)))
        _, _, found_scale = path.align(reference, correct_scale=correct_scale)
        assert errors.scale == pytest.approx(found_scale)
        ape = metrics.APE(metrics.PoseRelation.translation_part)
        ape.process_data((reference, path))
        said = ape.get_all_statistics()
        assert (errors.ate.rmse, errors.ate.mean, errors.ate.median, errors.ate.maximum) == pytest.approx(
            (said["rmse"], said["mean"], said["median"], said["max"])
        )
        for name, (delta, unit, from_reference) in EVO_PAIRS.items():
            ours = getattr(errors.rpe, name)
            for kind, relation in (
                ("translation", metrics.PoseRelation.translation_part),
                ("rotation", metrics.PoseRelation.rotation_angle_deg),
            ):
                rpe = metrics.RPE(relation, delta, unit, all_pairs=True, pairs_from_reference=from_reference)
                try:
                    rpe.process_data((reference, path))
                except Exception:  # evo raises this if there are no pairs
                    rpe.error = np.zeros(0)
                assert ours.pairs == len(rpe.error)
                if ours.pairs:
                    said = rpe.get_all_statistics()
                    assert getattr(ours, f"{kind}_rmse") == pytest.approx(said["rmse"])
                    assert getattr(ours, f"{kind}_mean") == pytest.approx(said["mean"])


def test_frames_are_matched_by_time_as_in_evo():
    rng = np.random.default_rng(3)
    first = np.arange(60) * 0.1 + rng.uniform(-0.02, 0.02, 60)
    second = np.delete(np.arange(80) * 0.1 + rng.uniform(-0.02, 0.02, 80), [5, 17, 18, 40])
    ours = match_times(first, second, 0.015)
    theirs = sync.matching_time_indices(first, second, 0.015)
    assert [list(side) for side in ours] == [list(side) for side in theirs]
    assert 10 < len(ours[0]) < 60
