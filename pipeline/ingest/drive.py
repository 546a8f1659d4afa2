"""A drive: its frames, times and identity, for every kind of input."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipeline import storage
from pipeline.cameras.known_camera import KnownCamera
from pipeline.cameras.orientation import UPRIGHT
from pipeline.cameras.rig import Rig
from pipeline.errors import DriveError
from pipeline.ingest import preprocess
from pipeline.ingest.video import FRAME_MARK
from pipeline.storage import Listing

NO_PICTURE = "#no-picture-of-"
"""In the name of a missing picture of a rig: it stands between the name of the reference's picture and the camera."""


@dataclass(frozen=True)
class Drive:
    """One drive: frames 0 ... frame_count-1 after stride or fps were applied.

    With a rig of C cameras frame f is camera f % C at instant f // C, and frames of an instant have one time. Views of
    one picture have its URI, or its number in the video, in common.
    """

    drive_id: str
    source_uri: str
    kind: Literal["images", "video"]
    uris: Sequence[str]  # images: one a frame, in natural order; video: its files, in order of time
    frame_count: int
    timestamps_ns: tuple[int, ...] | None  # from the data set's files, names, EXIF or the video; None: unknown
    video_frames: tuple[int, ...] | None  # numbers of the frames that are used, counted through all files of a video
    source_width: int  # of the first readable frame, upright, pixels; of cameras that differ the commonest
    source_height: int
    listing: Listing  # all files the drive is made of: its identity (names, sizes, etags)
    turn: int | None = None  # degrees to the right by which stored frames are turned; None: as the files say
    orientation: int = UPRIGHT  # EXIF orientation of the first readable frame: 1 is stored upright
    white: int = preprocess.WHITE  # the value of white in pictures of more than 8 bits
    notes: tuple[str, ...] = ()  # parts of the input that are not used, and oddities of it, one sentence each
    camera: KnownCamera | None = None  # of the upright frames; None where nothing is known
    masks: str | None = None  # hash of the user's masks; None without masks
    clips: tuple[int, ...] = (0,)  # video: the number of the first frame of each file
    beside: tuple[str, ...] | None = None  # files beside the frames that may hold positions; None: not searched
    positions: Mapping[str, object] | None = None  # the source of positions: see pipeline.georeference
    positions_identity: Mapping[str, object] | None = None  # the facts about positions on which a result depends
    shown_ns: tuple[int, ...] | None = None  # video: when each frame is shown in its own file; None: its timestamp
    rig: Rig | None = None  # the cameras that take turns in the frames; None: there is one

    def __post_init__(self) -> None:
        storage.check_drive_id(self.drive_id)
        if self.frame_count < 1:
            raise DriveError(f"drive {self.drive_id}: expected at least one frame, got {self.frame_count}")
        if len(self.uris) != (self.frame_count if self.kind == "images" else len(self.clips)):
            raise DriveError(f"drive {self.drive_id}: {len(self.uris)} files for {self.frame_count} frames")
        for values in (self.timestamps_ns, self.video_frames):
            if values is None:
                continue
            instants = values[:: self.camera_count]
            if len(values) != self.frame_count or any(b <= a for a, b in itertools.pairwise(instants)):
                raise DriveError(f"drive {self.drive_id}: expected {self.frame_count} increasing numbers")
        if self.kind == "video" and (self.timestamps_ns is None or self.video_frames is None):
            raise DriveError(f"drive {self.drive_id}: a video's frames are named by number and time")
        if self.source_width < 1 or self.source_height < 1:
            size = f"{self.source_width}x{self.source_height}"
            raise DriveError(f"drive {self.drive_id}: expected frames with pixels, got {size}")

    @property
    def picture(self) -> dict[str, object]:
        """Facts about the frames that change the result and are not settings; empty for upright frames of an unknown
        camera."""
        said: dict[str, object] = {"orientation": self.orientation} if self.orientation != UPRIGHT else {}
        if self.white != preprocess.WHITE:
            said["white"] = self.white
        if self.camera is not None:
            said["camera"] = self.camera.to_dict()
        if self.rig is not None:
            said["rig"] = self.rig.to_dict()
        if self.positions_identity is not None:
            said["positions"] = dict(self.positions_identity)
        return said if self.masks is None else {**said, "masks": self.masks}

    @property
    def camera_count(self) -> int:
        """Frames of an instant."""
        return 1 if self.rig is None else len(self.rig)

    @property
    def views_of_a_picture(self) -> int:
        """Frames that are made from one picture: more than one where a rig's cameras are views of it."""
        if self.camera_count == 1 or (self.kind == "images" and self.uris[0] != self.uris[1]):
            return 1
        return self.camera_count

    @property
    def of_reference(self) -> Drive:
        """The drive of the reference camera alone, a frame an instant; a drive without a rig itself."""
        if self.rig is None:
            return self
        step = self.camera_count

        def every(values: tuple[int, ...] | None) -> tuple[int, ...] | None:
            return None if values is None else values[::step]

        known = None if self.camera is None else self.camera.of_reference
        size = self.size_of(0)
        return replace(
            self,
            uris=self.uris[::step] if self.kind == "images" else self.uris,
            frame_count=self.frame_count // step,
            timestamps_ns=every(self.timestamps_ns),
            video_frames=every(self.video_frames),
            shown_ns=every(self.shown_ns),
            rig=None,
            camera=known,
            source_width=size[0],
            source_height=size[1],
        )

    def size_of(self, frame: int) -> tuple[int, int]:
        """Width and height of a frame: those of its camera, where a rig's cameras differ."""
        if self.camera is None or not self.camera.rig:
            return self.source_width, self.source_height
        lens = self.camera.of(frame)
        return lens.width, lens.height

    def frame_uris(self) -> list[str]:
        """URIs of all frames: their files, or the URI of the video, '#frame=' and the frame's number in it."""
        if self.video_frames is None:
            return list(self.uris)
        names = []
        for number in self.video_frames:
            clip = bisect.bisect_right(self.clips, number) - 1
            names.append(f"{self.uris[clip]}{FRAME_MARK}{number - self.clips[clip]}")
        return names

    def clip_of(self, frame: int) -> int:
        """The number of the video file that contains a frame."""
        assert self.video_frames is not None
        return bisect.bisect_right(self.clips, self.video_frames[frame]) - 1

    def shown_at(self, frame: int) -> int:
        """When a video's frame is shown in its own file, nanoseconds."""
        times = self.timestamps_ns if self.shown_ns is None else self.shown_ns
        assert times is not None
        return times[frame]
