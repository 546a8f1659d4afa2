"""Metric motions of a rig in the drive's staging folder: one file for each decoded segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import DriveError
from pipeline.refine.stereo_motion import StereoPair, motion
from pipeline.refine.track_files import PictureTracker, read_table, staged_names, write_table
from pipeline.refine.tracks import Picture

_PREFIX = "stereo-"


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
        write_table(storage.join(self.folder, f"{_PREFIX}{first_frame:07d}-{stop:07d}.arrow"), table)


def read_motions(folder: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read the staged motions of a rig.

    Returns instants (m,), in rising order, counted among the kept instants; and motions (m, 4, 4) in metres:
    this_from_next of the reference camera, from each of these instants to the next. Raises StorageError, and DriveError
    if a file is damaged.
    """
    found: dict[int, NDArray[np.float64]] = {}
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
        except (KeyError, TypeError, ValueError) as error:
            raise DriveError(f"{uri} holds no motions ({error}); run the drive again") from error
    instants = sorted(found)
    return np.array(instants, np.int64), np.array([found[one] for one in instants]).reshape(-1, 4, 4)
