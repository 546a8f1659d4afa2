"""The real clip after refinement: it is near the truth, and COLMAP's bundle adjustment hardly changes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import export, reconstruct
from pipeline.evaluation.trajectory import align
from pipeline.synthetic.read import read_drive


@pytest.mark.full
def test_bundle_adjustment_from_the_export_hardly_moves_the_cameras(shared: Path, tmp_path: Path) -> None:
    """With the calibration held as in the drive, and with the free focal length that is pycolmap's default."""
    pycolmap = pytest.importorskip("pycolmap")
    clip = shared / "data" / "kitti" / "sequences" / "90"
    output = str(tmp_path / "out")
    assert reconstruct.main([str(clip), "--output", output]) == 0
    assert export.main([output, "90", "--format", "colmap", "--to", str(tmp_path / "to")]) == 0
    truth = read_drive(str(shared / "data" / "kitti"), "90").world_from_camera

    def placed(model: Any) -> np.ndarray:
        matrices = [model.images[number].cam_from_world().matrix() for number in sorted(model.images)]
        poses = np.linalg.inv(np.stack([np.vstack([matrix, [0, 0, 0, 1]]) for matrix in matrices]))
        return np.asarray(align(poses, truth, with_scale=True).transform_pose(poses)[:, :3, 3])

    for free in (False, True):
        model = pycolmap.Reconstruction(str(tmp_path / "to" / "sparse" / "0"))
        before = placed(model)
        assert np.sqrt(((before - truth[:, :3, 3]) ** 2).sum(1).mean()) < 0.045
        options = pycolmap.BundleAdjustmentOptions()
        if not free:
            options.refine_focal_length = options.refine_extra_params = False
        pycolmap.bundle_adjustment(model, options)
        assert np.linalg.norm(placed(model) - before, axis=1).max() < 0.02
    model.update_point_3d_errors()
    seen = [point for point in model.points3D.values() if point.track.length() >= 3]
    assert len(seen) >= 1000
    assert np.mean([point.error for point in seen]) < 0.6
