"""Corner tracks of a rig: those of each camera, followed from instant to instant, in a folder of their own.

Frame f of a rig of C cameras is camera f % C at instant f // C. In a camera's folder, frames are numbered by instants,
so that segments are linked as those of a drive of one camera (`track_files.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline import storage
from pipeline.cameras.rectify import View
from pipeline.refine.segment_files import PictureTracker, SegmentTracker
from pipeline.refine.stereo_files import StereoTracker
from pipeline.refine.track_files import Borders, DriveTracks, link_segments, one_by_one
from pipeline.refine.tracks import Picture, Tracks


@dataclass(frozen=True)
class RigTracker(PictureTracker):
    """Follows the corners of each camera through the instants of a segment. cameras: their number C; stereo: measures
    the motions of a stereo pair from the same pictures, if there is one; views: by which the pictures of each camera
    were rectified, where the cameras differ."""

    cameras: int
    stereo: StereoTracker | None = None
    views: tuple[View, ...] = ()

    def segment_done(self, first_frame: int, pictures: Sequence[Picture | None]) -> None:
        """Track and stage. first_frame, pictures: frames of all cameras, those of an instant side by side; None: a bad
        frame. Raises StorageError."""
        for camera in range(self.cameras):
            begin = (camera - first_frame) % self.cameras
            mine = pictures[begin :: self.cameras]
            if mine:
                folder = camera_folder(self.folder, camera)
                view = self.views[camera] if self.views else None
                SegmentTracker(folder, view).segment_done((first_frame + begin) // self.cameras, mine)
        if self.stereo is not None:
            self.stereo.segment_done(first_frame, pictures)


class RigTracks:
    """Linked tracks of all cameras of a rig. Each track is of one camera: that of track t is t % C."""

    def __init__(self, folder: str, cameras: int) -> None:
        self._of = [DriveTracks(camera_folder(folder, camera)) for camera in range(cameras)]

    def of(self, first: int, stop: int) -> Tracks:
        """All observations in frames first ... stop - 1 of the rig. Raises StorageError, and DriveError if a file is
        damaged."""
        count = len(self._of)
        parts = []
        for camera, drive in enumerate(self._of):
            rows = drive.of(-((camera - first) // count), -((camera - stop) // count))
            parts.append(Tracks(rows.track * count + camera, rows.frame * count + camera, rows.xy))
        return Tracks.sorted(
            np.concatenate([part.track for part in parts]),
            np.concatenate([part.frame for part in parts]),
            np.concatenate([part.xy for part in parts]),
        )


def link_rig(folder: str, cameras: int, run: Borders = one_by_one) -> int:
    """Link the segments of every camera. run: see `link_segments`. Returns the number of observations. Raises
    StorageError, DriveError."""
    return sum(link_segments(camera_folder(folder, camera), run) for camera in range(cameras))


def camera_folder(folder: str, camera: int) -> str:
    """The folder of one camera's tracks in the folder of the drive's tracks."""
    return storage.join(folder, f"camera-{camera}")
