"""Virtual KITTI 2 (Cabon et al. 2020): rendered drives with exact poses and depth."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from pipeline import storage
from pipeline.errors import DriveError
from pipeline.evaluation.benchmarks.sequence import Benchmark, Sequence, image_names, named_truth, text_rows
from pipeline.evaluation.clouds import Cloud
from pipeline.evaluation.metrics import FloatArray

REACH = 80.0
"""Metres. The sky has depth 655.35; points farther away than this are not compared."""

_SCENES = ("Scene01", "Scene02", "Scene06", "Scene18", "Scene20")
_CAMERA = "Camera_0"
_PARTS = ("rgb", "depth", "textgt")
_DEPTH_PER_METRE = 100.0


def _part(data: str, part: str, name: str) -> str:
    """The folder of a sequence; the archives may be unpacked into one folder or into one folder each."""
    own = storage.join(data, f"vkitti_2.0.3_{part}")
    return storage.join(own if storage.exists(own) else data, name)


def _find(data: str) -> tuple[str, ...]:
    root = storage.join(data, "vkitti_2.0.3_rgb")
    root = root if storage.exists(root) else data
    scenes = [scene for scene in storage.list_folders(root) if scene.startswith("Scene")]
    return tuple(f"{scene}/{name}" for scene in scenes for name in storage.list_folders(storage.join(root, scene)))


def _read(data: str, name: str) -> Sequence:
    rgb, depth, text = (_part(data, part, name) for part in _PARTS)
    frames = storage.join(rgb, "frames", "rgb", _CAMERA)
    names = image_names(frames)
    title = f"Virtual KITTI {name}"
    poses, intrinsics = _cameras(text, title)
    truth = named_truth(title, names, {f"rgb_{frame:05d}": pose for frame, pose in poses.items()})
    maps = storage.join(depth, "frames", "depth", _CAMERA)

    def cloud() -> Iterator[Cloud]:
        for frame in sorted(poses):
            uri = storage.join(maps, f"depth_{frame:05d}.png")
            yield _unprojected(uri, intrinsics[frame], poses[frame])

    return Sequence(name, frames, truth, cloud if storage.exists(maps) else None)


def _cameras(text: str, title: str) -> tuple[dict[int, FloatArray], dict[int, FloatArray]]:
    """world_from_camera (4, 4) and fx fy cx cy of each frame of the camera."""
    poses, intrinsics = {}, {}
    try:
        for row in text_rows(storage.join(text, "extrinsic.txt"), 18):
            if row[0].isdigit() and row[1] == _CAMERA[-1]:  # the first line names the columns
                poses[int(row[0])] = np.linalg.inv(np.array(row[2:], float).reshape(4, 4))
        for row in text_rows(storage.join(text, "intrinsic.txt"), 6):
            if row[0].isdigit() and row[1] == _CAMERA[-1]:
                intrinsics[int(row[0])] = np.array(row[2:], float)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise DriveError(f"{title}: {error} in extrinsic.txt or intrinsic.txt") from None
    if not poses or set(poses) != set(intrinsics):
        raise DriveError(f"{title}: extrinsic.txt and intrinsic.txt have different frames")
    return poses, intrinsics


def _unprojected(uri: str, intrinsics: FloatArray, world_from_camera: FloatArray) -> Cloud:
    depth = np.asarray(Image.open(io.BytesIO(storage.read_bytes(uri))), np.float64) / _DEPTH_PER_METRE
    row, column = np.nonzero((depth > 0) & (depth < REACH))
    fx, fy, cx, cy = intrinsics
    z = depth[row, column]
    # in its principal point (620.5, 187 of 1242 x 375), the first pixel's centre is at 0
    local = np.stack([(column - cx) / fx * z, (row - cy) / fy * z, z], -1)
    return (local @ world_from_camera[:3, :3].T + world_from_camera[:3, 3]).astype(np.float32)


VIRTUAL_KITTI = Benchmark(
    name="virtual-kitti",
    title="Virtual KITTI 2",
    source="https://europe.naverlabs.com/research/computer-vision/proxy-virtual-worlds-vkitti-2/ (rgb, depth, textgt)",
    layout="Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg, .../frames/depth/Camera_0/depth_00000.png and "
    "Scene01/clone/{extrinsic,intrinsic}.txt (in one folder, or below vkitti_2.0.3_rgb, _depth and _textgt)",
    find=_find,
    read=_read,
    names=tuple(f"{scene}/clone" for scene in _SCENES),
    cloud_threshold=1.0,
    cloud_reach=REACH,
    published={
        "Scal3R": {"ate": 0.85, "chamfer": 0.40, "f1": 0.91},
        "VGGT-Long": {"chamfer": 1.78, "f1": 0.70},
        "FastVGGT": {"chamfer": 1.73, "f1": 0.67},
    },
)
