"""nerfstudio's transforms.json, and a PLY file with the points.

nerfstudio's cameras have OpenGL axes (x right, y up, z back) and its world has z up; `applied_transform` is the
transform from our world to that one. The points are written in nerfstudio's world too: its parser applies the same
further transform to points and cameras.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pipeline.cameras.camera import Camera
from pipeline.errors import DriveError
from pipeline.publish.exports.ply import write_ply
from pipeline.publish.exports.source import ExportSource

APPLIED = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]])
"""nerfstudio's world from ours (3, 4): x stays right, our z (forward) becomes y, our -y (up) becomes z."""

_GL_FROM_CV = np.diag([1.0, -1.0, -1.0, 1.0])
_POINTS = "sparse_pc.ply"


def write_nerfstudio(source: ExportSource, folder: Path) -> int:
    """Write transforms.json and sparse_pc.ply; returns the number of frames. Images are expected in images/.

    Raises DriveError for a lens for which nerfstudio has no model.
    """
    cameras = source.cameras
    applied = APPLIED if source.drive.origin is None else np.eye(4)[:3]  # east, north, up has z up already
    models = source.cameras.models
    lenses = [_lens(source, one) for one in models or (source.cameras.lens,)]
    model, lens = lenses[0]
    if any(one != model for one, _ in lenses):
        raise DriveError(
            f"drive {source.drive.manifest.drive_id}: nerfstudio has one camera model for all frames, and this drive "
            f"has {', '.join(dict.fromkeys(one for one, _ in lenses))}; export it with --undistorted"
        )
    poses = np.vstack([applied, [0, 0, 0, 1]]) @ cameras.world_from_camera @ _GL_FROM_CV
    frames = []
    for place, name in enumerate(source.names):
        fx, fy, cx, cy = cameras.intrinsics[place].tolist()
        width, height = cameras.sizes[place].tolist()
        frames.append(
            {
                "file_path": f"images/{name}",
                "fl_x": fx,
                "fl_y": fy,
                "cx": cx,
                "cy": cy,
                "w": width,
                "h": height,
                "transform_matrix": poses[place].tolist(),
                **(lenses[cameras.frame_index[place] % len(models)][1] if models else {}),
            }
        )
    values = {
        "camera_model": model,
        **({} if models else lens),
        "applied_transform": applied.tolist(),
        "frames": frames,
    }
    if source.drive.manifest.counts.points:
        write_ply(source, folder / _POINTS, plain=True, rotation=applied[:, :3], world="of transforms.json, z up")
        values["ply_file_path"] = _POINTS
    (folder / "transforms.json").write_text(json.dumps(values, indent=1) + "\n")
    return len(frames)


def _lens(source: ExportSource, lens: Camera | None) -> tuple[str, dict[str, float]]:
    """nerfstudio's camera model and its distortion."""
    if lens is None or lens.is_pinhole:
        return "OPENCV", {}
    if lens.model == "equirectangular":
        return "EQUIRECTANGULAR", {}
    if lens.model == "fisheye":
        return "OPENCV_FISHEYE", dict(zip(("k1", "k2", "k3", "k4"), lens.params, strict=True))
    if lens.model == "radtan" and not any(lens.params[5:]):
        return "OPENCV", dict(zip(("k1", "k2", "p1", "p2", "k3"), lens.params, strict=False))
    raise DriveError(
        f"drive {source.drive.manifest.drive_id}: nerfstudio has no {lens.model} lens of {len(lens.params)} "
        "parameters; export it with --undistorted"
    )
