"""The input of publishing: facts of the drive and of the run, and protocols for the results of other stages.

Stages do not import each other. Chunks and the joined trajectory are therefore described by the attributes that
publishing reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.cameras.camera import Camera
from pipeline.cameras.known_camera import KnownCamera
from pipeline.cameras.rig import Rig
from pipeline.errors import DriveError

Json = object  # what the json module writes and reads; who reads checks it


class SimilarityLike(Protocol):
    """x -> scale * rotation @ x + translation."""

    @property
    def scale(self) -> float: ...
    @property
    def rotation(self) -> NDArray[np.floating]: ...
    @property
    def translation(self) -> NDArray[np.floating]: ...


class EdgeLike(Protocol):
    """How well the overlap of chunks `first` and `second` agreed: residual, share of inliers (0 to 1)."""

    @property
    def first(self) -> int: ...
    @property
    def second(self) -> int: ...
    @property
    def residual(self) -> float: ...
    @property
    def inliers(self) -> float: ...


class LoopLike(Protocol):
    """A candidate for a revisited place: two frame windows, and whether it was accepted."""

    @property
    def first(self) -> range: ...
    @property
    def second(self) -> range: ...
    @property
    def similarity(self) -> float | None: ...
    @property
    def residual(self) -> float | None: ...
    @property
    def accepted(self) -> bool: ...
    @property
    def reason(self) -> str | None: ...


class GeoreferenceLike(Protocol):
    """Where a drive is: origin latitude, longitude (degrees), altitude (metres); position_deviation_m (n, 3) of the
    joined frames, east, north, up."""

    @property
    def origin(self) -> tuple[float, float, float]: ...
    @property
    def position_deviation_m(self) -> NDArray[np.floating]: ...


class JoinLike(Protocol):
    """The joined trajectory of n <= N frames (frames left out of all chunks may be absent). One with an attribute
    `georeference` (GeoreferenceLike) that is not None is in metres east, north and up.

    frame_index (n,) int; world_from_camera (n, 4, 4); owner (n,) chunk number; depth_scale (n,): world units
    per unit of the owner's depth in that frame; one world_from_chunk for each chunk.
    """

    @property
    def frame_index(self) -> NDArray[np.integer]: ...
    @property
    def world_from_camera(self) -> NDArray[np.floating]: ...
    @property
    def owner(self) -> NDArray[np.integer]: ...
    @property
    def depth_scale(self) -> NDArray[np.floating]: ...
    @property
    def world_from_chunk(self) -> Sequence[SimilarityLike]: ...
    @property
    def edges(self) -> Sequence[EdgeLike]: ...
    @property
    def loops(self) -> Sequence[LoopLike]: ...


class ListedFile(Protocol):
    """A file of the input as its store lists it."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def etag(self) -> str | None: ...


@dataclass(frozen=True)
class DriveFacts:
    """What is known of the drive's input. frame_uris: one a frame; timestamps_ns: one a frame or None; source_*:
    size of the images, upright, net_*: as the network saw them, both in pixels; listing: the input's files; picture:
    further facts about the frames' look on which the result depends (`Drive.picture`); sample: of the files' content,
    where their
    store has no etags; camera: what is known of it; network_camera: then the pinhole of the network's pictures. Raises
    DriveError for values that do not fit together.
    """

    drive_id: str
    source_uri: str
    frame_uris: Sequence[str]
    timestamps_ns: Sequence[int] | None
    source_width: int
    source_height: int
    net_width: int
    net_height: int
    listing: Sequence[ListedFile]
    picture: Mapping[str, Json] = field(default_factory=dict)
    sample: str | None = None
    notes: Sequence[str] = ()
    """What lies in the input and is not used, and what is odd about it, a sentence each."""
    camera: KnownCamera | None = None
    network_camera: Camera | None = None
    positions: Mapping[str, Json] | None = None
    """Where the drive's positions are, as pipeline.georeference noted it; None without."""
    rig: Rig | None = None
    """Cameras that take turns in the frames (`ingest.drive.Drive`); None of one camera."""

    def __post_init__(self) -> None:
        storage.check_drive_id(self.drive_id)
        if not len(self.frame_uris):
            raise DriveError(f"drive {self.drive_id}: expected at least one frame to publish, got none")
        if self.timestamps_ns is not None and len(self.timestamps_ns) != len(self.frame_uris):
            raise DriveError(
                f"drive {self.drive_id}: expected a timestamp for each of {len(self.frame_uris)} frames, "
                f"got {len(self.timestamps_ns)}"
            )
        sizes = (self.source_width, self.source_height, self.net_width, self.net_height)
        if min(sizes) < 1:
            raise DriveError(f"drive {self.drive_id}: image sizes must be above zero, got {sizes}")

    @property
    def frame_count(self) -> int:
        return len(self.frame_uris)

    @property
    def camera_count(self) -> int:
        """Frames of an instant."""
        return 1 if self.rig is None else len(self.rig)


@dataclass(frozen=True)
class RunFacts:
    """What is known of the run that made the result.

    identity: of `drive_identity`, asked before the run; weights_sha256: hex, None where there is no file;
    config: the resolved settings; code_version: version or commit; timings: seconds by stage; quality: the
    verdict. config and quality are anything json can write. georeference: origin and datum of a drive in metres east,
    north and up, None of a relative one; metric: what made its unit a metre; positions: columns of schema.POSITIONS
    without drive_id, None where there were none; tracks, evidence: likewise of schema.TRACKS and schema.EVIDENCE, None
    where nothing was followed through the images.
    """

    identity: str
    weights_sha256: str | None
    config: Mapping[str, Json]
    code_version: str
    timings: Mapping[str, float] = field(default_factory=dict)
    quality: Mapping[str, Json] = field(default_factory=dict)
    georeference: Mapping[str, Json] | None = None
    metric: Mapping[str, Json] | None = None
    positions: Mapping[str, NDArray[np.generic]] | None = None
    places: tuple[NDArray[np.int64], NDArray[np.float16]] | None = None
    """Frames (n,) and their place descriptors (n, D)."""
    tracks: Mapping[str, NDArray[np.generic]] | None = None
    evidence: Mapping[str, NDArray[np.generic]] | None = None
