"""Metric motions of a rig in the drive's staging folder: one file for each decoded segment.

The task of a segment has no picture of the next segment. So the file also holds the pictures at the segment's borders.
With these `read_motions` measures the motions from one segment to the next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import DriveError
from pipeline.refine.segment_files import PictureTracker, read_table, staged_names, write_table
from pipeline.refine.stereo_motion import StereoPair, motion
from pipeline.refine.tracks import Picture

_PREFIX = "stereo-"
_SEGMENT = b"segment"  # key of the metadata that describe the pair and the pictures


@dataclass(frozen=True)
class StereoTracker(PictureTracker):
    """Measures the motions of a rig between consecutive instants of a segment. pair: the two cameras that it uses."""

    pair: StereoPair

    def segment_done(self, first_frame: int, pictures: Sequence[Picture | None]) -> None:
        """Measure the motions between the segment's instants and stage them. first_frame, pictures: frames of all
        cameras, those of an instant side by side; None: a bad frame. Raises StorageError."""
        cv2.setNumThreads(1)  # decoding already runs in one process a core
        count = self.pair.count
        seen = {first_frame + place: picture for place, picture in enumerate(pictures)}
        instants, motions = [], []
        for instant in range(first_frame // count, (first_frame + len(pictures)) // count):
            here, beside = seen.get(instant * count), seen.get(instant * count + self.pair.second)
            then = seen.get((instant + 1) * count)
            if here is None or beside is None or then is None:
                continue
            found = motion(here, beside, then, self.pair)
            if found is not None:
                instants.append(instant)
                motions.append(found[:3].ravel())
        table = pa.table(
            {
                "instant": pa.array(instants, pa.int64()),
                "first_from_next": pa.array([one.tolist() for one in motions], pa.list_(pa.float64(), 12)),
            }
        )
        stop = first_frame + len(pictures)
        borders = {(first_frame + place) // count + more for place, more in ((0, 0), (0, 1), (len(pictures) - 1, 0))}
        frames = sorted({instant * count + camera for instant in borders for camera in (0, self.pair.second)})
        table = table.replace_schema_metadata(_metadata(self.pair, {frame: seen.get(frame) for frame in frames}))
        write_table(storage.join(self.folder, f"{_PREFIX}{first_frame:07d}-{stop:07d}.arrow"), table)


def read_motions(folder: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read the staged motions of a rig.

    Returns instants (m,), in rising order, counted among the kept instants; and motions (m, 4, 4) in metres:
    this_from_next of the reference camera, from each of these instants to the next. Raises StorageError, and DriveError
    if a file is damaged.
    """
    found: dict[int, NDArray[np.float64]] = {}
    before: dict[int, Picture] = {}
    for name in staged_names(folder, _PREFIX):
        uri = storage.join(folder, name)
        table = read_table(uri)
        try:
            for instant, values in zip(table["instant"].to_pylist(), table["first_from_next"].to_pylist(), strict=True):
                pose = np.eye(4)
                pose[:3] = np.reshape(values, (3, 4))
                if not np.isfinite(pose).all():
                    raise ValueError("a motion is not finite")
                found[int(instant)] = pose
            before = _over_border(before, table, found)
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise DriveError(f"{uri} holds no motions ({error}); run the drive again") from error
    instants = sorted(found)
    return np.array(instants, np.int64), np.array([found[one] for one in instants]).reshape(-1, 4, 4)


def _over_border(
    before: Mapping[int, Picture], table: pa.Table, found: dict[int, NDArray[np.float64]]
) -> dict[int, Picture]:
    """Add to `found` the motions whose pictures are in two segments. before: pictures at the borders of the segment
    before, by frame. Returns those of the segment in `table`; none if an older version staged it. Raises KeyError,
    TypeError, ValueError for damaged metadata."""
    metadata = table.schema.metadata or {}
    if _SEGMENT not in metadata:
        return {}
    facts = json.loads(metadata[_SEGMENT])
    camera, pose = tuple(map(float, facts["camera"])), np.asarray(facts["second_from_first"], np.float64)
    if len(camera) != 4 or pose.shape != (4, 4) or not np.isfinite([*camera, *pose.ravel()]).all():
        raise ValueError("expected the camera and the pose of a pair")
    pair = StereoPair(int(facts["count"]), int(facts["second"]), camera, tuple(tuple(row) for row in pose.tolist()))
    if not 0 < pair.second < pair.count:
        raise ValueError("expected the number of a second camera of the rig")
    own: dict[int, Picture] = {}
    for look in facts["pictures"]:
        frame, (x, y) = int(look["frame"]), map(float, look["scale"])
        height, width = look["shape"]
        pixels = np.frombuffer(metadata[str(frame).encode()], np.uint8).reshape(height, width)
        own[frame] = Picture(pixels, (x, y))
    for instant in sorted({frame // pair.count for frame in before}):
        frames = {instant * pair.count, instant * pair.count + pair.second, (instant + 1) * pair.count}
        if instant in found or not frames <= before.keys() | own.keys() or frames <= before.keys():
            continue
        here, beside, then = (own.get(frame) or before[frame] for frame in sorted(frames))
        step = motion(here, beside, then, pair)
        if step is not None:
            found[instant] = step
    return own


def _metadata(pair: StereoPair, pictures: Mapping[int, Picture | None]) -> dict[bytes, bytes]:
    """The pair and pictures by frame, for the file of a segment."""
    kept = {frame: one for frame, one in pictures.items() if one is not None}
    looks = [{"frame": frame, "shape": one.pixels.shape, "scale": one.scale} for frame, one in kept.items()]
    facts = {**asdict(pair), "pictures": looks}
    return {_SEGMENT: json.dumps(facts).encode(), **{str(f).encode(): one.pixels.tobytes() for f, one in kept.items()}}
