"""The tables of one published drive: columns, types, units, and which values may be null.

The world frame is the camera of the first frame (OpenCV axes: x right, y down, z forward). Its unit of length is the
network's own ("world unit") unless positions, speeds, a known baseline or a known camera height fix it. A drive with
positions is georeferenced: its world is metres east, north and up at the origin in its manifest; the cameras' own axes
stay OpenCV's. Quaternions are w x y z. The centre of the first pixel is at (0.5, 0.5). Frame ranges are half-open.
"""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 1
"""It rises with every change that an older reader would misread; readers refuse results with a newer version."""

MADE_BY_KEY, MADE_BY = "made_by", "city-reconstruction"
"""Key and value in the footer of every table, which mark it as this program's. Older results have no such mark and are
recognised by the titles below, which therefore must not change. A file with neither is never replaced or removed."""

OK, FILLED, MISSING = "ok", "filled", "missing"
STATUSES = (OK, FILLED, MISSING)
"""Status of a pose: seen by the network | image bad or left out, so the pose is that of its neighbours | not known."""
UNKNOWN, SKY, EGO = 0, 1, 2
"""Class of a point: not known | too far or without parallax, mostly sky | a part of the car itself."""


def _field(name: str, kind: pa.DataType, meaning: str, *, unit: str = "", null: bool = False) -> pa.Field:
    metadata = {"description": meaning} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable=null, metadata=metadata)


def _pose(what: str, *, null: bool) -> list[pa.Field]:
    """Position and rotation of `what`, as seven columns."""
    position = [
        _field(axis, pa.float64(), f"{what}: translation along world {axis}", unit="world unit", null=null)
        for axis in "xyz"
    ]
    rotation = [
        _field(f"q{part}", pa.float64(), f"{what}: unit quaternion, {part}, qw >= 0", unit="1", null=null)
        for part in "wxyz"
    ]
    return position + rotation


def _schema(title: str, fields: list[pa.Field]) -> pa.Schema:
    return pa.schema(
        fields,
        metadata={
            "title": title,
            "schema_version": str(SCHEMA_VERSION),
            MADE_BY_KEY: MADE_BY,
            "world_frame": "camera of the first frame, OpenCV axes (x right, y down, z forward)",
        },
    )


POSES = _schema(
    "one row a frame, in drive order",
    [
        _field("drive_id", pa.string(), "name of the drive"),
        _field("frame_index", pa.int32(), "number of the frame in the drive, from 0"),
        _field("timestamp_ns", pa.int64(), "time of the frame; null where unknown", unit="ns", null=True),
        _field("uri", pa.string(), "where the frame came from, without credentials"),
        _field("chunk_index", pa.int32(), "chunk that owns the frame; null where missing", null=True),
        *_pose("world_from_camera", null=True),
        _field("fx", pa.float64(), "focal length in the source image", unit="px", null=True),
        _field("fy", pa.float64(), "focal length in the source image", unit="px", null=True),
        _field("cx", pa.float64(), "principal point in the source image", unit="px", null=True),
        _field("cy", pa.float64(), "principal point in the source image", unit="px", null=True),
        _field("width", pa.int32(), "width of the source image", unit="px"),
        _field("height", pa.int32(), "height of the source image", unit="px"),
        _field(
            "confidence",
            pa.float32(),
            "median confidence of the depth, >= 1; null unless status is ok",
            unit="1",
            null=True,
        ),
        _field("status", pa.string(), "ok | filled (pose from neighbouring frames) | missing (pose is null)"),
    ],
)

POINTS = _schema(
    "one row a point, along a Morton curve within each file",
    [
        _field("x", pa.float32(), "position in the world frame", unit="world unit"),
        _field("y", pa.float32(), "position in the world frame", unit="world unit"),
        _field("z", pa.float32(), "position in the world frame", unit="world unit"),
        _field("r", pa.uint8(), "red, sRGB", unit="1/255"),
        _field("g", pa.uint8(), "green, sRGB", unit="1/255"),
        _field("b", pa.uint8(), "blue, sRGB", unit="1/255"),
        _field("confidence", pa.float32(), "confidence of the depth, >= 1 (1 + exp of the network's output)", unit="1"),
        _field("frame_index", pa.int32(), "frame in which the point was seen"),
        _field("chunk_index", pa.int32(), "chunk that owns that frame"),
        _field("class", pa.uint8(), "0 unknown | 1 sky: beyond publish.far or without parallax | 2 the car itself"),
    ],
)
ADDED: dict[str, dict[str, int | None]] = {
    "points": {"class": UNKNOWN},
    "chunks": {"step_covariance": None, "step_with_next": None},
}
"""Columns that older results of this schema version lack, and the values that readers use instead."""

CHUNKS = _schema(
    "one row a chunk, in drive order",
    [
        _field("drive_id", pa.string(), "name of the drive"),
        _field("chunk_index", pa.int32(), "number of the chunk in the drive, from 0"),
        _field("frame_start", pa.int32(), "first frame seen by the chunk"),
        _field("frame_stop", pa.int32(), "one past the last frame seen by the chunk"),
        _field("frames", pa.int32(), "frames seen by the chunk"),
        _field("frames_owned", pa.int32(), "frames whose pose and points come from this chunk"),
        _field("scale", pa.float64(), "world_from_chunk: world units per chunk unit", unit="1"),
        *_pose("world_from_chunk", null=False),
        _field(
            "overlap_residual",
            pa.float64(),
            "residual of the overlap with the chunk before; null for the first chunk",
            null=True,
        ),
        _field("overlap_inliers", pa.float64(), "share of agreeing overlap points, 0 to 1", unit="1", null=True),
        _field(
            "noise", pa.float64(), "errors of its overlaps, relative to the drive's median overlap", unit="1", null=True
        ),
        _field(
            "depth_disagreement",
            pa.float64(),
            "disagreement of the depths of two chunks in shared frames, rms of the logarithm; null where unknown",
            unit="1",
            null=True,
        ),
        _field(
            "scale_jump",
            pa.float64(),
            "logarithm of its scale over the median scale of its neighbours",
            unit="1",
            null=True,
        ),
        _field(
            "verdict", pa.string(), "pass | warn | fail: the worst finding about it; null where not judged", null=True
        ),
        _field("points", pa.int64(), "published points of the chunk"),
        _field(
            "step_covariance",
            pa.list_(pa.field("element", pa.float64())),
            "covariance (7 x 7) of the step from the chunk before, without loops and positions: rotation (rad, this "
            "chunk's axes), translation (axes and units of the chunk before), log scale; null where unknown",
            null=True,
        ),
        _field(
            "step_with_next",
            pa.list_(pa.field("element", pa.float64())),
            "cross-covariance (7 x 7) of this step (rows) and the next one (columns); null where unknown",
            null=True,
        ),
    ],
)

LOOPS = _schema(
    "one row a candidate for a revisited place; none where loops are off",
    [
        _field("drive_id", pa.string(), "name of the drive"),
        _field("loop_index", pa.int32(), "number of the candidate, from 0"),
        _field("first_start", pa.int32(), "first frame of the earlier window"),
        _field("first_stop", pa.int32(), "one past the last frame of the earlier window"),
        _field("second_start", pa.int32(), "first frame of the later window"),
        _field("second_stop", pa.int32(), "one past the last frame of the later window"),
        _field("similarity", pa.float64(), "cosine of the place descriptors; null where unknown", unit="1", null=True),
        _field("residual", pa.float64(), "residual of the loop's alignment; null where unknown", null=True),
        _field("accepted", pa.bool_(), "whether the loop was used to correct the trajectory"),
        _field("reason", pa.string(), "why the loop was rejected; null where accepted", null=True),
    ],
)

CAMERAS = _schema(
    "one row a camera: the lens that the frames were taken through",
    [
        _field("drive_id", pa.string(), "name of the drive"),
        _field("camera_index", pa.int32(), "number of the camera, from 0"),
        _field("model", pa.string(), "pinhole | radtan | fisheye | eucm | equirectangular"),
        _field("width", pa.int32(), "width of the source image, upright", unit="px"),
        _field("height", pa.int32(), "height of the source image, upright", unit="px"),
        _field("fx", pa.float64(), "focal length; for equirectangular pixels per radian", unit="px", null=True),
        _field("fy", pa.float64(), "focal length; for equirectangular pixels per radian", unit="px", null=True),
        _field("cx", pa.float64(), "principal point", unit="px", null=True),
        _field("cy", pa.float64(), "principal point", unit="px", null=True),
        _field(
            "params", pa.list_(pa.float64()), "radtan: k1 k2 p1 p2 (k3 (k4 k5 k6)); fisheye: k1 to k4; eucm: alpha beta"
        ),
        _field("origin", pa.string(), "source of these numbers: calibration | exif | estimated"),
        _field(
            "mask",
            pa.binary(),
            "PNG of the size of the network's picture, black where --masks leaves pixels out; null: no mask",
            null=True,
        ),
        _field("view_width", pa.int32(), "width of the picture that the network saw", unit="px"),
        _field("view_height", pa.int32(), "height of the picture that the network saw", unit="px"),
        _field("view_fx", pa.float64(), "focal length of that pinhole picture", unit="px", null=True),
        _field("view_fy", pa.float64(), "focal length of that pinhole picture", unit="px", null=True),
        _field("view_cx", pa.float64(), "principal point of that pinhole picture", unit="px", null=True),
        _field("view_cy", pa.float64(), "principal point of that pinhole picture", unit="px", null=True),
    ],
)

POSES_ON_EARTH = pa.schema(
    [
        *POSES,
        _field("latitude", pa.float64(), "of the camera, WGS 84", unit="deg", null=True),
        _field("longitude", pa.float64(), "of the camera, WGS 84", unit="deg", null=True),
        _field("altitude", pa.float64(), "of the camera, above the datum in the manifest", unit="m", null=True),
        _field("deviation_east", pa.float64(), "standard deviation of the position, eastwards", unit="m", null=True),
        _field("deviation_north", pa.float64(), "standard deviation of the position, northwards", unit="m", null=True),
        _field("deviation_up", pa.float64(), "standard deviation of the position, upwards", unit="m", null=True),
    ],
    metadata=POSES.metadata,
)
"""poses.parquet of a georeferenced drive."""

CAMERA = _field(
    "camera",
    pa.string(),
    "name of the camera that took the frame; frames of an instant are neighbours and have its timestamp_ns, but each "
    "has the pose at the time of its own picture, late_s (quality.rig in the manifest) after the instant",
)
"""A further column of poses.parquet, of drives with several cameras."""

POSITIONS = _schema(
    "one row a fix, as it was written; none where the drive had no positions",
    [
        _field("drive_id", pa.string(), "name of the drive"),
        _field("fix_index", pa.int32(), "number of the fix in its source, from 0"),
        _field(
            "time_s", pa.float64(), "time since the drive's first frame, by uncorrected clocks", unit="s", null=True
        ),
        _field("latitude", pa.float64(), "WGS 84; null where the fix has no position", unit="deg", null=True),
        _field("longitude", pa.float64(), "WGS 84; null where the fix has no position", unit="deg", null=True),
        _field("altitude", pa.float64(), "above the datum in the manifest; null where unknown", unit="m", null=True),
        _field(
            "accuracy", pa.float64(), "horizontal standard deviation as the receiver states it", unit="m", null=True
        ),
        _field("used", pa.bool_(), "whether the fix agrees with the trajectory and was used"),
        _field(
            "east", pa.float64(), "position in the world; null if the drive is not georeferenced", unit="m", null=True
        ),
        _field(
            "north", pa.float64(), "position in the world; null if the drive is not georeferenced", unit="m", null=True
        ),
        _field(
            "up", pa.float64(), "position in the world; null if the drive is not georeferenced", unit="m", null=True
        ),
        _field(
            "residual_east",
            pa.float64(),
            "fix minus estimated antenna; null outside the drive's time",
            unit="m",
            null=True,
        ),
        _field(
            "residual_north",
            pa.float64(),
            "fix minus estimated antenna; null outside the drive's time",
            unit="m",
            null=True,
        ),
        _field(
            "residual_up",
            pa.float64(),
            "fix minus estimated antenna; null outside the drive's time",
            unit="m",
            null=True,
        ),
    ],
)

PLACES = _schema(
    "one row a frame in ten: what the place looks like, to find it in other drives; none where loops are off",
    [
        _field("drive_id", pa.string(), "name of the drive"),
        _field("place_index", pa.int32(), "number of the row, from 0"),
        _field("frame_index", pa.int32(), "frame whose place is described; rising"),
        _field(
            "descriptor",
            pa.list_(pa.float16()),
            "pooled tokens of the encoder, not whitened; the same length in every row",
        ),
    ],
)

TRACKS = _schema(
    "one row an observation of a corner that was followed through three frames at least, by point, then frame",
    [
        _field("drive_id", pa.string(), "name of the drive"),
        _field("observation_index", pa.int32(), "number of the observation in the drive, from 0"),
        _field("point_index", pa.int32(), "number of the point in the drive, from 0"),
        _field("x", pa.float64(), "position of the point in the world frame", unit="world unit"),
        _field("y", pa.float64(), "position of the point in the world frame", unit="world unit"),
        _field("z", pa.float64(), "position of the point in the world frame", unit="world unit"),
        _field("frame_index", pa.int32(), "frame in which it is seen"),
        _field("u", pa.float64(), "x / z of its ray in the camera; for a pinhole (px - cx) / fx", unit="1"),
        _field("v", pa.float64(), "y / z of its ray in the camera; for a pinhole (py - cy) / fy", unit="1"),
    ],
)

EVIDENCE = _schema(
    "one row a pair of frames: what tracks held back from adjustment say of its cameras",
    [
        _field("drive_id", pa.string(), "name of the drive"),
        _field("evidence_index", pa.int32(), "number of the pair in the drive, from 0"),
        _field("frame_index", pa.int32(), "first frame of the pair"),
        _field("second_frame_index", pa.int32(), "second frame of the pair"),
        _field("tracks", pa.int32(), "tracks in both frames that were not used for the adjustment"),
        _field("flow", pa.float64(), "median motion of the tracks between the two frames", unit="px"),
        _field(
            "distance",
            pa.float64(),
            "median Sampson distance of the tracks; null where not judged",
            unit="px",
            null=True,
        ),
        _field("share", pa.float64(), "share of the tracks within 1.5 px of their epipolar line", unit="1", null=True),
        _field(
            "depth",
            pa.float64(),
            "median logarithm of triangulated over dense depth; null where unknown",
            unit="1",
            null=True,
        ),
        _field("spread", pa.float64(), "robust deviation of that logarithm; null where unknown", unit="1", null=True),
        _field("judged", pa.bool_(), "whether there are enough tracks and motion for a judgement"),
    ],
)


def on_earth(kind: pa.Schema) -> pa.Schema:
    """The schema of a table of a georeferenced drive: the same columns with another description of the world."""
    world = "metres east, north, up at the origin of the manifest's georeference"
    fields = []
    for field in kind:
        said = dict(field.metadata or {})
        if said.get(b"unit") == b"world unit":
            said[b"unit"] = b"m"
        fields.append(field.with_metadata(said))
    return pa.schema(fields, metadata={**(kind.metadata or {}), b"world_frame": world.encode()})


TABLES: dict[str, pa.Schema] = {
    "poses": POSES,
    "points": POINTS,
    "chunks": CHUNKS,
    "loops": LOOPS,
    "cameras": CAMERAS,
    "positions": POSITIONS,
    "places": PLACES,
    "tracks": TRACKS,
    "evidence": EVIDENCE,
}
