"""COLMAP's sparse model, binary or text: cameras, images, points3D with tracks.

Corners that were followed through three frames or more come first, with all their observations: bundle adjustment
needs them, and so do trainers that check tracks. Then comes the dense cloud without observations: bundle adjustment
refuses points with one observation, and does not touch points without any. If a drive has no tracked corners, there is
nothing to adjust, and each dense point has a track of one observation: the pixel of the frame whose depth it came from.
The files list images before points, but the observations are known only after the points, so they wait on disk.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.cameras.camera import Camera
from pipeline.errors import DriveError
from pipeline.publish.exports.source import ExportSource, stacked
from pipeline.publish.exports.tracked import tracked_points
from pipeline.publish.poses import quaternion_from_rotation

_PINHOLE = 1, "PINHOLE"
_LENSES = {  # number and name in COLMAP's sensor/models.h, and how many parameters follow fx fy cx cy
    "radtan": ((4, "OPENCV"), 4),
    "fisheye": ((5, "OPENCV_FISHEYE"), 4),
    "eucm": ((16, "EUCM"), 2),
}
_FULL_OPENCV, _EQUIRECTANGULAR = (6, "FULL_OPENCV"), (17, "EQUIRECTANGULAR")
_OUTSIDE_PX = 1.0  # how far outside its image rounding may put a point
_OBSERVATION = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<u8")])
_WAITING = np.dtype([("place", "<u4"), ("number", "<u4"), *_OBSERVATION.descr])
_POINT = np.dtype(
    [
        ("id", "<u8"),
        ("xyz", "<f8", 3),
        ("rgb", "u1", 3),
        ("error", "<f8"),
        ("track", "<u8"),
        ("image", "<u4"),
        ("number", "<u4"),
    ]
)
_ALONE = np.dtype(_POINT.descr[:5])  # a point without observations
_COLUMNS = ("x", "y", "z", "r", "g", "b", "frame_index")
_BLOCK = 1_000_000  # observations sorted at a time, 32 MB


@dataclass(frozen=True)
class Observations:
    """The waiting observations, sorted by image; those of image n are at start[n] ... start[n + 1]."""

    rows: NDArray[np.void]
    start: NDArray[np.int64]

    def of(self, place: int) -> NDArray[np.void]:
        """Those of one image, in the order of their numbers."""
        return self.rows[self.start[place] : self.start[place + 1]]


def write_colmap(source: ExportSource, folder: Path, *, text: bool = False) -> tuple[int, int, int]:
    """Write sparse/0/{cameras,images,points3D}.bin (or .txt). Returns the number of images, of points, and of points
    that at least three images see.

    There is one PINHOLE camera for each different set of intrinsics, or the drive's lens (OPENCV, FULL_OPENCV,
    OPENCV_FISHEYE, EUCM, EQUIRECTANGULAR), or those of a rig's cameras, at the size of the images. Ids begin with 1;
    an image's id is its frame number + 1. A point with one observation has ERROR 0, because it projects to that pixel.
    The images are expected in images/. Raises DriveError where points do not lie in the image of their own frame: then
    poses and points do not belong to one drive.
    """
    model = folder / "sparse" / "0"
    model.mkdir(parents=True, exist_ok=True)
    waiting, grouped = folder / ".waiting", folder / ".grouped"
    try:
        points, tracked, counts = _write_points(source, model, waiting, text)
        observations = _grouped(waiting, grouped, counts)
        _write_cameras(source, model, text)
        _write_images(source, model, observations, text)
        del observations  # it maps the file, which is removed next
    finally:
        waiting.unlink(missing_ok=True)
        grouped.unlink(missing_ok=True)
    return len(source.cameras), points, tracked


def _write_points(source: ExportSource, model: Path, waiting: Path, text: bool) -> tuple[int, int, NDArray[np.int64]]:
    """Write points3D, and its observations to `waiting` in the same order. Returns the number of points, of tracked
    points, and of observations in each frame (N,)."""
    cameras = source.cameras
    counts = np.zeros(len(cameras), np.int64)
    lost = 0
    with (model / f"points3D.{'txt' if text else 'bin'}").open("wb") as file, waiting.open("wb") as behind:
        title = b"# POINT3D_ID X Y Z R G B ERROR TRACK[] as (IMAGE_ID, POINT2D_IDX)\n"
        file.write(title if text else struct.pack("<Q", 0))
        total = tracked = _write_tracked(source, file, behind, counts, text)
        for table in source.points(_COLUMNS):
            xyz = stacked(table, "x", "y", "z").astype(np.float32, copy=False)
            place = cameras.places(table["frame_index"].to_numpy())
            if (place < 0).any():
                frame = table["frame_index"].to_numpy()[place < 0][0]
                raise DriveError(f"drive {source.drive.manifest.drive_id}, frame {frame}: it has points but no pose")
            pixel, _ = cameras.project(place, xyz)
            inside = ((pixel >= -_OUTSIDE_PX) & (pixel <= cameras.sizes[place] + _OUTSIDE_PX)).all(axis=1)
            lost += int((~inside).sum())
            number = np.zeros(int(inside.sum()), np.int64) if tracked else _numbers(place[inside], counts)
            rows = np.zeros(int(inside.sum()), _POINT)
            rows["id"] = total + 1 + np.arange(len(rows))
            rows["xyz"] = xyz[inside]
            rows["rgb"] = stacked(table, "r", "g", "b")[inside]
            rows["track"] = 0 if tracked else 1
            rows["image"] = cameras.frame_index[place[inside]] + 1
            rows["number"] = number
            file.write(_point_lines(rows) if text else (_without_track(rows) if tracked else rows).tobytes())
            total += len(rows)
            if tracked:
                continue
            seen = np.empty(len(rows), _WAITING)
            seen["place"], seen["number"], seen["point"] = place[inside], number, rows["id"]
            seen["x"], seen["y"] = pixel[inside].T
            behind.write(seen.tobytes())
        if lost > 0.001 * (total - tracked + lost):
            raise DriveError(
                f"drive {source.drive.manifest.drive_id}: {lost} of {total - tracked + lost} points do not lie in the "
                f"image of their own frame; publish it again"
            )
        if not text:
            file.seek(0)
            file.write(struct.pack("<Q", total))
    return total, tracked, counts


def _write_tracked(
    source: ExportSource, file: BinaryIO, behind: BinaryIO, counts: NDArray[np.int64], text: bool
) -> int:
    """Write the points that several frames see, and their observations; returns their number. Points outside of the
    selection's box are left out."""
    tracks = tracked_points(source)
    if tracks is None:
        return 0
    number = _numbers(tracks.place, counts)
    first = np.searchsorted(tracks.point, np.arange(len(tracks.xyz) + 1))
    image = source.cameras.frame_index[tracks.place] + 1
    for point, (xyz, rgb, error) in enumerate(zip(tracks.xyz, tracks.rgb, tracks.error, strict=True)):
        rows = slice(first[point], first[point + 1])
        seen = np.stack([image[rows], number[rows]], -1).astype("<u4")
        if text:
            place = " ".join(f"{value:.9g}" for value in xyz)
            track = " ".join(map(str, seen.ravel().tolist()))
            file.write(f"{point + 1} {place} {rgb[0]} {rgb[1]} {rgb[2]} {error:.6g} {track}\n".encode())
        else:
            file.write(struct.pack("<Q3d3BdQ", point + 1, *xyz, *rgb, error, len(seen)) + seen.tobytes())
    rows_behind = np.empty(len(number), _WAITING)
    rows_behind["place"], rows_behind["number"], rows_behind["point"] = tracks.place, number, tracks.point + 1
    rows_behind["x"], rows_behind["y"] = tracks.pixel.T
    behind.write(rows_behind.tobytes())
    return len(tracks.xyz)


def _numbers(place: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of each observation (n,) within its image, continued from `counts`, which are increased."""
    order = np.argsort(place, kind="stable")
    ordered = place[order]
    new = np.bincount(ordered, minlength=len(counts))
    within = np.arange(len(order)) - np.repeat(np.cumsum(new) - new, new)
    number = np.empty(len(order), np.int64)
    number[order] = counts[ordered] + within
    counts += new
    return number


def _grouped(waiting: Path, grouped: Path, counts: NDArray[np.int64]) -> Observations:
    """The waiting observations image by image, in a mapped file."""
    start = np.concatenate([[0], np.cumsum(counts)])
    if not start[-1]:
        return Observations(np.empty(0, _OBSERVATION), start)
    rows = np.memmap(grouped, _OBSERVATION, mode="w+", shape=(int(start[-1]),))
    with waiting.open("rb") as file:
        while len(block := np.frombuffer(file.read(_BLOCK * _WAITING.itemsize), _WAITING)):
            at = start[block["place"]] + block["number"]
            order = np.argsort(at)  # so that writes go through the file in order
            piece = np.empty(len(block), _OBSERVATION)
            for name in _OBSERVATION.names or ():
                piece[name] = block[name][order]
            rows[at[order]] = piece
    rows.flush()
    return Observations(rows, start)


def _intrinsics(source: ExportSource) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The different cameras (C, 6) fx fy cx cy width height, and which of them each image has (N,). Those of a rig that
    differ are all of its cameras, in its order."""
    if source.cameras.models:
        rows = [[*one.intrinsics, one.width, one.height] for one in source.cameras.models]
        return np.array(rows, np.float64), source.cameras.frame_index % len(rows)
    both = np.concatenate([source.cameras.intrinsics, source.cameras.sizes], axis=1)
    different, which = np.unique(both, axis=0, return_inverse=True)
    return different, which.reshape(-1)


def _models(source: ExportSource) -> list[tuple[tuple[int, str], int, int, list[float]]]:
    """COLMAP's model, width, height and parameters of each camera."""
    cameras = source.cameras
    if cameras.lens is not None:
        return [_model(cameras.lens)]
    if cameras.models:
        return [_model(one) for one in cameras.models]
    return [(_PINHOLE, int(width), int(height), k) for *k, width, height in _intrinsics(source)[0].tolist()]


def _model(lens: Camera) -> tuple[tuple[int, str], int, int, list[float]]:
    if lens.is_pinhole:
        return _PINHOLE, lens.width, lens.height, list(lens.intrinsics)
    if lens.model == "equirectangular":
        return _EQUIRECTANGULAR, lens.width, lens.height, [float(lens.width), float(lens.height)]
    model, count = _LENSES[lens.model]
    if len(lens.params) > count:
        model, count = _FULL_OPENCV, 8
    return model, lens.width, lens.height, [*lens.intrinsics, *lens.params, *[0.0] * (count - len(lens.params))]


def _write_cameras(source: ExportSource, model: Path, text: bool) -> None:
    cameras = _models(source)
    if text:
        lines = ["# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]"]
        for number, ((_, name), width, height, params) in enumerate(cameras, 1):
            lines.append(f"{number} {name} {width} {height} " + " ".join(f"{v:.17g}" for v in params))
        (model / "cameras.txt").write_text("\n".join(lines) + "\n")
        return
    with (model / "cameras.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(cameras)))
        for number, ((kind, _), width, height, params) in enumerate(cameras, 1):
            file.write(struct.pack(f"<IiQQ{len(params)}d", number, kind, width, height, *params))


def _write_images(source: ExportSource, model: Path, observations: Observations, text: bool) -> None:
    with (model / f"images.{'txt' if text else 'bin'}").open("wb") as file:
        if text:
            file.write(b"# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then POINTS2D[] as (X, Y, POINT3D_ID)\n")
        else:
            file.write(struct.pack("<Q", len(source.cameras)))
        for place, (image, pose, camera, name) in enumerate(_images(source)):
            seen = observations.of(place)
            if text:
                numbers = " ".join(f"{value:.17g}" for value in pose)
                points = " ".join(f"{x:.6f} {y:.6f} {point}" for x, y, point in seen.tolist())
                file.write(f"{image} {numbers} {camera} {name}\n{points}\n".encode())
            else:
                file.write(struct.pack("<I7dI", image, *pose, camera) + name.encode() + b"\0")
                file.write(struct.pack("<Q", len(seen)) + seen.tobytes())


def _images(source: ExportSource) -> Iterator[tuple[int, list[float], int, str]]:
    """Id, camera_from_world (qw qx qy qz tx ty tz), camera id and name of each image."""
    pose = source.cameras.world_from_camera
    rotation = pose[:, :3, :3].transpose(0, 2, 1)
    position = -(rotation @ pose[:, :3, 3:])[:, :, 0]
    numbers = np.concatenate([quaternion_from_rotation(rotation), position], axis=1).tolist()
    cameras = (_intrinsics(source)[1] + 1).tolist()
    return zip((source.cameras.frame_index + 1).tolist(), numbers, cameras, source.names, strict=True)


def _without_track(rows: NDArray[np.void]) -> NDArray[np.void]:
    answer = np.empty(len(rows), _ALONE)
    for name in _ALONE.names or ():
        answer[name] = rows[name]
    return answer


def _point_lines(rows: NDArray[np.void]) -> bytes:
    return "".join(
        f"{number} {x:.9g} {y:.9g} {z:.9g} {r} {g} {b} {error:g}" + (f" {image} {place}\n" if track else "\n")
        for number, (x, y, z), (r, g, b), error, track, image, place in zip(
            *(rows[name].tolist() for name in _POINT.names or ()), strict=True
        )
    ).encode()
