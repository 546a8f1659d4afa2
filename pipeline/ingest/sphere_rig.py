"""Makes one drive of several views of an equirectangular camera: a rig of cameras at one place, whose rotations are
known.

Frame f of the drive is view f % C of the picture of instant f // C. The views of an instant share its picture: its
file, or its frame of a video, is named C times in a row, and `segments` decodes it once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline import storage
from pipeline.cameras.config import CameraConfig
from pipeline.cameras.rectify import SPHERE_VIEWS
from pipeline.cameras.rig import Rig
from pipeline.errors import DriveError
from pipeline.ingest.drive import Drive
from pipeline.ingest.frame_choice import FrameChoice
from pipeline.ingest.rig_drive import VIEWS, camera_folders

FRONT = "front"

_T = TypeVar("_T")


def views_drive(uri: str, used: FrameChoice, find: Callable[[FrameChoice], Drive]) -> Drive:
    """The drive of all views of equirectangular frames.

    Args:
        uri: of the drive, for messages.
        used: which instants are used, and the views (`CameraConfig.views`); all four by default.
        find: gives the drive of the frames themselves.

    Raises:
        DriveError: one view only, folders of several cameras, a camera that is not equirectangular. The errors of find.
    """
    names = view_names(used.camera)
    if camera_folders(uri, VIEWS):
        raise DriveError(
            f"{storage.redacted(uri)} holds folders of several cameras; --rig views is for the frames of one "
            "equirectangular camera: give the folder of that camera, or --rig auto for all cameras"
        )
    base = find(replace(used, camera=replace(used.camera, views=None)))
    known = base.camera
    if known is None or known.camera.model != "equirectangular":
        found = "no calibration" if known is None else f"a {known.camera.model} camera"
        raise DriveError(
            f"drive {base.drive_id}: --rig views needs the frames of an equirectangular camera, and this drive has "
            f"{found}; give --camera.file equirectangular if its frames are such, else leave out --rig"
        )
    lenses = tuple(known.camera.turned(SPHERE_VIEWS[name]) for name in names)
    return replace(
        base,
        uris=_repeated(base.uris, len(names)) if base.kind == "images" else base.uris,
        frame_count=base.frame_count * len(names),
        timestamps_ns=_each(base.timestamps_ns, len(names)),
        video_frames=_each(base.video_frames, len(names)),
        shown_ns=_each(base.shown_ns, len(names)),
        camera=replace(known, camera=lenses[0], rig=lenses),
        rig=Rig.of({name: _turned(SPHERE_VIEWS[name]) for name in names}, names[0]),
    )


def view_names(config: CameraConfig) -> tuple[str, ...]:
    """The views of a rig, the reference first: the front one if it is among them, else the one named first. Raises
    DriveError for a single view."""
    names = config.view_names or tuple(SPHERE_VIEWS)
    if len(names) < 2:
        raise DriveError(
            f"--rig views makes one drive of at least two views, and --camera.views names only {names[0]}; name more, "
            "leave out --camera.views for all four, or leave out --rig for a drive that looks one way"
        )
    return tuple(sorted(names, key=lambda name: name != FRONT))


def _turned(degrees: float) -> NDArray[np.float64]:
    """The pose (4, 4) of a view that looks so far to the right, in the axes of the front view: x right, y down."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("y", degrees, degrees=True).as_matrix().round(15) + 0.0
    return pose


def _each(values: tuple[int, ...] | None, times: int) -> tuple[int, ...] | None:
    return None if values is None else tuple(_repeated(values, times))


def _repeated(values: Sequence[_T], times: int) -> list[_T]:
    return [value for value in values for _ in range(times)]
