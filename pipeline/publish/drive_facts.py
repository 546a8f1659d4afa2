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

Json = object  # a value that the json module writes and reads; its reader checks the type


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
    """A drive's place on Earth: origin (latitude and longitude in degrees, altitude in metres); position_deviation_m
    (n, 3): standard deviations of the joined frames' positions, east, north, up."""

    @property
    def origin(self) -> tuple[float, float, float]: ...
    @property
    def position_deviation_m(self) -> NDArray[np.floating]: ...


class JointErrorsLike(Protocol):
    """Covariances (m, 7, 7) of the steps between m + 1 chunks, and cross-covariances (m, 7, 7) of each step and the
    next one; NaN where they are not known."""

    @property
    def covariance(self) -> NDArray[np.floating]: ...
    @property
    def with_next(self) -> NDArray[np.floating]: ...


class JoinLike(Protocol):
    """The joined trajectory of n <= N frames (frames left out of all chunks may be absent). If it has an attribute
    `georeference` (GeoreferenceLike) that is not None, it is in metres east, north and up. It may have `joint_errors`
    (JointErrorsLike or None), whose covariances are to be multiplied by its `variance_inflation`.

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
    """Facts about the drive's input. frame_uris: one for each frame; timestamps_ns: one for each frame, or None;
    source_*: size of the upright images in pixels; net_*: size of the network's pictures in pixels; listing: the
    input's files; picture: further facts about the frames on which the result depends (`Drive.picture`); sample: a hash
    of parts of the files, where their store has no etags; camera: what is known of it; network_camera: the pinhole of
    the network's pictures, where the camera is known. Raises DriveError for values that do not fit together.
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
    """Sentences about files of the input that are not used, and about unusual ones."""
    camera: KnownCamera | None = None
    network_camera: Camera | None = None
    positions: Mapping[str, Json] | None = None
    """The source of the drive's positions, as pipeline.georeference notes it; None without positions."""
    rig: Rig | None = None
    """The cameras whose frames alternate (`ingest.drive.Drive`); None for one camera."""

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
        """The number of cameras, which is the number of frames of one instant."""
        return 1 if self.rig is None else len(self.rig)

    def sizes(self, count: int) -> dict[str, NDArray[np.int64]]:
        """Columns width and height of the first `count` frames, which are those of their cameras."""
        sizes = np.tile(np.array([self.source_width, self.source_height], np.int64), (count, 1))
        if self.camera is not None and self.camera.rig:
            own = np.array([(one.width, one.height) for one in self.camera.rig], np.int64)
            sizes = own[np.arange(count) % len(own)]
        return {"width": sizes[:, 0], "height": sizes[:, 1]}


@dataclass(frozen=True)
class RunFacts:
    """Facts about the run that made the result.

    identity: from `drive_identity`, computed before the run; weights_sha256: hex, None where there is no file; config:
    the resolved settings; code_version: version or commit; timings: seconds by stage; quality: the verdict. config and
    quality are anything that json can write. georeference: origin and datum of a drive in metres east, north and up,
    None for a relative one; metric: what made its unit a metre; positions: columns of schema.POSITIONS without
    drive_id, None without positions; tracks, evidence: likewise for schema.TRACKS and schema.EVIDENCE, None where
    nothing was followed through the images.
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
    """Frame numbers (n,) and their place descriptors (n, D)."""
    tracks: Mapping[str, NDArray[np.generic]] | None = None
    evidence: Mapping[str, NDArray[np.generic]] | None = None
