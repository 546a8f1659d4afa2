"""ETH3D high-resolution multi-view, training scenes (Schoeps et al. 2017): photographs and laser scans."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import numpy as np

from pipeline import storage
from pipeline.errors import DriveError
from pipeline.evaluation.benchmarks.sequence import Benchmark, Sequence, image_names, named_truth, pose
from pipeline.evaluation.cloud_files import read_cloud
from pipeline.evaluation.clouds import Cloud
from pipeline.evaluation.metrics import FloatArray
from pipeline.publish.poses import rotation_from_quaternion

_SCENES = (
    "courtyard",
    "delivery_area",
    "electro",
    "facade",
    "kicker",
    "meadow",
    "office",
    "pipes",
    "playground",
    "relief",
    "relief_2",
    "terrace",
    "terrains",
)
_CALIBRATION, _SCANS = "dslr_calibration_undistorted", "dslr_scan_eval"


def _find(data: str) -> tuple[str, ...]:
    return tuple(
        name
        for name in storage.list_folders(data)
        if storage.exists(storage.join(data, name, _CALIBRATION, "images.txt"))
    )


def _read(data: str, name: str) -> Sequence:
    scene = storage.join(data, name)
    frames = storage.join(scene, "images", "dslr_images_undistorted")
    title = f"ETH3D {name}"
    poses = _poses(storage.join(scene, _CALIBRATION, "images.txt"), title)
    truth = named_truth(title, image_names(frames), poses)
    scans = storage.join(scene, _SCANS)

    def cloud() -> Iterator[Cloud]:
        for file, world_from_scan in _alignment(storage.join(scans, "scan_alignment.mlp"), title).items():
            for piece in read_cloud(storage.join(scans, file)):
                yield (piece @ world_from_scan[:3, :3].T + world_from_scan[:3, 3]).astype(np.float32)

    return Sequence(name, frames, truth, cloud if storage.exists(scans) else None)


def _poses(uri: str, title: str) -> dict[str, FloatArray]:
    """world_from_camera (4, 4) by image name. COLMAP's images.txt has two lines per image, the second with
    keypoints."""
    lines = storage.read_bytes(uri).decode("utf-8", "replace").splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    poses = {}
    for line in lines[::2]:
        words = line.split()
        if not words:
            continue
        try:
            rotation = rotation_from_quaternion(np.array(words[1:5], float)).T
            name = storage.parent_and_name("/" + words[9])[1].rpartition(".")[0]
            poses[name] = pose(rotation, -rotation @ np.array(words[5:8], float))
        except (ValueError, IndexError):
            raise DriveError(f"{title}: images.txt: expected an image's pose, got {line[:60]!r}") from None
    return poses


def _alignment(uri: str, title: str) -> dict[str, FloatArray]:
    """world_from_scan (4, 4) by file name, from a MeshLab project."""
    text = storage.read_bytes(uri).decode("utf-8", "replace")
    if "<!ENTITY" in text:  # MeshLab projects have none, and expanding them could exhaust RAM
        raise DriveError(f"{title}: scan_alignment.mlp declares entities")
    try:
        meshes = ElementTree.fromstring(text).iter("MLMesh")
        found = {
            storage.parent_and_name("/" + mesh.attrib["filename"])[1]: np.array(
                (mesh.findtext("MLMatrix44") or "").split(), float
            ).reshape(4, 4)
            for mesh in meshes
        }
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise DriveError(f"{title}: scan_alignment.mlp cannot be read ({error})") from None
    if not found:
        raise DriveError(f"{title}: scan_alignment.mlp names no scan")
    return found


ETH3D = Benchmark(
    name="eth3d",
    title="ETH3D",
    source="https://www.eth3d.net/datasets (training: _dslr_undistorted.7z and _dslr_scan_eval.7z)",
    layout="courtyard/images/dslr_images_undistorted/*.JPG, courtyard/dslr_calibration_undistorted/images.txt and "
    "courtyard/dslr_scan_eval/{scan1.ply,scan_alignment.mlp}",
    find=_find,
    read=_read,
    names=_SCENES,
    cloud_threshold=0.25,
    published={
        "Scal3R": {"chamfer": 0.11, "f1": 0.91},
        "VGGT-Long": {"chamfer": 0.24, "f1": 0.84},
        "FastVGGT": {"chamfer": 0.50, "f1": 0.70},
    },
)
