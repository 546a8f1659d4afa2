"""The input of every format: an open drive, the wanted part of it, and the names of its images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.cameras.rectify import View
from pipeline.errors import DriveError
from pipeline.publish.cameras import Cameras
from pipeline.publish.results import PublishedDrive
from pipeline.publish.selection import Selection

Advance = Callable[[int, int], None]
"""Called after each piece: number of points read, and number of published points (an upper bound of the sum)."""


@dataclass(frozen=True)
class ExportSource:
    """A drive, the wanted part of it, and the listener for progress. undistorted: images are rectified to a pinhole's,
    and the cameras are those of the rectified images."""

    drive: PublishedDrive
    selection: Selection
    advance: Advance | None = None
    undistorted: bool = False
    crs: str | None = None
    """Coordinate system of LAZ, as PROJ knows it (EPSG:n); None: the UTM zone, or a relative drive's own axes."""

    @cached_property
    def cameras(self) -> Cameras:
        """The wanted frames that have a pose. Raises DriveError where there is none."""
        cameras = self.drive.cameras_of(self.selection.frames)
        if not len(cameras):
            counts = self.drive.manifest.counts
            raise DriveError(
                f"drive {self.drive.manifest.drive_id}: no frame with a pose among those asked for "
                f"(it has {counts.frames}, {counts.frames_missing} of them without a pose)"
            )
        if self.undistorted and self.drive.has_lens:
            intrinsics, sizes = cameras.intrinsics.copy(), cameras.sizes.copy()
            for place, frame in enumerate(cameras.frame_index.tolist()):
                view = self.view(frame)
                if view is not None:
                    intrinsics[place], sizes[place] = view.pinhole.intrinsics, (view.width, view.height)
            cameras = replace(cameras, intrinsics=intrinsics, sizes=sizes, lens=None, models=())
        return cameras.looking_ahead()

    def view(self, frame: int) -> View | None:
        """The pinhole view of a rectified image: as wide as the network's pictures, at the image's own size. None where
        rectified images are not wanted, or the image is a pinhole's already."""
        return self.drive.undistorted_view(frame) if self.undistorted else None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A file name for the image of each of `cameras`: the images' own names where they are all different and sort
        in drive order (trainers sort by name), else frame_000123 and so on."""
        own = [storage.parent_and_name(uri)[1] for uri in self.cameras.uris]
        usable = all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name) for name in own)
        if usable and len(set(own)) == len(own) and sorted(own) == own:
            return tuple(own)
        endings = [re.search(r"\.(jpe?g|png)$", name, re.IGNORECASE) for name in own]
        return tuple(
            f"frame_{frame:06d}{ending.group().lower() if ending else '.png'}"
            for frame, ending in zip(self.cameras.frame_index.tolist(), endings, strict=True)
        )

    def points(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The wanted points, piece by piece."""
        for table in self.drive.select(self.selection, columns):
            if self.advance is not None:
                self.advance(table.num_rows, self.drive.manifest.counts.points)
            yield table


def stacked(table: pa.Table, *names: str) -> NDArray[np.generic]:
    """Columns as an array (n, len(names))."""
    return np.stack([table[name].to_numpy() for name in names], -1)
