"""Opens trajectories: published drives, drives with truth, files of poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline import schema, storage
from pipeline.errors import DriveError
from pipeline.evaluation.associate import PosedFrames
from pipeline.evaluation.metrics import FloatArray, check_poses
from pipeline.publish import PublishedDrive, open_drive
from pipeline.publish.poses import rotation_from_quaternion
from pipeline.synthetic.read import TrueDrive, read_drive

_KITTI_COLUMNS = 12  # 3 x 4, row by row
_TUM_COLUMNS = 8  # seconds, position, quaternion x y z w


@dataclass(frozen=True, eq=False)
class Estimate:
    """The trajectory that is evaluated. drive: the published drive, None for a file of poses; step: row n of the
    trajectory is frame n * step of the drive, more than 1 for a rig, of which the reference camera is evaluated."""

    name: str
    uri: str
    frames: PosedFrames
    drive: PublishedDrive | None = None
    step: int = 1


@dataclass(frozen=True, eq=False)
class Truth:
    """The true trajectory. drive: the drive with its images and depth, None for a file of poses."""

    uri: str
    frames: PosedFrames
    drive: TrueDrive | None = None


def open_estimate(uri: str, drive_id: str | None = None) -> Estimate:
    """Open a published drive's folder (OUT/ID), an output with a drive id, or a file of poses (KITTI or TUM).

    Raises DriveError if it is none of these, not finished or damaged; StorageError if the store fails.
    """
    uri = storage.absolute(uri)
    shown = storage.redacted(uri)
    if drive_id is None and not storage.exists(storage.join(uri, "manifest.json")):
        if not storage.exists(uri):
            raise DriveError(f"no prediction at {shown}: expected a published drive or a file of poses")
        if not _is_file(uri):
            raise DriveError(
                f"{shown} is not a published drive (it has no manifest.json); give the drive's folder, or an output "
                f"with --drive ID"
            )
        name = storage.parent_and_name(uri)[1]
        return Estimate(name, shown, read_poses(uri))
    output, name = storage.parent_and_name(uri) if drive_id is None else (uri, drive_id)
    drive = open_drive(output, name)
    step = drive.camera_count
    return Estimate(name, storage.redacted(drive.uri), published_frames(drive, step), drive, step)


def open_truth(uri: str, drive_id: str | None = None) -> Truth:
    """Open a drive in KITTI's layout (<root>/sequences/<id>, or the root and a drive id), or a file of poses.

    Raises DriveError if it is none of these or has no poses; StorageError if the store fails.
    """
    uri = storage.absolute(uri)
    shown = storage.redacted(uri)
    if not storage.exists(uri):
        raise DriveError(f"no truth at {shown}: expected a drive's folder or a file of poses")
    if _is_file(uri):
        return Truth(shown, read_poses(uri))
    above, name = storage.parent_and_name(uri)
    root, sequences = storage.parent_and_name(above)
    if sequences != "sequences":
        if not storage.exists(storage.join(uri, "sequences")):
            raise DriveError(
                f"{shown} is not a drive with truth: expected <root>/sequences/<id> with "
                f"<root>/poses/<id>.txt, or a file of poses"
            )
        if drive_id is None:
            raise DriveError(f"{shown} contains many drives: give <root>/sequences/<id>, or --drive ID")
        root, name = uri, storage.check_drive_id(drive_id)
        if not storage.exists(storage.join(uri, "sequences", name)):
            raise DriveError(f"no drive {name} in {shown}/sequences")
    poses = storage.join(root, "poses", f"{name}.txt")
    if not storage.exists(poses):
        raise DriveError(f"drive {name} has no truth: its poses are expected in {storage.redacted(poses)}")
    drive = read_drive(root, name)
    frames = PosedFrames.of(
        f"the truth of drive {name}",
        drive.world_from_camera,
        drive.timestamps_s,
        _names(drive.image_uris),
    )
    return Truth(shown, frames, drive)


def published_frames(drive: PublishedDrive, step: int = 1) -> PosedFrames:
    """The trajectory of a published drive: one row for every frame, or for every step-th."""
    table = drive.poses.take(np.arange(0, drive.poses.num_rows, step))
    column = {name: table[name].to_numpy() for name in ("x", "y", "z", "qw", "qx", "qy", "qz")}
    poses = np.tile(np.eye(4), (table.num_rows, 1, 1))
    poses[:, :3, 3] = np.stack([column[axis] for axis in "xyz"], -1)
    poses[:, :3, :3] = rotation_from_quaternion(np.stack([column["q" + part] for part in "wxyz"], -1))
    status = np.array(table["status"].to_pylist())
    times = None
    if table.num_rows and not table["timestamp_ns"].null_count:
        times = table["timestamp_ns"].to_numpy().astype(np.float64) / 1e9
        if not (np.diff(times) > 0).all():
            times = None  # with wrong times, frames can still be matched by name or number
    return PosedFrames(
        f"drive {drive.manifest.drive_id}",
        poses,
        status != schema.MISSING,
        status == schema.FILLED,
        times,
        _names(tuple(table["uri"].to_pylist())),
    )


def read_poses(uri: str) -> PosedFrames:
    """Read a file of poses (world_from_camera): per line KITTI's 12 numbers (3 x 4, row by row) or TUM's 8 (seconds,
    position, quaternion x y z w); '#' begins a comment. Raises DriveError, which names the line that is neither."""
    name = storage.parent_and_name(uri)[1]
    rows: list[list[float]] = []
    for number, line in enumerate(storage.read_bytes(uri).decode("utf-8", "replace").splitlines(), 1):
        text = line.partition("#")[0].replace(",", " ")
        if not text.strip():
            continue
        try:
            row = [float(word) for word in text.split()]
        except ValueError:
            row = []
        columns = len(rows[0]) if rows else len(row)
        if columns not in (_KITTI_COLUMNS, _TUM_COLUMNS) or len(row) != columns or not np.isfinite(row).all():
            expected = f"{columns}" if rows else "12 (KITTI) or 8 (TUM)"
            raise DriveError(
                f"{name}: expected {expected} finite numbers in line {number} (frame {len(rows)}), "
                f"got {line.strip()[:60]!r}"
            )
        rows.append(row)
    if not rows:
        raise DriveError(f"{name} contains no poses")
    table = np.array(rows, np.float64)
    poses = np.tile(np.eye(4), (len(table), 1, 1))
    times = None
    if table.shape[1] == _KITTI_COLUMNS:
        poses[:, :3] = table.reshape(-1, 3, 4)
    else:
        times = table[:, 0]
        poses[:, :3, 3] = table[:, 1:4]
        poses[:, :3, :3] = _rotations(table[:, [7, 4, 5, 6]], name)
    try:
        check_poses(poses, name)
    except ValueError as error:
        raise DriveError(str(error)) from None
    return PosedFrames.of(name, poses, times)


def _rotations(quaternions: FloatArray, name: str) -> FloatArray:
    length = np.linalg.norm(quaternions, axis=1)
    wrong = np.abs(length - 1) > 0.01
    if wrong.any():
        frame = int(wrong.argmax())
        raise DriveError(f"{name}: expected a unit quaternion in frame {frame}, its length is {length[frame]:g}")
    return rotation_from_quaternion(quaternions / length[:, None])


def _names(uris: tuple[str, ...]) -> tuple[str, ...] | None:
    """Names of the images without their endings; None if they are not all different (a video)."""
    names = tuple(storage.parent_and_name(uri)[1].rpartition(".")[0] for uri in uris)
    return names if names and all(names) and len(set(names)) == len(names) else None


def _is_file(uri: str) -> bool:
    try:
        storage.stored_file(uri)
    except storage.NotFoundError:
        return False
    return True
