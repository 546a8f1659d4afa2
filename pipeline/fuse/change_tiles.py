"""Change in each tile, between each drive and the one recorded before it: rows of two tables, and pictures.

A camera's range image is made of the drive's points in the tiles around the camera, so that rays do not end at a tile's
border. It is kept for the other tiles and drives that the camera is compared with.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.drive_images import read_frames
from pipeline.errors import PipelineError
from pipeline.fuse.change import GONE, NEW, RANGE_M, Cloud
from pipeline.fuse.city_files import FrameOf
from pipeline.fuse.city_schema import CHANGE, CHANGES, POINTS
from pipeline.fuse.drive_pictures import DrivePictures
from pipeline.fuse.lost_drives import lost_if_unreadable
from pipeline.fuse.picture_change import Found, Sight, changed_objects
from pipeline.fuse.placement import Placement, PointMover
from pipeline.fuse.published_drives import SeenDrive, seen_again
from pipeline.fuse.range_images import RangeImages
from pipeline.fuse.tiles import Place, Spooled, TilePoints, around, level_axes
from pipeline.publish import PublishedDrive
from pipeline.publish.cameras import Cameras

_CUBES = 2.0  # side of the cubes in which drives are compared, in cubes of the city
_HELD, _HELD_DRIVES = 64, 24  # clouds (5 MB each) and drives (up to 75 MB each) that are kept
_MARGIN_M = 5.0  # metres around a tile in which objects are looked for that may have their middle in it
_SIDE, _EDGE = 480, (255, 80, 60)  # width of half a picture in pixels, colour of the box
_ASKED = 48  # most frames of a drive that are tried for an object's picture


def rings(tile_m: float) -> int:
    """Tiles around a camera's tile, on each side, whose points its range image needs: those within its range."""
    return int(np.ceil((RANGE_M + _MARGIN_M) / tile_m))


def reach(places: Iterable[Place], tile_m: float) -> frozenset[Place]:
    """The tiles whose points are needed to find the change in some tiles: cameras within their range of a tile see
    it."""
    return around(places, 2 * rings(tile_m))


@dataclass(frozen=True, eq=False)
class Changed:
    """What changed. points: a table of city_schema.CHANGE; objects: of CHANGES, before pictures are made."""

    points: pa.Table
    objects: pa.Table

    @staticmethod
    def joined(parts: Sequence[Changed]) -> Changed:
        """All parts in one."""
        return Changed(
            pa.concat_tables([CHANGE.empty_table(), *(part.points for part in parts)]),
            pa.concat_tables([CHANGES.empty_table(), *(part.objects for part in parts)]),
        )

    def without(self, places: Iterable[Place]) -> Changed:
        """The objects, with their points, that are not in these tiles."""
        gone = set(places)
        tiles = zip(*(self.objects[name].to_pylist() for name in ("frame", "tile_x", "tile_y")), strict=True)
        objects = self.objects.filter(pa.array([tile not in gone for tile in tiles], pa.bool_()))
        names = set(objects["object"].to_pylist())
        kept = [one in names for one in self.points["object"].to_pylist()]
        return Changed(self.points.filter(pa.array(kept, pa.bool_())), objects)


class ChangeFinder:
    """Compares drives tile by tile.

    drives, placements: by number; spooled: the points of the tiles and of those around them (`reach`); frames: of the
    city, by name; tile_m: side of a tile in metres (or the equivalent in a frame that is not metric).
    """

    def __init__(
        self,
        drives: Mapping[int, SeenDrive],
        placements: Mapping[int, Placement],
        frames: Mapping[str, FrameOf],
        spooled: Spooled,
        tile_m: float,
    ) -> None:
        self._drives, self._frames, self._spooled, self._tile_m = drives, frames, spooled, tile_m
        self._cameras = {
            n: replace(drive.opened.cameras, world_from_camera=placements[n].city_from_camera)
            for n, drive in drives.items()
        }
        self._frame_of = {n: placement.frame for n, placement in placements.items()}
        self._placements = placements
        self._images = lru_cache(_HELD_DRIVES)(self._made_range_images)
        self._pictures = lru_cache(_HELD_DRIVES)(self._made_pictures)
        self._corners = lru_cache(_HELD_DRIVES)(self._made_corners)
        self._clouds = lru_cache(_HELD)(self._made_cloud)

    def in_tile(self, place: Place) -> Changed:
        """What changed in a tile between each drive and the next one by date."""
        order = sorted(self._spooled.drives_of(place), key=lambda n: (self._drives[n].recorded_s, n))
        parts: list[Changed] = []
        for earlier, later in pairwise(order):
            for has, other, kind in ((earlier, later, GONE), (later, earlier, NEW)):
                parts.append(self._compared(place, has, other, kind, len(parts)))
        return Changed.joined(parts)

    def _made_range_images(self, drive: int) -> RangeImages:
        frame, cameras = self._frames[self._frame_of[drive]], self._cameras[drive]

        def points_of(camera: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            level = cameras.world_from_camera[camera, list(level_axes(frame.on_earth)), 3]
            x, y = np.floor(level / frame.tile).astype(int).tolist()
            cloud = self._clouds((frame.name, x, y), drive)
            return cloud.xyz, cloud.frame_index

        reach = RANGE_M * frame.tile / self._tile_m
        return RangeImages(cameras, points_of, _CUBES * frame.voxel, reach, self._drives[drive].rig.count)

    def _made_cloud(self, place: Place, drive: int) -> Cloud:
        """The thinned points of a drive in a tile and around it."""
        frame = self._frames[place[0]]
        table = self._spooled.read(around([place], rings(self._tile_m)), drive)
        if table is None:
            table = POINTS.empty_table()
        xyz = np.stack([table[axis].to_numpy() for axis in "xyz"], -1)
        seen = table["frame_index"].to_numpy().astype(np.int64)
        cloud = Cloud(xyz, seen, self._cameras[drive], self._drives[drive].rig.count, self._images(drive))
        return cloud.thinned(_CUBES * frame.voxel)[0]

    def _made_pictures(self, drive: int) -> DrivePictures:
        one = self._drives[drive]
        return DrivePictures(one.opened, self._cameras[drive].world_from_camera, one.rig.count)

    def _made_corners(self, drive: int) -> NDArray[np.float64]:
        """Triangulated corners (m, 3) of a drive, each by the frame that saw it first."""
        mover = PointMover(self._drives[drive].opened, self._placements[drive])
        with lost_if_unreadable(self._drives[drive].opened):
            table = self._drives[drive].opened.tracks
        if table is None or not table.num_rows:
            return np.zeros((0, 3))
        _, first = np.unique(table["point_index"].to_numpy(), return_index=True)
        table = table.select(["x", "y", "z", "frame_index"]).take(pa.array(first))
        at = mover.opened.cameras.places(table["frame_index"].to_numpy())
        xyz = np.stack([table[axis].to_numpy() for axis in "xyz"], -1)[at >= 0]
        return np.asarray(np.einsum("nij,nj->ni", mover.turn[at[at >= 0]], xyz) + mover.shift[at[at >= 0]])

    def _sight(self, place: Place, drive: int) -> Sight:
        return Sight(self._clouds(place, drive), self._corners(drive), self._pictures(drive))

    def _compared(self, place: Place, has: int, other: int, kind: int, part: int) -> Changed:
        frame = self._frames[place[0]]
        unit = frame.tile / self._tile_m
        axes = level_axes(frame.on_earth)

        def around_tile(xyz: NDArray[np.floating], margin: float) -> NDArray[np.bool_]:
            square = xyz[:, axes].astype(np.float64) / frame.tile - place[1:]
            return np.asarray(((square >= -margin / self._tile_m) & (square < 1 + margin / self._tile_m)).all(1))

        mine, others = self._sight(place, has), self._sight(place, other)
        seeds = [around_tile(xyz, _MARGIN_M) for xyz in (mine.cloud.xyz, mine.corners)]
        found = changed_objects(mine, others, seeds[0], seeds[1], _CUBES * frame.voxel, unit)
        found = [one for one in found if around_tile(one.xyz.mean(0)[None], 0.0)[0]]
        parts = []
        for number, one in enumerate(found):
            name = f"{place[0]}/{place[1]}_{place[2]}_{1000 * part + number}"
            parts.append(self._told(place, has, other, kind, name, one))
        return Changed.joined(parts)

    def _told(self, place: Place, has: int, other: int, kind: int, name: str, one: Found) -> Changed:
        """An object as rows of both tables."""
        pictures = self._pictures(has)
        xyz, seen = one.xyz.astype(np.float32), pictures.frame_index[one.camera]
        box = {
            f"{end}_{axis}": float(v)
            for end, values in (("low", xyz.min(0)), ("high", xyz.max(0)))
            for axis, v in zip("xyz", values, strict=True)
        }
        row = {
            "object": name,
            "frame": place[0],
            "tile_x": place[1],
            "tile_y": place[2],
            "class": kind,
            "drive_id": self._drives[has].drive_id,
            "other_id": self._drives[other].drive_id,
            "points": len(xyz),
            **box,
            "drive_frame": _best_frame(self._cameras[has], xyz, np.unique(seen)),
            "other_frame": int(self._drives[other].frame_index[one.through]),
            "picture": None,
        }
        colour = np.zeros((len(xyz), 3), np.uint8)
        for camera in np.unique(one.camera).tolist():
            rows = one.camera == camera
            colour[rows] = pictures.colours(camera, one.pixel[rows])
        columns = [*xyz.T, *colour.T, np.full(len(xyz), kind, np.uint8), [name] * len(xyz), seen.astype(np.int32)]
        points = pa.table([pa.array(column) for column in columns], names=CHANGE.names).cast(CHANGE)
        return Changed(points, pa.Table.from_pylist([row], schema=CHANGES))


def changed_in_tiles(
    frames: Mapping[str, FrameOf],
    tile_m: float,
    places: Sequence[Place],
    points: TilePoints,
    *drives: tuple[int, PublishedDrive, Placement],
) -> list[Changed]:
    """`ChangeFinder.in_tile` for some tiles, in a task. points: of the tiles and of those around them; drives: number,
    result and placement of those that have points in the tiles. Raises LostDriveError, StorageError."""
    seen = {}
    for number, opened, _ in drives:
        with lost_if_unreadable(opened):
            seen[number] = seen_again(opened)
    placements = {number: placement for number, _, placement in drives}
    finder = ChangeFinder(seen, placements, frames, points, tile_m)
    return [finder.in_tile(place) for place in places]


def _box_of(cameras: Cameras, place: int, xyz: NDArray[np.floating]) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom in pixels of points in a camera's picture; None if it shows fewer than half of them."""
    pixel, _ = cameras.project(place, xyz)
    width, height = cameras.sizes[place]
    with np.errstate(invalid="ignore"):
        inside = ((pixel >= 0) & (pixel < (width, height))).all(1)
    if inside.mean() < 0.5:
        return None
    low, high = pixel[inside].min(0), pixel[inside].max(0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _best_frame(cameras: Cameras, xyz: NDArray[np.floating], frames: NDArray[np.int64]) -> int:
    """The frame, of `frames`, in whose picture the points' box is largest."""
    tried = frames[np.linspace(0, len(frames) - 1, min(_ASKED, len(frames))).round().astype(int)]
    areas = []
    for place in cameras.places(tried):
        box = _box_of(cameras, int(place), xyz) if place >= 0 else None
        areas.append(-1.0 if box is None else (box[2] - box[0]) * (box[3] - box[1]))
    return int(tried[int(np.argmax(areas))])


class ChangePictures:
    """Pictures of objects: the frame that shows an object, beside the other drive's frame that looks through it."""

    def __init__(self, drives: Sequence[SeenDrive], placements: Sequence[Placement]) -> None:
        self._by_name = {
            drive.drive_id: (drive, replace(drive.opened.cameras, world_from_camera=placement.city_from_camera))
            for drive, placement in zip(drives, placements, strict=True)
        }

    def jpeg(self, row: Mapping[str, object], xyz: NDArray[np.floating]) -> bytes | None:
        """Picture (JPEG) of an object, a row of CHANGES with points xyz (n, 3); None if neither frame can be read."""
        halves = [
            self._half(str(row["drive_id"]), int(row["drive_frame"]), xyz),  # type: ignore[call-overload]
            self._half(str(row["other_id"]), int(row["other_frame"]), xyz),  # type: ignore[call-overload]
        ]
        known = [half for half in halves if half is not None]
        if not known:
            return None
        both = Image.new("RGB", (2 * _SIDE + 4, max(half.height for half in known)))
        for n, half in enumerate(halves):
            if half is not None:
                both.paste(half, (n * (_SIDE + 4), 0))
        data = io.BytesIO()
        both.save(data, "JPEG", quality=85)
        return data.getvalue()

    def _half(self, drive_id: str, frame: int, xyz: NDArray[np.floating]) -> Image.Image | None:
        drive, cameras = self._by_name[drive_id]
        try:
            (_, image), *_ = list(read_frames(drive.opened, [frame]))
        except PipelineError:
            return None
        if isinstance(image, str):
            return None
        place = int(cameras.places(np.array([frame]))[0])
        box = _box_of(cameras, place, xyz) if place >= 0 else None
        factor = _SIDE / image.width
        half = image.convert("RGB").resize((_SIDE, max(round(image.height * factor), 1)))
        if box is not None:
            scale = np.array([half.width, half.height] * 2) / np.tile(cameras.sizes[place], 2)
            ImageDraw.Draw(half).rectangle([float(v) for v in np.array(box) * scale], outline=_EDGE, width=2)
        return half
