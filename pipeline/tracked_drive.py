"""The corners of a drive: the pictures in which they are, the place of their tracks, the function that follows them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline import storage
from pipeline.cameras.known_camera import KnownCamera
from pipeline.cameras.rectify import View, enlarged
from pipeline.cameras.rig import Rig
from pipeline.cameras.rig_time import AT_ONCE
from pipeline.forward.staging import STAGING_FOLDER
from pipeline.publish.drive_facts import ListedFile
from pipeline.refine.grid import Grid
from pipeline.refine.rig_tracks import RigTracker
from pipeline.refine.segment_files import TRACKS_FOLDER, SegmentTracker
from pipeline.refine.stereo_files import StereoTracker
from pipeline.refine.stereo_motion import pair_of
from pipeline.refine.tracks import LEAST_LONG_SIDE, LONG_SIDE

_BYTES_A_PIXEL = 0.75  # of a tracked picture, staged without loss, with its tracks; measured on the KITTI clip: 0.72


@dataclass(frozen=True)
class Pictures:
    """Sizes (width, height) of the tracked pictures, in whose pixels the tracks are, and of the network's grid."""

    source: tuple[int, int]
    net: tuple[int, int]

    @staticmethod
    def of(source: tuple[int, int], net: tuple[int, int], known: KnownCamera | None) -> Pictures:
        """The tracked pictures are the source's frames; with a lens they are the rectified frames."""
        for large in _tracked_views(known, net):
            return Pictures((large.width, large.height), net)
        return Pictures(source, net)

    @property
    def grid(self) -> Grid:
        """The conversion between both."""
        return Grid.of(self.source, self.net)

    @property
    def tracked_scale(self) -> float:
        """Source pixels in a pixel of the picture in which corners are searched."""
        return max(max(self.source) / LONG_SIDE, 1.0)


class TrackedDrive(Protocol):
    """The facts of a drive on which tracks depend: its files, their upright size, how they are turned and rectified."""

    @property
    def drive_id(self) -> str: ...
    @property
    def listing(self) -> Sequence[ListedFile]: ...
    @property
    def source_width(self) -> int: ...
    @property
    def source_height(self) -> int: ...
    @property
    def picture(self) -> Mapping[str, object]: ...
    @property
    def camera(self) -> KnownCamera | None: ...


def tracks_uri(output: str, facts: TrackedDrive, kept: Sequence[int]) -> str:
    """The folder of a drive's staged tracks. They depend only on the frames that are used and on how these are shown.
    So all attempts share one folder, and another stride or rotation has another one."""
    digest = hashlib.sha256(np.asarray(kept, np.int64).tobytes())
    for file in facts.listing:
        digest.update(f"{file.name} {file.size} {file.etag}\n".encode(errors="surrogateescape"))
    shown = {name: value for name, value in facts.picture.items() if name != "positions"}
    look = {"picture": shown, "size": [facts.source_width, facts.source_height]}
    digest.update(json.dumps(look, sort_keys=True, default=str).encode())
    return storage.join(output, STAGING_FOLDER, facts.drive_id, f"{TRACKS_FOLDER}-{digest.hexdigest()[:12]}")


def staged_track_bytes(width: int, height: int) -> int:
    """Bytes a frame of staged tracks and pictures, about. width, height: of the source images."""
    if max(width, height) < LEAST_LONG_SIDE:
        return 0
    reduced = min(LONG_SIDE / max(width, height), 1.0)
    return round(_BYTES_A_PIXEL * reduced**2 * width * height)


def tracker_of(
    output: str, drive: TrackedDrive, rig: Rig | None, kept: Sequence[int], net: tuple[int, int]
) -> SegmentTracker | RigTracker | None:
    """The function that follows corners while the drive is decoded; None where its pictures are too small. With a rig
    it follows those of each camera, and measures motions in metres where a stereo pair is calibrated. net: size
    (width, height) of the network's pictures."""
    if max(drive.source_width, drive.source_height) < LEAST_LONG_SIDE:
        return None
    folder = tracks_uri(output, drive, kept)
    if rig is None:
        return SegmentTracker(folder)
    views = _tracked_views(drive.camera, net) if drive.camera is not None and drive.camera.rig else ()
    return RigTracker(folder, len(rig), _stereo_tracker(folder, drive.camera, rig, net), views)


def _stereo_tracker(folder: str, known: KnownCamera | None, rig: Rig, net: tuple[int, int]) -> StereoTracker | None:
    """None where the cameras are not calibrated, or none of known place takes its pictures at once with the
    reference and looks the same way."""
    if known is None or known.origin != "calibration":
        return None
    large = next((view.pinhole for view in _tracked_views(known, net)), known.camera)
    at_once = np.abs(rig.lateness) <= AT_ONCE
    pair = pair_of(np.where(at_once[:, None, None], rig.poses, np.nan), large.intrinsics)
    return None if pair is None else StereoTracker(folder, pair)


def _tracked_views(known: KnownCamera | None, net: tuple[int, int]) -> tuple[View, ...]:
    """The views of the tracked pictures, of one size and one pinhole; none where these are the source's frames."""
    return () if known is None else enlarged(known.views(*net), LONG_SIDE)
