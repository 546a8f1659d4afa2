"""Reads a drive with its truth from storage: poses, intrinsics, times and depth in the layout of KITTI odometry.

Any drive in this layout can be read, rendered or real; `write.py` describes the layout. Depth may be absent.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline import storage
from pipeline.cameras.calibration import parse_camera
from pipeline.errors import DecodeError, DriveError

FloatArray = NDArray[np.float64]
_ANY_SIZE = (1 << 20, 1 << 20)  # pixels; large, because only the camera's matrix is used
DEPTH_PER_METRE = 256.0  # values of a 16-bit depth image per metre, as in KITTI; 0 means no depth
_IMAGE_FOLDERS = ("image_2", "image_0")  # in ingest's order of preference
_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class TrueDrive:
    """A drive of F frames with its truth.

    `image_uris` (F,); `depth_uris` (F,) or None; `world_from_camera` (F, 4, 4), OpenCV axes, metres; `intrinsics`
    (3, 3), pixels of the images, centres at +0.5; `timestamps_s` (F,) or None. Raises DriveError if their numbers of
    frames differ or a pose is not a rigid motion.
    """

    drive_id: str
    image_uris: tuple[str, ...]
    depth_uris: tuple[str, ...] | None
    world_from_camera: FloatArray
    intrinsics: FloatArray
    timestamps_s: FloatArray | None

    def __post_init__(self) -> None:
        frames = len(self.image_uris)
        for name, length in (
            ("poses", len(self.world_from_camera)),
            ("depth images", frames if self.depth_uris is None else len(self.depth_uris)),
            ("times", frames if self.timestamps_s is None else len(self.timestamps_s)),
        ):
            if length != frames:
                raise DriveError(f"drive {self.drive_id}: expected {frames} {name}, one per image, found {length}")
        rotation = self.world_from_camera[:, :3, :3]
        wrong = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max((1, 2)) > 1e-3
        wrong |= ~np.isfinite(self.world_from_camera).all((1, 2))
        if wrong.any():
            frame = int(wrong.argmax())
            raise DriveError(f"drive {self.drive_id}, frame {frame}: expected a rotation and a position as its pose")

    def image(self, frame: int) -> NDArray[np.uint8]:
        """RGB uint8 (H, W, 3). Raises DecodeError if the file is not an image."""
        return np.asarray(self._opened(self.image_uris[frame], frame).convert("RGB"))

    def depth(self, frame: int) -> NDArray[np.float32]:
        """z-depth float32 (H, W) in metres, 0 where unknown. Raises DriveError if the drive has no depth, DecodeError
        if the file is not a 16-bit image."""
        if self.depth_uris is None:
            raise DriveError(f"drive {self.drive_id} has no depth images (depth_0/ beside its frames)")
        stored = np.asarray(self._opened(self.depth_uris[frame], frame))
        if stored.ndim != 2 or stored.dtype not in (np.uint16, np.int32):
            raise DecodeError(
                f"drive {self.drive_id}, frame {frame}: expected a 16-bit depth image, "
                f"found {stored.dtype} of shape {stored.shape}"
            )
        return (stored / DEPTH_PER_METRE).astype(np.float32)

    def _opened(self, uri: str, frame: int) -> Image.Image:
        data = storage.read_bytes(uri)
        try:
            image = Image.open(io.BytesIO(data))
            image.load()
        except (OSError, ValueError, SyntaxError) as error:
            raise DecodeError(f"drive {self.drive_id}, frame {frame}: {uri} cannot be decoded: {error}") from error
        return image


def list_drives(root_uri: str) -> tuple[str, ...]:
    """Ids of the drives with poses below a root folder, sorted. Raises StorageError if it has no folder poses/."""
    names = [f.name for f in storage.list_files(storage.join(root_uri, "poses"))]
    return tuple(sorted(name[: -len(".txt")] for name in names if name.endswith(".txt")))


def read_drive(uri: str, drive_id: str | None = None) -> TrueDrive:
    """The drive `drive_id` below a root folder, or the drive of a sequence folder <root>/sequences/<id>.

    Raises DriveError if images or poses are missing, malformed or differ in number; StorageError if the store fails.
    """
    if drive_id is None:
        above, drive_id = storage.parent_and_name(uri)
        root, sequences = storage.parent_and_name(above)
        if sequences != "sequences":
            raise DriveError(
                f"expected <root>/sequences/<id> or a root folder and a drive id, got {storage.redacted(uri)}"
            )
        uri = root
    storage.check_drive_id(drive_id)
    sequence = storage.join(uri, "sequences", drive_id)
    folder = next((f for f in _IMAGE_FOLDERS if storage.exists(storage.join(sequence, f))), None)
    if folder is None:
        raise DriveError(f"drive {drive_id}: no image_2 or image_0 in {storage.redacted(sequence)}")
    depth_folder = storage.join(sequence, "depth_" + folder[-1])
    depth = _files(depth_folder) if storage.exists(depth_folder) else None
    poses = _rows(storage.join(uri, "poses", f"{drive_id}.txt"), 12, drive_id)
    world_from_camera = np.tile(np.eye(4), (len(poses), 1, 1))
    world_from_camera[:, :3] = poses.reshape(-1, 3, 4)
    times = storage.join(sequence, "times.txt")
    return TrueDrive(
        drive_id,
        _files(storage.join(sequence, folder)),
        depth,
        world_from_camera,
        _intrinsics(storage.join(sequence, "calib.txt"), "P" + folder[-1], drive_id),
        _rows(times, 1, drive_id)[:, 0] if storage.exists(times) else None,
    )


def _files(folder: str) -> tuple[str, ...]:
    found = [f for f in storage.list_files(folder) if f.name.lower().endswith(_IMAGE_ENDINGS)]
    return tuple(f.uri for f in sorted(found, key=lambda f: f.name))


def _rows(uri: str, columns: int, drive_id: str) -> FloatArray:
    """Numbers (lines, columns) of a text file."""
    rows = []
    for number, line in enumerate(storage.read_bytes(uri).decode("utf-8", "replace").splitlines()):
        words = line.split()
        try:
            row = [float(word) for word in words]
        except ValueError:
            row = []
        if len(row) != columns or not np.isfinite(row).all():
            name = storage.parent_and_name(uri)[1]
            raise DriveError(
                f"drive {drive_id}, frame {number}: expected {columns} numbers in line {number + 1} "
                f"of {name}, got {line[:60]!r}"
            )
        rows.append(row)
    return np.array(rows, np.float64).reshape(-1, columns)


def _intrinsics(uri: str, camera: str, drive_id: str) -> FloatArray:
    text = storage.read_bytes(uri).decode("utf-8", "replace")
    lens = parse_camera(text, _ANY_SIZE)
    if lens is not None:
        return lens.matrix
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name.strip() != camera:
            continue
        try:
            numbers = np.array([float(word) for word in rest.split()])
        except ValueError:
            numbers = np.zeros(0)
        if len(numbers) == 12 and np.isfinite(numbers).all():
            k = numbers.reshape(3, 4)[:, :3].copy()
            k[:2, 2] += 0.5  # KITTI's pixel centres are at whole numbers, ours at +0.5
            return k
        raise DriveError(
            f"drive {drive_id}: expected 12 numbers after {camera}: in calib.txt, got {rest.strip()[:60]!r}"
        )
    raise DriveError(f"drive {drive_id}: calib.txt has no line {camera}:")
