"""Oxford Spires (Tao et al. 2024): walks around historic buildings, fisheye cameras, laser-scanned sites.

The truth is the pose of the rig's base in the world of the scan, at about 20 Hz. The pose of a frame's camera is
computed from it by interpolation, the rig's fixed base-to-lidar transform and the calibrated lidar-to-camera transform.
Frames are rectified before they are reconstructed, because the network expects a pinhole camera.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from pipeline import storage
from pipeline.cameras.camera import Camera
from pipeline.cameras.rectify import View, remap_of
from pipeline.errors import DecodeError, DriveError
from pipeline.evaluation.associate import PosedFrames
from pipeline.evaluation.benchmarks.sequence import Benchmark, Sequence, image_names, named_truth, pose
from pipeline.evaluation.cloud_files import read_cloud
from pipeline.evaluation.clouds import Cloud
from pipeline.evaluation.metrics import FloatArray
from pipeline.evaluation.sources import read_poses
from pipeline.publish.poses import quaternion_from_rotation, rotation_from_quaternion, slerp

BASE_FROM_LIDAR = pose(np.diag([-1.0, -1.0, 1.0]), np.array([0.0, 0.0, 0.124]))
"""Of the rig (the data set's calibration notes): 0.124 m upwards, and a rotation by 180 degrees about z."""

REACH = 50.0
"""Metres. The scan of a site is larger than the part that one walk saw; points farther from the walk are not
compared."""

_CAMERA = "cam0"
_LONGEST_GAP_S = 0.1  # between two poses of the truth


def _find(data: str) -> tuple[str, ...]:
    root = storage.join(data, "sequences")
    return tuple(name for name in storage.list_folders(root) if storage.exists(storage.join(root, name, *_TRAJECTORY)))


_TRAJECTORY = ("processed", "trajectory", "gt-tum.txt")


def _read(data: str, name: str) -> Sequence:
    title = f"Oxford Spires {name}"
    folder = storage.join(data, "sequences", name)
    camera, camera_from_lidar = _calibration(storage.join(data, "calibration"), title)
    frames = storage.join(folder, "raw", _CAMERA)
    if not storage.exists(frames):
        raise DriveError(f"{title}: no {storage.redacted(frames)}; unpack raw/images.zip there")
    names = image_names(frames)
    try:
        times = np.array([float(one) for one in names])
    except ValueError:
        raise DriveError(f"{title}: images are named by their time in seconds, got {names[0]!r}") from None
    base = read_poses(storage.join(folder, *_TRAJECTORY))
    if base.timestamps_s is None:
        raise DriveError(f"{title}: gt-tum.txt: expected times and poses, 8 numbers per line")
    base_from_camera = BASE_FROM_LIDAR @ np.linalg.inv(camera_from_lidar)
    poses = {
        name: world_from_base @ base_from_camera
        for name, world_from_base in zip(names, interpolated(base, times), strict=True)
        if world_from_base is not None
    }
    truth = named_truth(title, names, poses)

    view = View(camera, camera.width, camera.height, camera.fx)  # a pinhole of the same focal length

    def rectify(target: Path) -> None:
        for uri in (file.uri for file in storage.list_files(frames)):
            stem, _, ending = storage.parent_and_name(uri)[1].rpartition(".")
            if stem not in names:
                continue
            try:
                with Image.open(io.BytesIO(storage.read_bytes(uri))) as image:
                    picture = image.convert("RGB")
            except (OSError, ValueError) as error:
                raise DecodeError(f"{title}, image {stem}.{ending}: {error}") from None
            if picture.size != (camera.width, camera.height):
                size = f"{camera.width}x{camera.height}"
                raise DecodeError(f"{title}, image {stem}.{ending}: expected {size}, as calibrated")
            Image.fromarray(remap_of(view).apply(picture)).save(target / f"{stem}.png")

    site = _site(data, name)

    def cloud() -> Iterator[Cloud]:
        assert site is not None
        yield from read_cloud(site)

    return Sequence(name, frames, truth, cloud if site is not None else None, rectify)


def interpolated(truth: PosedFrames, times: FloatArray) -> list[FloatArray | None]:
    """The pose (4, 4) at each of the times (n,); None outside the truth and in gaps of more than 0.1 s."""
    known = truth.timestamps_s
    assert known is not None
    after = np.clip(np.searchsorted(known, times), 1, len(known) - 1)
    span = known[after] - known[after - 1]
    share = np.clip((times - known[after - 1]) / span, 0, 1)
    quaternion = quaternion_from_rotation(truth.world_from_camera[:, :3, :3])
    rotation = rotation_from_quaternion(slerp(quaternion[after - 1], quaternion[after], share))
    position = truth.world_from_camera[:, :3, 3]
    there = position[after - 1] + share[:, None] * (position[after] - position[after - 1])
    good = (span <= _LONGEST_GAP_S) & (times >= known[0] - 1e-6) & (times <= known[-1] + 1e-6)
    return [pose(rotation[i], there[i]) if good[i] else None for i in range(len(times))]


def _calibration(folder: str, title: str) -> tuple[Camera, FloatArray]:
    """The camera and camera_from_lidar (4, 4)."""
    camera = _yaml(storage.join(folder, f"{_CAMERA}.yaml"), title)
    places = [storage.join(folder, name) for name in ("cam-lidar-imu.yaml", "cam-lidar.yaml")]
    extrinsics = next((one for one in places if storage.exists(one)), None)
    if extrinsics is None:
        raise DriveError(f"{title}: no cam-lidar-imu.yaml in {storage.redacted(folder)}")
    try:
        if camera["distortion_model"] != "equidistant":
            raise DriveError(f"{title}: expected the equidistant model, got {camera['distortion_model']}")
        matrix = np.array(camera["camera_matrix"]["data"], float).reshape(3, 3)
        fx, fy, cx, cy = matrix[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()
        bent = np.array(camera["distortion_coefficients"]["data"], float).reshape(4)
        size = int(camera["image_width"]), int(camera["image_height"])
        fisheye = Camera(
            "fisheye", *size, fx, fy, cx + 0.5, cy + 0.5, tuple(bent.tolist())
        )  # its pixel centres are at whole numbers
        moved = np.array(_yaml(extrinsics, title)[_CAMERA]["T_cam_lidar"], float).reshape(4, 4)
    except (KeyError, TypeError, ValueError) as error:
        raise DriveError(f"{title}: the calibration of {_CAMERA} is incomplete or wrong: {error}") from None
    return fisheye, moved


def _yaml(uri: str, title: str) -> Mapping[str, Any]:  # of any content; the caller checks it
    try:
        return yaml.safe_load(storage.read_bytes(uri))
    except yaml.YAMLError as error:
        raise DriveError(f"{title}: {storage.redacted(uri)}: {error}") from None


def _site(data: str, name: str) -> str | None:
    """The URI of the site's scan: 2024-03-12-keble-college-02 is a walk at keble-college. None if there is none."""
    root = storage.join(data, "ground_truth_map")
    if not storage.exists(root):
        return None
    place = name.split("-", 3)[-1].rpartition("-")[0]
    for folder in storage.list_folders(root):
        if folder.startswith(place) or place.startswith(folder):
            files = storage.list_files(storage.join(root, folder))
            clouds = [file.uri for file in files if file.name.endswith((".pcd", ".ply"))]
            merged = [uri for uri in clouds if "merged" in uri]
            return next(iter(merged or clouds), None)
    return None


OXFORD_SPIRES = Benchmark(
    name="oxford-spires",
    title="Oxford Spires",
    source="https://huggingface.co/datasets/ori-drs/oxford_spires_dataset (calibration, ground_truth_map, sequences)",
    layout="calibration/{cam0,cam-lidar-imu}.yaml, sequences/2024-03-12-keble-college-02/raw/cam0/<seconds>.jpg "
    "(images.zip unpacked), .../processed/trajectory/gt-tum.txt and ground_truth_map/keble-college/merged*.pcd",
    find=_find,
    read=_read,
    cloud_threshold=4.0,
    cloud_reach=REACH,
    published={
        "Scal3R": {"ate": 4.45, "rre": 7.87, "chamfer": 0.96, "f1": 0.96},
        "VGGT-Long": {"ate": 15.46, "rre": 30.91, "chamfer": 3.41, "f1": 0.80},
        "FastVGGT": {"chamfer": 2.76, "f1": 0.76},
        "TTT3R": {"ate": 31.57, "rre": 62.68},
        "CUT3R": {"ate": 28.01, "rre": 54.69},
    },
)
